"""R4: every row is trained once an epoch, whatever the files, the batch, the world size and the restarts.

`make exactly-once` runs 2,000 cases of each order, `make test` some of them (EXACTLY_ONCE_CASES).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_mtl.data.batch import Batch
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import EMPTY, InFileOrder, Order, Partitions, partitioned
from tests.support import samples

NUM_CASES = int(os.environ.get("EXACTLY_ONCE_CASES", "150"))
CASES = settings(
    deadline=None,
    max_examples=NUM_CASES,
    derandomize=NUM_CASES < 1_000,  # the same cases at every `make test`: a red build is then a change of ours
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MOST_BATCH, MOST_WINDOWS = 8_192, 24
SEEN: list["Case"] = []


@dataclass(frozen=True)
class Case:
    """A dataset as row groups of files, and a run over it with restarts, each on a world of its own."""

    files: tuple[tuple[int, ...], ...]  # rows of each row group
    order: Order | Partitions
    epochs: int
    parts: tuple[tuple[int, int, int], ...]  # from step, to step, world
    scoring: int  # a world to score on

    @property
    def first_rows(self) -> np.ndarray:
        """The dataset's number of each block's first row."""
        rows = [rows for file in self.files for rows in file if rows]
        return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])


@st.composite
def files_of(draw: st.DrawFn, most_files: int, most_rows: int) -> tuple[tuple[int, ...], ...]:
    """1 to 50 files of 0 to 10^4 rows, in row groups of one size but for the last, as writers make them."""
    sizes = st.one_of(st.integers(0, 40), st.integers(0, most_rows))
    files = []
    # Lists of any length would be short ones nearly always; of many files alone, hardly a dataset is very small.
    count = draw(st.one_of(st.integers(1, 3), st.integers(1, most_files)))
    for rows in draw(st.lists(sizes, min_size=count, max_size=count).filter(any)):
        group = draw(st.integers(max(1, rows // 12), max(1, rows)))
        files.append((*[group] * (rows // group), *([rows % group] if rows % group or not rows else [])))
    return tuple(files)


@st.composite
def cases(draw: st.DrawFn, most_files: int = 50, most_rows: int = 10_000, on_disk: bool = False) -> Case:
    files = draw(files_of(most_files, most_rows))
    rows = sum(map(sum, files))
    count = draw(st.integers(1, 4))
    worlds = draw(st.lists(st.integers(1, 16), min_size=count, max_size=count).filter(lambda w: lcm(*w) <= MOST_BATCH))
    factor = draw(st.integers(1, max(1, MOST_BATCH // lcm(*worlds))))
    batch = max(lcm(*worlds) * factor, lcm(*worlds) * -(-rows // (200 * lcm(*worlds))))
    window = draw(st.integers(max(batch, rows // MOST_WINDOWS), max(batch, rows) * 2))
    blocks = tuple(rows for file in files for rows in file if rows)
    order = Order(blocks, batch, window, draw(st.integers(-(2**63), 2**63 - 1)), draw(st.booleans()))
    epochs = draw(st.integers(1, 3))
    if draw(st.booleans()):
        days = [draw(st.integers(0, 5)) for _ in files]
        days = sorted(days) if on_disk else days  # as a manifest lists them
        order = partitioned(order, [day for day, file in zip(days, files, strict=True) for rows in file if rows])
        epochs = 1
    total = epochs * order.steps_per_epoch
    stops = sorted(draw(st.lists(st.integers(0, total), min_size=len(worlds) - 1, max_size=len(worlds) - 1)))
    parts = zip([0, *stops], [*stops, total], worlds, strict=True)
    return Case(files, order, epochs, tuple(parts), draw(st.sampled_from(worlds)))


def window_rows(case: Case, epoch: int, window: int, rank: int, world: int) -> np.ndarray:
    """(steps, slots): the numbers of the rows that a rank trains in a window, EMPTY for a slot without one."""
    segment = case.order.segment(epoch, window, rank, world)
    first = case.first_rows
    flat = [np.arange(s.start, s.stop) + first[s.block] for s in segment.spans]
    return np.concatenate([*flat, [EMPTY]])[np.where(segment.picks == EMPTY, -1, segment.picks)]


def trained(case: Case, start: int, stop: int, world: int) -> Iterator[np.ndarray]:
    """The global batches of steps start + 1 ... stop, walked as the loader does: window by window, rank by rank."""
    while start < stop:
        epoch, place = divmod(start, case.order.steps_per_epoch)
        window = case.order.window_of(place)
        ranks = [window_rows(case, epoch, window, rank, world) for rank in range(world)]
        assert len({len(rank) for rank in ranks}) == 1, "ranks would run out unevenly"
        steps = np.concatenate(ranks, axis=1)
        first = epoch * case.order.steps_per_epoch + case.order.segment(epoch, window, 0, world).first_step
        assert case.order.starts_window(first + 1), "there the ranks agree"
        end = min(stop, first + len(steps))
        yield steps[start - first : end - first]
        start = end


@CASES
@given(cases())
def test_every_row_once_an_epoch_over_restarts_on_other_worlds(case: Case) -> None:
    SEEN.append(case)
    rows = int(case.first_rows[-1])
    steps = np.concatenate([step for part in case.parts for step in trained(case, *part)])
    assert steps.shape == (case.epochs * case.order.steps_per_epoch, case.order.global_batch)
    for epoch in np.split(steps, case.epochs):
        counts = np.bincount(epoch[epoch != EMPTY], minlength=rows)
        assert len(counts) == rows and (counts == 1).all(), "each row once"
    alone = np.concatenate(list(trained(case, 0, len(steps), 1)))
    assert np.array_equal(steps, alone), "the order is that of one rank without a restart"
    begun = sum(case.order.starts_window(step) for step in range(1, len(steps) + 1))
    assert begun == case.epochs * case.order.num_windows
    if isinstance(case.order, Partitions):
        check_parts(case, case.order, alone)


def test_the_cases_are_not_all_small() -> None:
    """Told at the end of `make exactly-once`; says that the property above was tried over its whole range."""
    rows, files = [int(case.first_rows[-1]) for case in SEEN], [len(case.files) for case in SEEN]
    worlds = {world for case in SEEN for _, _, world in case.parts}
    empty = sum(any(not any(file) for file in case.files) for case in SEEN)
    restarts = sum(len(case.parts) - 1 for case in SEEN)
    streams = sum(isinstance(case.order, Partitions) for case in SEEN)
    print(
        f"\n{len(SEEN):,} cases: 1 to {max(files)} files, {min(rows):,} to {max(rows):,} rows, {empty:,} with an empty "
        f"file, worlds {min(worlds)} to {max(worlds)}, {restarts:,} restarts, {streams:,} streams"
    )
    assert len(SEEN) >= NUM_CASES and max(files) > 20 and max(rows) > 50_000 and min(rows) < 100
    assert len(worlds) == 16 and restarts > len(SEEN) / 4 and streams > len(SEEN) / 5 and empty


def check_parts(case: Case, order: Partitions, steps: np.ndarray) -> None:
    """The parts come in ascending order, and no step mixes two."""
    names = [int(part.name) for part in order.parts]
    assert names == sorted(set(names))
    for k, part in enumerate(order.parts):
        mine = steps[order.last_steps[k] - part.order.steps_per_epoch : order.last_steps[k]]
        theirs = [np.arange(case.first_rows[b], case.first_rows[b + 1]) for b in part.blocks]
        assert np.array_equal(np.sort(mine[mine != EMPTY]), np.concatenate(theirs))


@CASES
@given(cases())
def test_every_row_is_scored_once_and_where_it_stands(case: Case) -> None:
    order = case.order.parts[0].order if isinstance(case.order, Partitions) else case.order
    blocks = tuple(np.diff(case.first_rows).tolist())
    in_files = InFileOrder(blocks, order.global_batch, max(order.window_rows, sum(blocks) // MOST_WINDOWS))
    scored = []
    for rank in range(case.scoring):
        segments = [in_files.segment(0, window, rank, case.scoring) for window in range(in_files.num_windows)]
        assert sum(len(segment.picks) for segment in segments) == in_files.steps_per_epoch, "equal steps"
        for segment in segments:
            flat = [np.arange(s.start, s.stop) + case.first_rows[s.block] for s in segment.spans]
            scored.append(np.concatenate([*flat, [EMPTY]])[segment.picks[segment.picks != EMPTY]])
    assert np.array_equal(np.concatenate(scored), np.arange(case.first_rows[-1]))


@settings(CASES, max_examples=max(5, NUM_CASES // 20))
@given(cases(most_files=6, most_rows=400, on_disk=True))
def test_the_loader_does_what_the_order_says(case: Case) -> None:
    """On real files: the rows of every batch over all restarts, and those that are scored."""
    with TemporaryDirectory() as folder:
        dataset = written(case, Path(folder))
        steps = np.concatenate([batches(dataset, *part) for part in case.parts])
        assert np.array_equal(steps, np.concatenate([step for part in case.parts for step in trained(case, *part)]))
        config = dataset.encoder.config
        scoring = Dataset.open_to_score(config.data.train, config, (), labelled=True)
        ranks = [scoring.batches(rank, case.scoring) for rank in range(case.scoring)]
        rows = np.concatenate([numbers(batch) for rank in ranks for batch in rank])
        assert np.array_equal(rows[rows != EMPTY], np.arange(case.first_rows[-1]))


def written(case: Case, folder: Path) -> Dataset:
    """The case's files, opened; `row` numbers the rows in the order of the files."""
    table = samples.logs(int(case.first_rows[-1]))
    names, of_block = {}, iter(range(len(case.first_rows)))
    if isinstance(case.order, Partitions):
        names = {block: f"day={part.name}/" for part in case.order.parts for block in part.blocks}
    start = 0
    for index, groups in enumerate(case.files):
        rows = sum(groups)
        blocks = [next(of_block) for size in groups if size]
        target = folder / "train" / f"{names.get(blocks[0], '') if blocks else ('day=0/' if names else '')}{index:03d}"
        write_dataset(target, [table.slice(start, rows)], file_rows=max(rows, 1), row_group_rows=groups[0] or 1)
        start += rows
    manifest.write(folder / "train", manifest.build(folder / "train"))
    order = case.order.parts[0].order if isinstance(case.order, Partitions) else case.order
    keys = (f"train.global_batch={order.global_batch}", f"data.shuffle_rows={order.window_rows}", f"seed={order.seed}")
    stream = ("data.stream.by='day'",) if names else ()
    config = samples.config(folder, *keys, *stream, f"data.shuffle={str(order.shuffle).lower()}")
    return Dataset.open(config.data.train, config, order.shuffle)


def batches(dataset: Dataset, start: int, stop: int, world: int) -> np.ndarray:
    """(steps, slots) of all ranks, as the loader gives them."""
    ranks = [[numbers(b) for b in dataset.batches(rank, world, start, stop)] for rank in range(world)]
    shape = (stop - start, dataset.order.global_batch // world)
    return np.concatenate([np.array(rank, np.int64).reshape(shape) for rank in ranks], axis=1)


def numbers(batch: Batch) -> np.ndarray:
    return np.where(batch.weight_B.numpy() > 0, batch.dense_BD[:, 0].numpy() * 4096, EMPTY).astype(np.int64)
