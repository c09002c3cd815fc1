"""Which row is trained when: a pure function of (seed, epoch, step, rank, world). No I/O, no torch, no pyarrow.

    blocks   the dataset as row groups, permuted per epoch and laid end to end: the epoch's stream
    windows  the stream cut into `window_rows`; a window is trained completely before the next one
    lanes    a window cut into `num_lanes` contiguous segments; every step takes global_batch / num_lanes rows from
             each, in an order permuted per (epoch, window, lane)

A rank owns a contiguous range of a step's slots, hence of lanes, hence of the stream: it decodes only its own part of
a window (when the world size does not divide `num_lanes`, a lane at either edge besides). The world size appears in
`slots` alone, so every world size that divides the global batch trains the same rows in the same order. The last step
of an epoch has empty slots, which become rows of weight 0. The trained step is the whole state.

Scoring has another order, `InFileOrder`: each rank takes one contiguous part of the dataset, so that what it writes
stands in the dataset's own order.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dist_mtl.data.hashing import permutation

MAX_LANES = 64  # a power of two: rank counts up to 64 that are powers of two then never share a lane
EMPTY = -1


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of one block."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """A contiguous part of the epoch's stream, and the rows that each step takes from it.

    `spans` in stream order; `picks[k]` (one row per step, `slots` long) are positions in the concatenated spans, or
    EMPTY; `first_step` is the epoch's step (from 0) of picks[0]; the spans begin at row `start` of the stream.
    """

    spans: tuple[Span, ...]
    picks: np.ndarray
    first_step: int
    start: int


@dataclass(frozen=True)
class Steps:
    """Steps of one dataset, given by the number of rows of each block: what every order has in common."""

    block_rows: tuple[int, ...]
    global_batch: int
    window_rows: int

    @property
    def num_rows(self) -> int:
        return sum(self.block_rows)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.global_batch)

    @property
    def steps_per_window(self) -> int:
        return max(1, self.window_rows // self.global_batch)

    @property
    def num_windows(self) -> int:
        return -(-self.steps_per_epoch // self.steps_per_window)

    def slots(self, rank: int, world: int) -> range:
        """The slots of a global batch that `rank` takes. `world` must divide the global batch."""
        if self.global_batch % world:
            raise ValueError(f"world size {world} does not divide the global batch {self.global_batch}")
        rows = self.global_batch // world
        return range(rank * rows, (rank + 1) * rows)


@dataclass(frozen=True)
class InFileOrder(Steps):
    """Each rank takes ceil(N / world) rows as they stand (the last ranks may get fewer), all in equally many steps."""

    def segment(self, epoch: int, window: int, rank: int, world: int) -> Segment:
        """What `rank` reads and scores in a window; every epoch is the same."""
        rows_per_step = len(self.slots(rank, world))
        first_step = window * self.steps_per_window
        steps = min(self.steps_per_window, self.steps_per_epoch - first_step)
        share = -(-self.num_rows // world)
        end = min((rank + 1) * share, self.num_rows)
        start = min(rank * share + first_step * rows_per_step, end)
        stop = min(start + steps * rows_per_step, end)
        picks = np.full(steps * rows_per_step, EMPTY, np.int64)
        picks[: stop - start] = np.arange(stop - start)
        spans = spans_of(np.arange(len(self.block_rows)), np.cumsum(self.block_rows), start, stop)
        return Segment(spans, picks.reshape(steps, rows_per_step), first_step, start)


@dataclass(frozen=True)
class Order(Steps):
    """The order of training: a function of (seed, epoch, step)."""

    seed: int
    shuffle: bool = True

    @property
    def num_lanes(self) -> int:
        return math.gcd(self.global_batch, MAX_LANES)

    def segment(self, epoch: int, window: int, rank: int, world: int) -> Segment:
        """What `rank` reads and trains in a window: one contiguous part of the stream."""
        slots = self.slots(rank, world)
        first_step = window * self.steps_per_window
        start = first_step * self.global_batch
        rows = min(self.steps_per_window * self.global_batch, self.num_rows - start)
        steps = -(-rows // self.global_batch)
        per_lane = self.global_batch // self.num_lanes
        lanes = range(slots.start // per_lane, -(-slots.stop // per_lane))
        bounds = self._lane_bounds(rows)
        picks = np.full((steps, len(lanes) * per_lane), EMPTY, np.int64)
        for column, lane in enumerate(lanes):
            count = bounds[lane + 1] - bounds[lane]
            order = permutation(count, self.seed, epoch, window, lane) if self.shuffle else np.arange(count)
            padded = np.full(steps * per_lane, EMPTY, np.int64)
            padded[:count] = order + (bounds[lane] - bounds[lanes.start])
            picks[:, column * per_lane : (column + 1) * per_lane] = padded.reshape(steps, per_lane)
        offset = slots.start - lanes.start * per_lane
        first, last = start + int(bounds[lanes.start]), start + int(bounds[lanes.stop])
        spans = spans_of(*_stream(self, epoch), first, last)
        return Segment(spans, picks[:, offset : offset + len(slots)], first_step, first)

    def _lane_bounds(self, rows: int) -> np.ndarray:
        """Where each lane of a window of `rows` rows starts. Only the window's last step may have empty slots."""
        per_lane = self.global_batch // self.num_lanes
        full_steps, rest = divmod(rows, self.global_batch)
        last = np.clip(rest - np.arange(self.num_lanes) * per_lane, 0, per_lane)
        return np.concatenate([[0], np.cumsum(full_steps * per_lane + last)])


def spans_of(blocks: np.ndarray, ends: np.ndarray, start: int, stop: int) -> tuple[Span, ...]:
    """The part [start, stop) of a stream of whole `blocks` that end at `ends`, as spans of blocks."""
    if stop <= start:
        return ()
    spans = []
    for place in range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1):
        first = int(ends[place - 1]) if place else 0
        spans.append(Span(int(blocks[place]), max(start - first, 0), min(stop, int(ends[place])) - first))
    return tuple(span for span in spans if span.stop > span.start)


@lru_cache(maxsize=4)
def _stream(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of an epoch in stream order, and the stream position where each ends."""
    count = len(order.block_rows)
    blocks = permutation(count, order.seed, epoch, "blocks") if order.shuffle else np.arange(count)
    return blocks, np.cumsum(np.asarray(order.block_rows, np.int64)[blocks])
