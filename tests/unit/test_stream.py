"""A dataset as a stream of partitions: their order, what they refuse, what a commit keeps of them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import train_state  # its class `Tested` would look like one of tests
from dist_mtl.config import StreamConfig
from dist_mtl.data import order
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Order
from dist_mtl.data.stream import files_of, streamed
from dist_mtl.errors import CheckpointError, DataError
from tests.support import samples

BY_DAY = StreamConfig(by="day")


def listed(folder: Path, days: list[str], rows: int = 60) -> manifest.Manifest:
    """One file of `rows` rows in each of these folders."""
    for seed, day in enumerate(days):
        write_dataset(folder / day, [samples.logs(rows, seed)], row_group_rows=25)
    manifest.write(folder, manifest.build(folder))
    return manifest.read(folder)


def order_of(found: manifest.Manifest) -> Order:
    return Order(tuple(rows for file in found.files for rows in file.row_groups), 16, 64, seed=1)


def test_numbers_come_by_value_and_dates_as_they_are_read(tmp_path: Path) -> None:
    numbers = listed(tmp_path / "a", ["day=10", "day=9", "day=009"])
    parts = streamed(order_of(numbers), numbers, BY_DAY, "logs").parts
    assert [part.name for part in parts] == ["9", "10"], "day=9 and day=009 are one day"
    assert [part.order.num_rows for part in parts] == [120, 60]
    assert len(files_of(numbers, BY_DAY, ("9",)).files) == 2
    dates = listed(tmp_path / "b", ["day=2024-02-01", "day=2023-12-31", "day=2024-01-15"])
    names = [part.name for part in streamed(order_of(dates), dates, BY_DAY, "logs").parts]
    assert names == ["2023-12-31", "2024-01-15", "2024-02-01"]


def test_another_key_above_the_day(tmp_path: Path) -> None:
    """Files lie by country, then by day; the stream goes by day, over all countries."""
    paths = ["country=de/day=2", "country=de/day=1", "country=fr/day=2", "country=fr/day=1"]
    found = listed(tmp_path, paths)
    parts = streamed(order_of(found), found, BY_DAY, "logs").parts
    assert [part.name for part in parts] == ["1", "2"]
    blocks = [rows for file in found.files for rows in file.row_groups]
    assert sorted(block for part in parts for block in part.blocks) == list(range(len(blocks)))
    days = [{file.partition["day"] for file in files_of(found, BY_DAY, (name,)).files} for name in ("1", "2")]
    assert days == [{"1"}, {"2"}]


@pytest.mark.parametrize("world", [1, 4])
def test_without_a_shuffle_a_day_is_trained_as_its_files_stand(tmp_path: Path, world: int) -> None:
    """Step by step in the order of the files, which for a log is that of time; a window of one step mixes nothing."""
    table = samples.logs(300)
    for day, start in ((9, 0), (10, 130)):
        rows = table.slice(start, 130 if day == 9 else 170)
        write_dataset(tmp_path / "train" / f"day={day}", [rows], file_rows=90, row_group_rows=25)
    manifest.write(tmp_path / "train", manifest.build(tmp_path / "train"))
    options = ("data.stream.by='day'", "data.shuffle=false", "data.shuffle_rows=16", "train.global_batch=16")
    config = samples.config(tmp_path, *options)
    dataset = Dataset.open(config.data.train, config, config.data.shuffle)
    steps = []
    for batches in zip(*(dataset.batches(rank, world) for rank in range(world)), strict=True):
        rows = [(batch.dense_BD[batch.weight_B > 0, 0] * 4096).tolist() for batch in batches]
        steps.append([int(row) for rank in rows for row in rank])
    assert [row for step in steps for row in step] == list(range(300))
    assert [len(step) for step in steps] == [16] * 8 + [2] + [16] * 10 + [10], "no step mixes two days"


def test_rows_of_no_day_have_no_place(tmp_path: Path) -> None:
    found = listed(tmp_path, ["day=1", "day=__HIVE_DEFAULT_PARTITION__"])
    with pytest.raises(DataError, match="is of no `day`, so it has no place in the order; move it into one"):
        streamed(order_of(found), found, BY_DAY, "logs")


def test_a_commit_holds_for_the_days_so_far(tmp_path: Path) -> None:
    """A day that is added changes no digest of a step before it; a day that has changed does."""
    days = ["day=1", "day=2", "day=3"]  # 60 rows each: 4 steps of 16
    options = ("data.stream.by='day'", "train.global_batch=16")
    digests = []
    for name, some in (("two", days[:2]), ("three", days), ("other", ["day=1", "day=3"])):
        listed(tmp_path / name / "train", some)
        config = samples.config(tmp_path / name, *options)
        dataset = Dataset.open(config.data.train, config, shuffle=True)
        digests.append([dataset.digest_at(step) for step in (1, 4, 5, 8)])
    two, three, other = digests
    assert two == three and two[0] == two[1] != two[2] == two[3]
    assert other[:2] == two[:2] and other[2] != two[2]
    config = samples.config(tmp_path / "two", *options, "optim.decay='linear'")
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    assert dataset.digest_at(1) == dataset.digest_at(8) == dataset.manifest.digest, "rates that decay know the end"


def test_a_commit_of_another_order_is_refused_unless_it_is_the_end(tmp_path: Path) -> None:
    config = samples.config(tmp_path)
    commit = commits.Commit(3, 40, 2, "digest", {}, config.model_dump(mode="json"), [], {}, order=order.VERSION)
    commits.check_same_run(commit, config, "digest", 100, tmp_path)
    older = replace(commit, order=1)
    commits.check_same_run(older, config, "digest", 40, tmp_path)
    with pytest.raises(CheckpointError, match="shuffled the rows in another order.*choose another run.dir"):
        commits.check_same_run(older, config, "digest", 100, tmp_path)
    in_order = samples.config(tmp_path, "data.shuffle=false")
    older = replace(older, config=in_order.model_dump(mode="json"))
    commits.check_same_run(older, in_order, "digest", 100, tmp_path)


def test_all_days_in_one() -> None:
    def day(
        name: str, rows: float, auc: float | None, loss: float, ne: float | None, pcoc: float | None
    ) -> train_state.Tested:
        found = {"rows": rows, "positives": rows / 10, "auc": auc, "logloss": loss, "normalised_entropy": ne}
        return train_state.Tested(name, 5, int(rows), {"ctr": found | {"pcoc": pcoc}})

    told = train_state.over_all(
        [day("1", 100, 0.7, 0.2, 0.8, 1.2), day("2", 300, 0.6, 0.4, 1.0, 0.8), day("3", 50, None, 0.1, None, None)]
    )
    assert (told["partitions"], told["rows"]) == (3, 450)
    ctr = told["tasks"]["ctr"]
    assert ctr["auc"] == pytest.approx(0.65)
    assert (ctr["lowest_auc"], ctr["lowest_partition"]) == (0.6, "2")
    assert ctr["logloss"] == pytest.approx((20 + 120 + 5) / 450)
    assert ctr["normalised_entropy"] == pytest.approx((20 + 120) / (100 * 0.25 + 300 * 0.4))
    assert ctr["pcoc"] == pytest.approx((12 + 24) / 40)
    nothing = train_state.over_all([day("1", 10, None, math.nan, None, None)])["tasks"]["ctr"]
    assert nothing["auc"] is None and nothing["pcoc"] is None and nothing["lowest_partition"] is None
