"""Every verb of a real run reads an id as training did: the same verdict from all, at the start."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.checkpoint import durable_io, store
from dist_mtl.checkpoint.format import NAME
from dist_mtl.config.file import parse
from dist_mtl.data.column_class import RawColumn
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import CheckpointError
from tests.support import samples
from tests.support.harness import Cluster, RankFailure
from tests.support.score_workers import verdicts, whole
from tests.support.workers import error_of_train

VERBS = ("evaluate", "predict", "recalibrate", "compare")


def variant(folder: Path, **columns: pa.DataType | range) -> str:
    """Other rows of the same logs, with columns of other types or values."""
    table = samples.logs(300, seed=1)
    for name, column in columns.items():
        values = table[name].cast(column) if isinstance(column, pa.DataType) else pa.array(column)
        table = table.set_column(table.column_names.index(name), name, values)
    write_dataset(folder, [table])
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 600)
    Cluster(1).run(whole, samples.config(folder, f"run.dir='{folder / 'run'}'"))
    return folder


def test_every_verb_refuses_another_class(folder: Path) -> None:
    same = variant(folder / "same")
    narrow = variant(folder / "narrow", item=pa.int16(), tag=pa.large_string(), history=pa.list_(pa.uint8()))
    others = {
        variant(folder / "user", user=pa.string()): ("user", "text (string)", "whole number (int64)"),
        variant(folder / "tag", tag=pa.binary()): None,  # bytes are text
        variant(folder / "number", tag=range(300)): ("tag", "whole number (int64)", "text (string)"),
    }
    [told] = Cluster(1).run(verdicts, str(folder / "run"), [same, narrow, *others], str(folder / "out"))
    assert [verb for verb, data, error in told if data == same] == list(VERBS)
    for verb, data, error in told:
        if (named := others.get(data)) is None:
            assert not error, (verb, data, error)
        else:
            assert error.startswith("DataError") and all(name in error for name in named), (verb, error)


@pytest.mark.parametrize("which", ["data.test", "data.validation"])
def test_training_refuses_it_before_step_1(folder: Path, which: str) -> None:
    data = variant(folder / which, user=pa.string())
    test = variant(folder / f"{which}-test")
    one = samples.config(
        folder, f"run.dir='{folder / 'none'}'", f"data.test='{test}'", f"{which}='{data}'", "train.evaluate_every=2"
    )
    with pytest.raises(RankFailure, match="DataError.*column `user` is text"):
        Cluster(1).run(whole, one)
    assert store.latest(folder / "none") is None


def test_the_checkpoint_keeps_the_columns(folder: Path) -> None:
    kept = store.columns_of_run(folder / "run")
    assert list(kept) == samples.logs(1).column_names
    assert kept["user"] == RawColumn("whole number", "int64") and kept["tag"].kind == "text"
    told = json.loads((store.latest(folder / "run") / NAME).read_text())
    assert told["columns"]["user"] == {"kind": "whole number", "type": "int64"}


def test_an_older_checkpoint_is_read_and_compares_nothing(folder: Path) -> None:
    shutil.copytree(folder / "run", folder / "older")
    step = store.latest(folder / "older")
    told = json.loads((step / NAME).read_text())
    del told["columns"]
    (step / NAME).unlink()
    stored = durable_io.write_text(step / NAME, json.dumps(told))
    sums = durable_io.read_sums(step) | {NAME: stored.checksum}
    (step / durable_io.SUMS).write_text(durable_io.sums_text(sums))
    text = variant(folder / "text", user=pa.string())
    [found] = Cluster(1).run(verdicts, str(folder / "older"), [text], str(folder / "scores"))
    assert found[0][0] == "evaluate" and not found[0][2]
    with pytest.raises(CheckpointError, match="made by an earlier version"):
        store.columns_of_run(folder / "older")


def test_a_run_does_not_go_on_where_a_partition_became_text(tmp_path: Path) -> None:
    """hour=2 and hour=late in one folder are text, hour=2 alone is a whole number, and no file has changed."""
    tree = samples.tree(tmp_path)
    tree["features"] |= {"hour": {"kind": "id", "table": "tag"}}
    for hour in ("2", "late"):
        (tmp_path / "train" / f"hour={hour}").mkdir(parents=True)
        pq.write_table(samples.logs(200), tmp_path / "train" / f"hour={hour}" / "x.parquet")
        manifest.write(tmp_path / "train", manifest.build(tmp_path / "train"))
        one = parse(tree, ["data.partitions.hour=['2', '2']", "data.verify='footer'"])
        [error] = Cluster(1).run(error_of_train, one)
    assert error[2] == 65 and "column `hour` is text (string), but it was whole number (int64)" in error[1]
