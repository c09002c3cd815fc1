"""R3, R4: which row is trained when. Brute force over small datasets; no torch, no files."""

import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.data.order import EMPTY, InFileOrder, Order, Segment

# The same cases at every run: a red build is then a change of ours.
CASES = settings(deadline=None, max_examples=150, derandomize=True)

Cell = tuple[int, int]  # (block, row in it); None is an empty slot


@st.composite
def orders(draw: st.DrawFn) -> Order:
    blocks = draw(st.lists(st.one_of(st.integers(1, 9), st.integers(1, 120)), min_size=1, max_size=20))
    batch = draw(st.one_of(st.integers(1, 40), st.sampled_from([48, 64, 96, 128, 256])))
    window = draw(st.integers(batch, 8 * batch))
    return Order(tuple(blocks), batch, window, draw(st.integers(-(2**63), 2**63)), draw(st.booleans()))


def worlds(order: Order) -> list[int]:
    """World sizes up to 16 that divide the global batch."""
    return [n for n in range(1, 17) if order.global_batch % n == 0]


def cells(segment: Segment) -> list[list[Cell | None]]:
    """The picks of a segment, step by step, as rows of blocks."""
    flat = [(span.block, row) for span in segment.spans for row in range(span.start, span.stop)]
    return [[None if pick == EMPTY else flat[pick] for pick in step] for step in segment.picks]


def epoch_of(order: Order, epoch: int, rank: int, world: int) -> list[list[Cell | None]]:
    """What one rank trains in an epoch: a list of slots for every step."""
    steps: list[list[Cell | None]] = []
    for window in range(order.num_windows):
        segment = order.segment(epoch, window, rank, world)
        assert segment.first_step == len(steps)
        steps += cells(segment)
    return steps


