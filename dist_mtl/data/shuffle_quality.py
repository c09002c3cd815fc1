"""How well an order shuffles, measured on the order alone: no data are read.

A step of a full shuffle takes its rows from anywhere. A step of ours takes them from the row groups that are open, so
rows that stand side by side in a file, such as those of one user, meet more often than chance would have it.
"""

from dataclasses import dataclass

import numpy as np

from dist_mtl.data.hashing import random_bits
from dist_mtl.data.order import EMPTY, OPEN_WINDOWS, InFileOrder, Order, Partitions

FEW = 8  # tracks below which a run is told so
NEAR = 100  # rows: about a user's in a log sorted by user, or a few seconds of one sorted by time


@dataclass(frozen=True)
class Mixing:
    """Means over steps. `apart` is the mean number of steps between two rows that are neighbours in a file."""

    largest: float  # share of a step's rows that come from one row group, of the row group with the most
    alike: float  # chance that two rows of a step come from one row group
    groups: float  # row groups that a step takes rows from
    near: float  # rows of a step within NEAR rows of a given one, in its row group
    apart: float


def advice(order: Order | Partitions | InFileOrder) -> str | None:
    """What to do where row groups are so large that a step mixes few of them; None where all is well, or not asked."""
    orders = [part.order for part in order.parts] if isinstance(order, Partitions) else [order]
    worst = max(orders, key=lambda one: max(one.block_rows))
    fitting = isinstance(worst, Order) and worst.shuffle and worst.num_windows > 1
    if not fitting or worst.num_tracks >= min(FEW, worst.num_lanes):
        return None
    longest = max(worst.block_rows)
    enough = -(-min(FEW, worst.num_lanes) * longest // OPEN_WINDOWS)
    return (
        f"data.shuffle_rows = {worst.window_rows:,} is little for row groups of up to {longest:,} rows: a step mixes "
        f"{worst.num_tracks} to {2 * worst.num_tracks} of them. Raise it to {enough:,}, if the loader may hold "
        f"{4 * enough:,} rows over all ranks in memory, or write the data with smaller row groups"
    )


def mixing(order: Order | Partitions, windows: int = 4) -> Mixing:
    """Of the first epoch's order, over `windows` windows that lie evenly in it."""
    places = np.unique(np.linspace(0, max(order.num_windows - 2, 0), windows).astype(np.int64))
    steps, gaps = [], []
    for window in places.tolist():
        segment = order.segment(0, window, 0, 1)
        block = np.concatenate([np.full(s.stop - s.start, s.block) for s in segment.spans])
        row = np.concatenate([np.arange(s.start, s.stop) for s in segment.spans])
        for picks in segment.picks:
            steps.append(_of_step(block[picks[picks != EMPTY]], row[picks[picks != EMPTY]]))
        gaps.append(_gap(block, row, segment.picks))
    return Mixing(*np.mean(steps, axis=0).tolist(), float(np.mean(gaps)))


def full_shuffle(order: Order, steps: int = 64) -> Mixing:
    """The same of a full shuffle of the rows: `steps` steps drawn anywhere."""
    ends = np.cumsum(order.block_rows, dtype=np.int64)
    found = []
    for step in range(steps):
        # A step with a row twice is as rare as it is small to its dataset.
        rows = (random_bits(order.global_batch, order.seed, step, "full") % np.uint64(ends[-1])).astype(np.int64)
        block = np.searchsorted(ends, rows, side="right")
        found.append(_of_step(block, rows))
    return Mixing(*np.mean(found, axis=0).tolist(), order.steps_per_epoch / 3)


def _of_step(block_B: np.ndarray, row_B: np.ndarray) -> tuple[float, float, float, float]:
    count = len(block_B)
    _, rows = np.unique(block_B, return_counts=True)
    place = np.sort(block_B * (1 << 40) + row_B)  # rows of two row groups are never near
    near = np.searchsorted(place, place + NEAR, side="right") - np.searchsorted(place, place - NEAR) - 1
    alike = float((rows * (rows - 1)).sum()) / max(count * (count - 1), 1)
    return rows.max() / count, alike, float(len(rows)), float(near.mean())


def _gap(block: np.ndarray, row: np.ndarray, picks: np.ndarray) -> float:
    """Mean steps between neighbours of a file that are trained in one window."""
    step = np.zeros(len(row), np.int64)
    full = picks != EMPTY
    step[picks[full]] = np.repeat(np.arange(len(picks)), full.sum(axis=1))
    by_place = np.lexsort((row, block))
    beside = (np.diff(block[by_place]) == 0) & (np.diff(row[by_place]) == 1)
    return float(np.abs(np.diff(step[by_place]))[beside].mean()) if beside.any() else 0.0
