"""Which row is trained when: a pure function of (seed, epoch, step, rank, world). No I/O, no torch, no pyarrow.

    blocks   the dataset as row groups, permuted per epoch and laid end to end: the epoch's stream
    tracks   the stream cut into `num_tracks` equal parts, read side by side: a step mixes at least that many blocks
    windows  every `steps_per_window` steps take the next rows of each track; a window is trained before the next one
    lanes    a window cut into `num_lanes` contiguous segments; every step takes global_batch / num_lanes rows from
             each, in an order permuted per (epoch, window, lane)

A rank owns a contiguous range of a step's slots, hence of lanes: it decodes only its own tracks, or its part of one
(when the world size does not divide `num_lanes`, a lane at either edge besides). The world size appears in `slots`
alone, so every world size that divides the global batch trains the same rows in the same order. The last step of an
epoch has empty slots, which become rows of weight 0. The trained step is the whole state.

There are two other orders. `Partitions`: the parts of a dataset, such as its days, one after the other. To score,
`InFileOrder`: each rank takes one contiguous part of the dataset, so that what it writes stands in the dataset's order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dist_mtl.data.hashing import permutation

VERSION = 2  # of the order of training: a run can not go on in the middle of an epoch under another one
MAX_LANES = 64  # a power of two: rank counts up to 64 that are powers of two then never share a lane
# Windows' rows that the open row groups may hold together. With 2 the loader needs no more memory than it did with a
# third window in place of the tracks, and a step of the default window mixes 32 to 48 row groups instead of 17.
OPEN_WINDOWS = 2
EMPTY = -1


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of one block."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """What a rank reads in a window, and the rows that each step takes from it.

    `picks[k]` (one row per step, `slots` long) are positions in the concatenated spans, or EMPTY; `first_step` is the
    epoch's step (from 0) of picks[0]. In file order the spans are one part of the dataset, which begins at row `start`.
    """

    spans: tuple[Span, ...]
    picks: np.ndarray
    first_step: int
    start: int = 0


@dataclass(frozen=True)
class Steps:
    """Steps of one dataset, given by the number of rows of each block: what every order has in common."""

    block_rows: tuple[int, ...]
    global_batch: int
    window_rows: int

    @cached_property
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

    def window_of(self, step: int) -> int:
        """The window that trains an epoch's step (from 0)."""
        return step // self.steps_per_window

    def starts_window(self, step: int) -> bool:
        """Whether a window begins with global step `step` (from 1, over all epochs)."""
        return (step - 1) % self.steps_per_epoch % self.steps_per_window == 0


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
        spans = spans_of(*self._stream, start, stop)
        return Segment(spans, picks.reshape(steps, rows_per_step), first_step, start)

    @cached_property
    def _stream(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(self.block_rows)), np.cumsum(self.block_rows, dtype=np.int64)


