"""A dataset as an endless-looking stream of batches: reading, encoding and collating run ahead in two threads.

Threads, not worker processes: Arrow and numpy release the GIL, and there is no fork to inherit a lock. Memory: at most
three windows of `data.shuffle_rows` / world rows (one read ahead, one waiting, one in use), whatever the dataset's
size.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.config import Config
from dist_mtl.data import manifest as manifests
from dist_mtl.data.batch import Batch, Carried, collate
from dist_mtl.data.encode import Encoder, Rows
from dist_mtl.data.manifest import Manifest
from dist_mtl.data.order import EMPTY, InFileOrder, Order, Segment
from dist_mtl.data.reader import Reader, blocks_of
from dist_mtl.errors import DataError
from dist_mtl.hints import nearest

T = TypeVar("T")
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Dataset:
    """The impressions of one folder, in the order of one configuration."""

    folder: Path
    manifest: Manifest
    encoder: Encoder
    order: Order | InFileOrder
    carry: tuple[str, ...] = ()  # columns that travel with the batches; in file order only

    @classmethod
    def open(cls, folder: str, config: Config, shuffle: bool) -> "Dataset":
        """To train. Reads the manifest and one footer.

        Raises DataError: no manifest, no rows, a missing or unusable column.
        """
        manifest = manifests.read(Path(folder))
        order = Order(*_steps(manifest, config), config.seed, shuffle)
        return cls(Path(folder), manifest, Encoder(config), order)._checked()

    @classmethod
    def open_to_score(cls, folder: str, config: Config, carry: Sequence[str], labelled: bool) -> "Dataset":
        """To score, in the order of the files. `carry`: columns that go along. Not `labelled`: labels may be absent.

        Raises DataError as `open` does.
        """
        manifest = manifests.read(Path(folder))
        labelled = labelled or any(label in manifest.schema for label in config.data.labels)
        encoder, order = Encoder(config, labelled), InFileOrder(*_steps(manifest, config))
        return cls(Path(folder), manifest, encoder, order, tuple(dict.fromkeys(carry)))._checked()

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema, from the first file's footer."""
        return pq.read_schema(self.folder / self.manifest.files[0].path)

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns to read, each once."""
        return tuple(dict.fromkeys((*self.encoder.columns, *self.carry)))

    def _checked(self) -> "Dataset":
        manifests.check_file(self.folder, self.manifest, self.manifest.files[0], full=False)
        self.encoder.check_schema(self.schema, source=str(self.folder))
        if absent := [name for name in self.carry if name not in self.schema.names]:
            hint = nearest(absent[0], self.schema.names)
            raise DataError(f"{self.folder}: there is no column `{absent[0]}` to carry along. {hint}".rstrip())
        return self

    def verify(self, rank: int, world: int, full: bool) -> None:
        """Check this rank's share of the files against the manifest. Raises DataError naming the first bad one."""
        for file in self.manifest.files[rank::world]:
            manifests.check_file(self.folder, self.manifest, file, full)

    def batches(self, rank: int, world: int, from_step: int = 0, to_step: int | None = None) -> Iterator[Batch]:
        """The batches of steps from_step + 1 ... to_step (default: the end of the first epoch) for one rank.

        Steps count from 1 over all epochs; `from_step` is the last trained one, the whole state of the loader.
        Close the iterator (or exhaust it) to end its threads.
        """
        stop = self.order.steps_per_epoch if to_step is None else to_step
        windows = prefetch(self._windows(rank, world, from_step, stop), depth=1)
        return prefetch(self._cut(windows, rank, world, from_step, stop), depth=BATCHES_AHEAD)

    def _windows(self, rank: int, world: int, start: int, stop: int) -> Iterator["_Window"]:
        """From the window that holds step start + 1."""
        reader = Reader(self.folder, blocks_of(self.manifest), self.columns)
        step = start
        while step < stop:
            epoch, step_in_epoch = divmod(step, self.order.steps_per_epoch)
            window = step_in_epoch // self.order.steps_per_window
            segment = self.order.segment(epoch, window, rank, world)
            table = reader.read(segment.spans) if segment.spans else self._no_rows()
            rows = self.encoder.encode(table, lambda row, s=segment: reader.locate(s.spans, row))
            before = epoch * self.order.steps_per_epoch
            in_file_order = isinstance(self.order, InFileOrder)
            yield _Window(before, segment, rows, table.select(list(self.carry)) if in_file_order else None)
            step = before + segment.first_step + len(segment.picks)

    def _cut(self, windows: Iterator["_Window"], rank: int, world: int, start: int, stop: int) -> Iterator[Batch]:
        first_slot = self.order.slots(rank, world).start
        for window in windows:
            for index, picks in enumerate(window.segment.picks):
                step = window.steps_before + window.segment.first_step + index + 1
                if start < step <= stop:
                    batch = collate(self.encoder, window.rows, picks, step, first_slot)
                    yield batch if window.carried is None else replace(batch, carried=window.carry(picks))

    def _no_rows(self) -> pa.Table:
        """A table without rows: a rank whose slots are all empty in a short window still takes every step."""
        return self.schema.empty_table().select(list(self.columns))


@dataclass(frozen=True)
class _Window:
    """A rank's part of a window, decoded."""

    steps_before: int  # of its epoch
    segment: Segment
    rows: Rows
    carried: pa.Table | None

    def carry(self, picks: np.ndarray) -> Carried:
        """The carried rows of one step; in file order they stand side by side."""
        first, count = max(int(picks[0]), 0), int((picks != EMPTY).sum())
        return Carried(self.segment.start + first, count, self.carried.slice(first, count))


def _steps(manifest: Manifest, config: Config) -> tuple[tuple[int, ...], int, int]:
    """What every order of a dataset starts from: rows of each block, of a step, of a window."""
    blocks = tuple(block.rows for block in blocks_of(manifest))
    return blocks, config.train.global_batch, config.data.shuffle_rows


def prefetch(source: Iterator[T], depth: int) -> Iterator[T]:
    """Yield what `source` yields, computed at most `depth` items ahead in a thread of its own.

    An exception of `source` is raised here, in its turn. The thread starts at the first `next` and ends when this
    iterator is exhausted or closed.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(kind: str, item: object) -> bool:
        while not closed.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # handed to the consumer, who raises it
            put("error", error)
        finally:
            if hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        closed.set()
        thread.join()
