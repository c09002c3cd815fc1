"""`Dataset.batches` on real files is exactly what `Order` says, from every step, on every world."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.files.reader import Reader, blocks_of
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import EMPTY, Span
from dist_mtl.data.prefetch import prefetch
from dist_mtl.errors import DataError
from tests.support import samples

ROWS = 1_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", ROWS, files=3, group_rows=70)
    return samples.config(folder, "train.global_batch=48", "data.shuffle_rows=200")


@pytest.fixture(scope="module")
def dataset(config: Config) -> Dataset:
    return Dataset.open(config.data.train, config, shuffle=True)


def numbers(batch: Batch) -> np.ndarray:
    """The numbers of a batch's rows; -1 for padding."""
    return np.where(batch.weight_B.numpy() > 0, batch.dense_BD[:, 0].numpy() * 4096, -1).astype(int)


def expected(dataset: Dataset, epoch: int, world: int, rank: int) -> np.ndarray:
    """(steps, slots): the row numbers that the order gives a rank in an epoch."""
    first_rows, before = [], 0
    for block in blocks_of(dataset.manifest):
        first_rows.append(before)
        before += block.rows
    steps = []
    for window in range(dataset.order.num_windows):
        segment = dataset.order.segment(epoch, window, rank, world)
        flat = [np.arange(s.start, s.stop) + first_rows[s.block] for s in segment.spans]
        rows = np.concatenate([*flat, [-1]])
        steps.append(rows[np.where(segment.picks == EMPTY, -1, segment.picks)])
    return np.concatenate(steps)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 16])
def test_batches_are_what_the_order_says(dataset: Dataset, world: int) -> None:
    """21 steps an epoch in windows of 4: from the start, from within a window and across the end of an epoch."""
    per_epoch = dataset.order.steps_per_epoch
    assert (per_epoch, dataset.order.steps_per_window) == (21, 4)
    for start, stop in [(0, 45), (7, 9), (20, 22), (44, 60)]:
        for rank in {0, world // 2, world - 1}:
            whole = np.concatenate([expected(dataset, epoch, world, rank) for epoch in range(3)])
            batches = list(dataset.batches(rank, world, start, stop))
            assert [b.step for b in batches] == list(range(start + 1, stop + 1))
            assert np.array_equal([numbers(b) for b in batches], whole[start:stop])
            slots = dataset.order.slots(rank, world)
            assert all(np.array_equal(b.slots_B, np.arange(slots.start, slots.stop)) for b in batches)


def test_a_row_keeps_its_own_values(dataset: Dataset) -> None:
    """Columns are not mixed up by reading, shuffling and collating: every row against the table it came from."""
    table = samples.logs(ROWS).to_pydict()
    labels, ages = {}, {}
    for batch in dataset.batches(0, 1):
        single = batch.ids["age"].to_dense()
        for i, row in enumerate(numbers(batch)):
            if row >= 0:
                labels[row], ages[row] = tuple(batch.labels_BT[i].tolist()), single[i].tolist()
            else:
                assert batch.labels_BT[i].tolist() == [0, 0] and single[i].tolist() == []
    assert labels == {i: (c, v) for i, (c, v) in enumerate(zip(table["click"], table["conversion"], strict=True))}
    bounds = [20, 30, 45.5, 60]
    assert ages == {i: [] if a is None else [sum(b <= a for b in bounds)] for i, a in enumerate(table["age"])}


def test_padding_is_of_weight_0_and_without_ids(dataset: Dataset) -> None:
    *_, last = dataset.batches(0, 1)
    empty = numbers(last) < 0
    assert empty.sum() == 21 * 48 - ROWS
    lengths = last.ids.lengths().view(len(last.ids.keys()), -1)
    assert (lengths[:, empty] == 0).all() and lengths.sum() == len(last.ids.values())
    assert (
        (last.weight_B[empty] == 0).all() and (last.labels_BT[empty] == 0).all() and (last.dense_BD[empty] == 0).all()
    )
    assert last.dropped == 0


def test_a_rank_without_a_row_still_takes_every_step(tmp_path: Path) -> None:
    """5 rows over 4 ranks in steps of 64: all rows go to the first lanes."""
    samples.write_logs(tmp_path / "train", 5, files=1)
    config = samples.config(tmp_path)
    batches = [next(Dataset.open(config.data.train, config, True).batches(rank, 4)) for rank in range(4)]
    assert [int(b.weight_B.sum()) for b in batches] == [5, 0, 0, 0]
    assert all(len(b.weight_B) == 16 for b in batches)


def test_a_fault_comes_in_its_turn(tmp_path: Path, config: Config) -> None:
    """What was read before a damaged row group is trained first; the error then names the place."""
    samples.write_logs(tmp_path / "train", 600, files=2, group_rows=50)
    config = samples.config(tmp_path, "data.shuffle=false", "data.shuffle_rows=64")
    dataset = Dataset.open(config.data.train, config, shuffle=False)
    second = tmp_path / "train" / "part-00001.parquet"
    content = bytearray(second.read_bytes())
    content[40] ^= 4
    second.write_bytes(content)
    steps = []
    with pytest.raises(DataError, match="part-00001.parquet, row group 0: damaged or unreadable"):
        for batch in dataset.batches(0, 1):
            steps.append(batch.step)
    assert steps == [1, 2, 3, 4]  # 256 of the first file's 300 rows are complete windows


def test_closing_ends_the_threads(dataset: Dataset) -> None:
    before = threading.active_count()
    for _ in range(5):
        source = dataset.batches(0, 1, 0, 1_000)
        next(source)
        source.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_prefetch_runs_ahead_no_further_than_it_may() -> None:
    made = []
    source = prefetch((made.append(i) or i for i in range(100)), ahead=3)
    assert next(source) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert made == [0, 1, 2, 3], "one is taken, three are not"
    assert list(source) == list(range(1, 100))


def test_a_row_group_is_decoded_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 64 rows end within row groups of 250; tracks meet in a row group, which is then read twice."""
    samples.write_logs(tmp_path / "train", 5_000, files=4, group_rows=250)
    config = samples.config(tmp_path, "data.shuffle_rows=320")
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    decoded: list[Span] = []
    read = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, spans: decoded.extend(spans) or read(self, spans))
    for batch in dataset.batches(0, 1):
        assert len(batch.weight_B) == 64
    print(f"{len(dataset.blocks)} row groups in {dataset.order.num_windows} windows: {len(decoded)} decoded")
    assert dataset.order.num_windows == 16 and dataset.order.num_tracks == 2
    assert len(dataset.blocks) <= len(decoded) <= len(dataset.blocks) + dataset.order.num_tracks