@dataclass(frozen=True)
class Order(Steps):
    """The order of training: a function of (seed, epoch, step). Without `shuffle` the stream is read end to end."""

    seed: int
    shuffle: bool = True

    @property
    def num_lanes(self) -> int:
        return math.gcd(self.global_batch, MAX_LANES)

    @cached_property
    def num_tracks(self) -> int:
        """As many as leave the open row groups, one a track, room in OPEN_WINDOWS windows; a divisor of the lanes."""
        tracks = self.num_lanes if self.shuffle else 1
        while tracks > 1 and tracks * max(self.block_rows, default=0) > OPEN_WINDOWS * self.window_rows:
            tracks //= 2
        return tracks

    def segment(self, epoch: int, window: int, rank: int, world: int) -> Segment:
        """What `rank` reads and trains in a window: the next part of each of its tracks."""
        slots = self.slots(rank, world)
        first_step = window * self.steps_per_window
        rows = min(self.steps_per_window * self.global_batch, self.num_rows - first_step * self.global_batch)
        steps = -(-rows // self.global_batch)
        per_lane = self.global_batch // self.num_lanes
        lanes = range(slots.start // per_lane, -(-slots.stop // per_lane))
        bounds = self._lane_bounds(rows)
        picks = np.full((steps, len(lanes) * per_lane), EMPTY, np.int64)
        for column, lane in enumerate(lanes):
            count = int(bounds[lane + 1] - bounds[lane])
            order = permutation(count, self.seed, epoch, window, lane) if self.shuffle else np.arange(count)
            padded = np.full(steps * per_lane, EMPTY, np.int64)
            padded[:count] = order + (bounds[lane] - bounds[lanes.start])
            picks[:, column * per_lane : (column + 1) * per_lane] = padded.reshape(steps, per_lane)
        offset = slots.start - lanes.start * per_lane
        spans = self._spans(epoch, lanes, bounds, first_step)
        return Segment(spans, picks[:, offset : offset + len(slots)], first_step)

    def _spans(self, epoch: int, lanes: range, bounds: np.ndarray, first_step: int) -> tuple[Span, ...]:
        """The rows of these lanes of a window, track by track. Every step before the window's was full."""
        whole, wide = self._lane_bounds(self.num_rows), self.num_lanes // self.num_tracks
        spans: list[Span] = []
        for track in range(lanes.start // wide, -(-lanes.stop // wide)):
            first = track * wide
            begin = whole[first] + first_step * (self.global_batch // self.num_tracks) - bounds[first]
            inside = range(max(first, lanes.start), min(first + wide, lanes.stop))
            stop = int(begin + bounds[inside.stop])
            spans += spans_of(*self._stream(epoch), int(begin + bounds[inside.start]), stop)
        return tuple(spans)

    def _lane_bounds(self, rows: int) -> np.ndarray:
        """Where each lane of `rows` rows in steps starts. Only the last step may have empty slots."""
        per_lane = self.global_batch // self.num_lanes
        full_steps, rest = divmod(rows, self.global_batch)
        last = np.clip(rest - np.arange(self.num_lanes) * per_lane, 0, per_lane)
        return np.concatenate([[0], np.cumsum(full_steps * per_lane + last)])

    def _stream(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of an epoch in stream order, and the stream position where each ends; the last epoch is kept."""
        if epoch not in self._streams:
            count = len(self.block_rows)
            blocks = permutation(count, self.seed, epoch, "blocks") if self.shuffle else np.arange(count)
            self._streams.clear()
            self._streams[epoch] = blocks, np.cumsum(self._block_rows[blocks])
        return self._streams[epoch]

    @cached_property
    def _streams(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    @cached_property
    def _block_rows(self) -> np.ndarray:
        return np.asarray(self.block_rows, np.int64)


@dataclass(frozen=True)
class Part:
    """One partition: its name, the dataset's blocks that it has, and their order."""

    name: str
    blocks: tuple[int, ...]
    order: Order


@dataclass(frozen=True)
class Partitions:
    """The parts of a dataset in their order, each once: no step mixes two, the last step of each has empty slots."""

    parts: tuple[Part, ...]

    @property
    def num_rows(self) -> int:
        return sum(part.order.num_rows for part in self.parts)

    @property
    def global_batch(self) -> int:
        return self.parts[0].order.global_batch

    @property
    def steps_per_epoch(self) -> int:
        return int(self.last_steps[-1])

    @property
    def num_windows(self) -> int:
        return int(self._windows[-1])

    @cached_property
    def last_steps(self) -> np.ndarray:
        """The step (from 1) with which each part ends."""
        return np.cumsum([part.order.steps_per_epoch for part in self.parts])

    @cached_property
    def _windows(self) -> np.ndarray:
        """How many windows there are up to the end of each part."""
        return np.cumsum([part.order.num_windows for part in self.parts])

    def slots(self, rank: int, world: int) -> range:
        """As those of `Steps`."""
        return self.parts[0].order.slots(rank, world)

    def part_of(self, step: int) -> int:
        """The part that global step `step` (from 1) trains."""
        return int(np.searchsorted(self.last_steps, step))

    def starts_part(self, step: int) -> bool:
        """Whether a part begins with global step `step` (from 1)."""
        return step == 1 + self._steps_before(self.part_of(step))

    def window_of(self, step: int) -> int:
        """The window that trains step `step` (from 0)."""
        k = self.part_of(step + 1)
        return self._windows_before(k) + self.parts[k].order.window_of(step - self._steps_before(k))

    def starts_window(self, step: int) -> bool:
        """Whether a window begins with global step `step` (from 1)."""
        k = self.part_of(step)
        return self.parts[k].order.starts_window(step - self._steps_before(k))

    def segment(self, epoch: int, window: int, rank: int, world: int) -> Segment:
        """What `rank` reads and trains in a window. There is one epoch; each part is shuffled as one of its own."""
        k = int(np.searchsorted(self._windows, window, side="right"))
        part = self.parts[k]
        found = part.order.segment(k, window - self._windows_before(k), rank, world)
        spans = tuple(replace(span, block=part.blocks[span.block]) for span in found.spans)
        return replace(found, spans=spans, first_step=found.first_step + self._steps_before(k))

    def _steps_before(self, k: int) -> int:
        return int(self.last_steps[k - 1]) if k else 0

    def _windows_before(self, k: int) -> int:
        return int(self._windows[k - 1]) if k else 0


def partitioned(order: Order, keys: Sequence[int] | Sequence[str]) -> Partitions:
    """`order` with its blocks parted by the key of each, in ascending order of the keys."""
    blocks_of: dict[int | str, list[int]] = {key: [] for key in sorted(set(keys))}
    for block, key in enumerate(keys):
        blocks_of[key].append(block)
    parts = []
    for key, blocks in blocks_of.items():
        rows = tuple(order.block_rows[block] for block in blocks)
        parts.append(Part(str(key), tuple(blocks), replace(order, block_rows=rows)))
    return Partitions(tuple(parts))


def spans_of(blocks: np.ndarray, ends: np.ndarray, start: int, stop: int) -> tuple[Span, ...]:
    """The part [start, stop) of a stream of whole `blocks` that end at `ends`, as spans of blocks."""
    if stop <= start:
        return ()
    spans = []
    for place in range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1):
        first = int(ends[place - 1]) if place else 0
        spans.append(Span(int(blocks[place]), max(start - first, 0), min(stop, int(ends[place])) - first))
    return tuple(span for span in spans if span.stop > span.start)