def global_epoch(order: Order, epoch: int, world: int) -> list[list[Cell | None]]:
    """What all ranks train: for every step the slots of rank 0, then of rank 1, ..."""
    ranks = [epoch_of(order, epoch, rank, world) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {order.steps_per_epoch}, "ranks would run out unevenly"
    return [[cell for rank in ranks for cell in rank[step]] for step in range(order.steps_per_epoch)]


@CASES
@given(orders(), st.integers(0, 3), st.data())
def test_every_row_exactly_once_an_epoch_under_every_world(order: Order, epoch: int, data: st.DataObject) -> None:
    everything = Counter((block, row) for block, rows in enumerate(order.block_rows) for row in range(rows))
    alone = global_epoch(order, epoch, 1)
    assert Counter(cell for step in alone for cell in step if cell) == everything
    world = data.draw(st.sampled_from(worlds(order)))
    assert global_epoch(order, epoch, world) == alone


@CASES
@given(orders(), st.data())
def test_only_the_last_step_is_padded(order: Order, data: st.DataObject) -> None:
    steps = global_epoch(order, 0, data.draw(st.sampled_from(worlds(order))))
    assert order.steps_per_epoch == -(-order.num_rows // order.global_batch)
    assert all(len(step) == order.global_batch for step in steps)
    assert all(cell is not None for step in steps[:-1] for cell in step)
    assert sum(cell is None for cell in steps[-1]) == len(steps) * order.global_batch - order.num_rows


@CASES
@given(orders(), st.data())
def test_restarts_on_other_worlds_lose_and_repeat_nothing(order: Order, data: st.DataObject) -> None:
    """Three epochs, stopped at any steps, each part on another world; walked as the loader does, window by window."""
    total = 3 * order.steps_per_epoch
    stops = sorted(data.draw(st.lists(st.integers(0, total), max_size=4)))
    trained: list[list[Cell | None]] = []
    for start, stop in zip([0, *stops], [*stops, total], strict=True):
        world = data.draw(st.sampled_from(worlds(order)))
        while start < stop:
            epoch, step = divmod(start, order.steps_per_epoch)
            window = step // order.steps_per_window
            parts = [order.segment(epoch, window, rank, world) for rank in range(world)]
            rows = [cells(part) for part in parts]
            first = epoch * order.steps_per_epoch + parts[0].first_step
            end = min(stop, first + len(rows[0]))
            trained += [[c for rank in rows for c in rank[k - first]] for k in range(start, end)]
            start = end
    assert trained == [step for epoch in range(3) for step in global_epoch(order, epoch, 1)]


@CASES
@given(orders(), st.data())
def test_a_rank_reads_only_its_own_part(order: Order, data: st.DataObject) -> None:
    """Spans lie inside their blocks; where the world divides the lanes, every row that is read is trained."""
    world = data.draw(st.sampled_from(worlds(order)))
    for window in range(order.num_windows):
        for rank in range(world):
            segment = order.segment(0, window, rank, world)
            assert all(0 <= s.start < s.stop <= order.block_rows[s.block] for s in segment.spans)
            read = sum(s.stop - s.start for s in segment.spans)
            picked = segment.picks[segment.picks != EMPTY]
            assert len(set(picked)) == len(picked) <= read
            if order.num_lanes % world == 0:
                assert len(picked) == read
            assert read <= order.steps_per_window * (
                order.global_batch // world + 2 * order.global_batch // order.num_lanes
            )


def test_epochs_windows_and_seeds_shuffle_differently() -> None:
    order = Order((500,) * 4, 64, 640, seed=1)
    first = global_epoch(order, 0, 1)
    assert first != global_epoch(order, 1, 1)
    assert first != global_epoch(Order((500,) * 4, 64, 640, seed=2), 0, 1)
    assert np.array_equal(order.segment(0, 1, 0, 1).picks, Order((500,) * 4, 64, 640, seed=1).segment(0, 1, 0, 1).picks)
    unshuffled = global_epoch(Order((500,) * 4, 64, 640, seed=1, shuffle=False), 0, 1)
    assert unshuffled == global_epoch(Order((500,) * 4, 64, 640, seed=2, shuffle=False), 5, 1)
    # Blocks are read in order, one window after the other.
    assert sorted(c for step in unshuffled[:10] for c in step) == [divmod(row, 500) for row in range(640)]


def test_shuffling_spreads_rows_over_the_window() -> None:
    """Neighbours in the file are no neighbours in training: correlation of file order and step near 0 within a lane."""
    order = Order((6_400,), 64, 6_400, seed=3)
    steps = np.array([[row for _, row in step] for step in global_epoch(order, 0, 1)])
    assert steps.shape == (100, 64)
    correlations = [abs(np.corrcoef(np.arange(100), steps[:, lane])[0, 1]) for lane in range(64)]
    assert np.mean(correlations) < 0.2  # of 64 random ones about 0.08


def test_a_pinned_order() -> None:
    """A change of these numbers changes what every resumed run trains next: it needs a new format version."""
    order = Order((9, 7, 6), 8, 16, seed=1)
    segments = [order.segment(0, window, 0, 1) for window in range(2)]
    assert [s.picks.tolist() for s in segments] == [
        [[0, 2, 5, 7, 8, 10, 13, 15], [1, 3, 4, 6, 9, 11, 12, 14]],
        [[0, 1, 2, 3, 4, 5, EMPTY, EMPTY]],
    ]
    assert [[(s.block, s.start, s.stop) for s in segment.spans] for segment in segments] == [
        [(1, 0, 7), (2, 0, 1), (2, 5, 6), (0, 0, 7)],  # two tracks: the stream from row 0 on, and from row 12 on
        [(2, 1, 5), (0, 7, 9)],
    ]


def test_a_step_takes_rows_from_every_track() -> None:
    """And the open row groups, one a track, hold no more rows than two windows."""
    order = Order((1_000,) * 400, 64, 6_400, seed=5)
    assert order.num_tracks == 8 and order.num_tracks * 1_000 <= 2 * 6_400
    for window in (0, 7, 61):
        segment = order.segment(0, window, 0, 1)
        blocks = np.concatenate([np.full(s.stop - s.start, s.block) for s in segment.spans])
        counts = [len(np.unique(blocks[step])) for step in segment.picks]
        print(f"window {window}: {min(counts)} to {max(counts)} row groups a step")
        assert min(counts) >= 8
    assert Order((1_000,) * 400, 64, 6_400, seed=5, shuffle=False).num_tracks == 1
    assert Order((20_000,) * 20, 64, 6_400, seed=5).num_tracks == 1  # one open row group is more than two windows


def test_a_row_group_is_open_in_windows_that_follow_each_other() -> None:
    """So a reader that keeps what is left of the row groups of a window decodes each row group once a track."""
    order = Order((700, 300, 500) * 40, 64, 1_280, seed=9)
    seen: dict[int, int] = {}
    again = 0
    for window in range(order.num_windows):
        for block in {span.block for span in order.segment(0, window, 0, 1).spans}:
            again += block in seen and seen[block] < window - 1
            seen[block] = window
    assert len(seen) == 120 and again <= order.num_tracks, "only where one track ends and the next begins"


def test_a_thousand_million_rows_are_cheap() -> None:
    """600,000 row groups: the order's own memory is a few arrays of that length."""
    order = Order((16_384,) * 610_351, 4_096, 262_144, seed=1)
    assert order.num_rows > 9_999_000_000
    tracemalloc.start()
    segment = order.segment(0, 1_000, 3, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{len(order.block_rows):,} row groups: {peak / 1e6:.0f} MB at most, {len(segment.spans)} spans")
    assert peak < 64e6 and len(segment.spans) < 16


@CASES
@given(orders(), st.data())
def test_scoring_takes_every_row_once_in_the_order_of_the_files(order: Order, data: st.DataObject) -> None:
    """The ranks' parts, one after the other, are the dataset; a rank's picks stand side by side, as carrying needs."""
    in_files = InFileOrder(order.block_rows, order.global_batch, order.window_rows)
    world = data.draw(st.sampled_from(worlds(order)))
    scored: list[Cell] = []
    for rank in range(world):
        steps = 0
        for window in range(in_files.num_windows):
            segment = in_files.segment(0, window, rank, world)
            assert segment.first_step == steps
            steps += len(segment.picks)
            assert not segment.spans or segment.start == len(scored)
            for step in segment.picks:
                full = step[: (step != EMPTY).sum()]
                assert (full == np.arange(len(full)) + (full[0] if len(full) else 0)).all()
            scored += [cell for step in cells(segment) for cell in step if cell]
        assert steps == in_files.steps_per_epoch == order.steps_per_epoch
    assert scored == [(block, row) for block, rows in enumerate(order.block_rows) for row in range(rows)]
