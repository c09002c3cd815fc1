"""Datasets and predictions are folders that other engines read as they stand."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.config import SampleLogs
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import Files
from dist_mtl.data.synthetic.bulk import Order, make_logs
from dist_mtl.data.synthetic.logs import write_sample
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.scoring.predict import ABOUT as PREDICTIONS
from dist_mtl.scoring.predict import Predictions, _publish, read_about
from tests.support import samples

SPEC = SampleLogs(train_rows=600, test_rows=300)
DAILY = SPEC.model_copy(update={"rows_per_day": 200})
ABOUT = Predictions("run", 7, "data", "d", 40, ("ctr",), ("click",), None, ("row",), False, "f", 1)
ENGINES = {
    "pandas": lambda folder: pa.Table.from_pandas(pd.read_parquet(folder)),
    "pyarrow.dataset": lambda folder: ds.dataset(folder, partitioning="hive").to_table(),
    "pyarrow.dataset, plain": lambda folder: ds.dataset(folder).to_table(),
    "read_table": pq.read_table,
}


def written(folder: Path) -> None:
    samples.write_logs(folder, 40)


def sampled(folder: Path) -> None:
    write_sample(SPEC, folder, folder.parent / "test")


def by_day(folder: Path) -> None:
    make_logs(Order(DAILY, "train", 600, by_day=True), folder)


def listed(folder: Path) -> None:
    for day in ("2024-01-01", "2024-01-02"):
        (folder / f"day={day}").mkdir(parents=True)
        pq.write_table(samples.logs(20), folder / f"day={day}" / "x.parquet")
    (folder / "_SUCCESS").touch()
    list_folder(str(folder))


def predicted(folder: Path) -> None:
    staged = folder.parent / "staged"
    staged.mkdir()
    files = Files(staged, "part-00000")
    files.add(samples.logs(40))
    _publish(staged, folder, [manifest.joined(staged, files.close())], ABOUT)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [written, sampled, by_day, listed, predicted])
def test_other_engines_read_what_we_write(tmp_path: Path, make: Callable[[Path], None], engine: str) -> None:
    folder = tmp_path / "train"
    make(folder)
    table, ours = ENGINES[engine](str(folder)), manifest.read(folder)
    assert table.num_rows == ours.num_rows
    wanted = ours.schema if engine == "pyarrow.dataset, plain" else ours.columns
    assert table.column_names == list(wanted)
    assert [path.name for path in folder.glob("*") if not path.name.startswith(("_", "part-", "day="))] == []


OLD = {
    manifest.NAME: (written, manifest.read),
    PREDICTIONS: (predicted, read_about),
    "_sample.json": (sampled, lambda folder: write_sample(SPEC, folder, None)),
}


@pytest.mark.parametrize("name", OLD)
def test_the_old_names_are_read(tmp_path: Path, name: str) -> None:
    """And where both are there, the new one counts."""
    make, read = OLD[name]
    make(folder := tmp_path / "train")
    before = read(folder)
    (folder / name).rename(folder / name[1:])
    assert read(folder) == before
    (folder / name).write_text("[]")
    with pytest.raises(DataError, match=f"/{name}: "):
        read(folder)


def test_logs_of_another_sample_are_refused_under_the_old_name(tmp_path: Path) -> None:
    sampled(folder := tmp_path / "train")
    (folder / "_sample.json").rename(folder / "sample.json")
    with pytest.raises(DataError, match="was made by another data.sample"):
        write_sample(SPEC.model_copy(update={"seed": 3}), folder, None)


@pytest.mark.parametrize("append", [False, True])
def test_listing_again_leaves_the_new_name_only(tmp_path: Path, append: bool) -> None:
    written(folder := tmp_path / "train")
    before = manifest.read(folder)
    (folder / manifest.NAME).rename(folder / "manifest.json")
    again, _ = list_folder(str(folder), append)
    assert again == before == manifest.read(folder) and not (folder / "manifest.json").exists()
    assert pq.read_table(folder).num_rows == 40


def test_a_file_of_another_kind_under_the_old_name_stays(tmp_path: Path) -> None:
    """dbt and others write a manifest.json of their own."""
    written(folder := tmp_path / "train")
    (folder / "manifest.json").write_text(json.dumps({"metadata": {"dbt_version": "1.9"}}))
    list_folder(str(folder))
    assert json.loads((folder / "manifest.json").read_text())["metadata"] and manifest.read(folder).num_rows == 40


def test_the_manifest_is_not_written_through_a_link(tmp_path: Path) -> None:
    written(folder := tmp_path / "train")
    (tmp_path / "precious").write_text("mine")
    (folder / f"{manifest.NAME}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="a link that leads out"):
        list_folder(str(folder))
    assert (tmp_path / "precious").read_text() == "mine"
