"""Where the towers begin: at how often their label is set on their space, whoever counts which rows."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.config.file import load
from dist_mtl.data.base_rates import count_labels, rates_of
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import partitioned
from dist_mtl.data.synthetic.logs import write_sample
from dist_mtl.errors import DataError
from dist_mtl.model.mtl import MultiTaskModel, begin_at
from dist_mtl.scoring.score import read
from tests.support import samples

ROWS = 1_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", ROWS, group_rows=70)
    return folder


def rates(config: Config, is_conditional: bool, parts: int = 1) -> list[float]:
    """What `parts` readers count."""
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    return rates_of(sum(count_labels(dataset, is_conditional, part, parts) for part in range(parts)))


def write(folder: Path, table: pa.Table) -> Config:
    write_dataset(folder / "train", [table], file_rows=table.num_rows, row_group_rows=50)
    return samples.config(folder)


def labelled(table: pa.Table, **columns: np.ndarray) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values.astype(np.int8)))
    return table


def test_each_rate_is_of_its_own_space_for_any_number_of_readers(folder: Path) -> None:
    rows = samples.rows_of(folder / "train")
    click, conversion = (rows.column(name).to_numpy() for name in ("click", "conversion"))
    config = samples.config(folder)
    for parts in (1, 2, 4, 40):
        np.testing.assert_allclose(rates(config, False, parts), [click.mean(), conversion.mean()], rtol=1e-12)
        np.testing.assert_allclose(rates(config, True, parts), [click.mean(), conversion[click > 0].mean()], rtol=1e-12)
        assert rates(config, True, parts) == rates(config, True)


def test_rows_count_by_their_weight(folder: Path) -> None:
    rows = samples.rows_of(folder / "train")
    click, conversion, weight = (rows.column(name).to_numpy() for name in ("click", "conversion", "importance"))
    wanted = [np.average(click, weights=weight), np.average(conversion, weights=weight * click)]
    np.testing.assert_allclose(rates(samples.config(folder, "data.weight=importance"), True), wanted, rtol=1e-12)


def test_rows_that_break_the_funnel_are_in_none(tmp_path: Path) -> None:
    table = samples.logs(300)
    click = table.column("click").to_numpy()
    config = write(tmp_path, labelled(table, conversion=np.arange(300) % 2))
    kept = (click > 0) | (np.arange(300) % 2 == 0)
    with pytest.raises(DataError, match=r"row 1\b.*`conversion` is 1 where `click` is 0"):
        rates(config, True)
    dropping = samples.config(tmp_path, "data.violations=drop")
    np.testing.assert_allclose(rates(dropping, False), [click[kept].mean(), (np.arange(300) % 2)[kept].mean()])


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_alone_is_half_a_row_away_from_certainty(tmp_path: Path, value: int) -> None:
    always = np.full(200, value)
    config = write(tmp_path, labelled(samples.logs(200), click=always, conversion=always))
    edge = 0.5 / 201
    click = 1 - edge if value else edge
    assert rates(config, False) == pytest.approx([click, click])
    assert rates(config, True) == pytest.approx([click, click if value else 0.5])  # no click: nothing is known


def test_a_stream_counts_its_first_day_and_a_damaged_row_group_is_passed_over(folder: Path, tmp_path: Path) -> None:
    config = samples.config(folder)
    whole = Dataset.open(config.data.train, config, shuffle=True)
    days = partitioned(whole.order, [1, 1, 1] + [2] * (len(whole.blocks) - 3))
    stream = replace(whole, order=days)
    assert int(count_labels(stream, False, 0, 1)[0, 0]) == 210

    shutil.copytree(folder / "train", tmp_path / "train")
    [path, *_] = sorted((tmp_path / "train").glob("*.parquet"))
    footer = pq.ParquetFile(path).metadata
    names = [footer.schema.column(i).path for i in range(footer.num_columns)]
    content = bytearray(path.read_bytes())
    content[footer.row_group(1).column(names.index("click")).data_page_offset + 30] ^= 1
    path.write_bytes(content)
    tolerant = samples.config(tmp_path, "data.quarantine=1", "data.verify=footer")
    assert int(count_labels(Dataset.open(tolerant.data.train, tolerant, True), False, 0, 1)[0, 0]) == ROWS - 70
    with pytest.raises(DataError, match="row group 1: damaged"):
        rates(samples.config(tmp_path), False)


BACKBONES = ("mmoe", "omoe", "ple", "aitm", "single_task", "shared_bottom")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_tower_begins_at_its_rate(folder: Path, backbone: str) -> None:
    config = samples.config(folder, f"model.backbone={{kind='{backbone}'}}", "model.counterfactual={kind='dr'}")
    model = MultiTaskModel(config, torch.device("cpu"))
    begin_at(model, [0.01, 0.2])
    biases = [tower.logit.bias.detach().sigmoid().item() for tower in (*model.towers, *model.imputation)]
    assert biases == pytest.approx([0.01, 0.2, 0.2])
    begin_at(MultiTaskModel(config, torch.device("cpu"), scoring=True), [0.01, 0.2])  # without an imputation


@pytest.mark.parametrize("head", ["esmm", "ctcvr", "clicked"])
def test_the_first_predictions_are_right_on_average(head: str, tmp_path: Path) -> None:
    """On sample logs of a CTR of 5 % and a CVR of 10 %. Without it a head predicts 1/2: 10 and 5 times too much."""
    sample = {"train_rows": 20_000, "test_rows": 100, "num_users": 500, "num_items": 200}
    overrides = (*(f"data.sample.{name}={value}" for name, value in sample.items()), f"model.head={head}")
    places = [f"data.{name}='{tmp_path / name}'" for name in ("train", "test")]
    config = load("configs/quickstart.toml", [f"run.dir='{tmp_path}'", *places, *overrides])
    write_sample(config.data.sample, config.data.train, config.data.test)
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    model = MultiTaskModel(config, torch.device("cpu")).eval()
    pcoc = []
    for begun in (False, True):
        if begun:
            begin_at(model, rates(config, head != "ctcvr"))
        sums = torch.zeros(2, 3)
        with torch.no_grad():
            for batch in dataset.batches(0, 1):
                readings = read(model(batch).logits_BT, batch.labels_BT, batch.weight_B, head)
                sums[0] += (readings.logits_BM.sigmoid() * readings.weights_BM).sum(0)
                sums[1] += (readings.labels_BM * readings.weights_BM).sum(0)
        pcoc.append(sums[0] / sums[1])
    assert (pcoc[0] > 3).all()
    assert ((pcoc[1] > 0.8) & (pcoc[1] < 1.25)).all(), pcoc[1]
