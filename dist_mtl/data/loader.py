"""A dataset as an endless-looking stream of batches: reading, encoding and collating run ahead in two threads.

Threads, not worker processes: Arrow and numpy release the GIL, and there is no fork to inherit a lock. Memory: at most
three windows of `data.shuffle_rows` / world rows (one read ahead, one waiting, one in use), whatever the dataset's size.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.config import Config
from dist_mtl.data import manifest as manifests
from dist_mtl.data.batch import Batch, collate
from dist_mtl.data.encode import Encoder, Rows
from dist_mtl.data.manifest import Manifest
from dist_mtl.data.order import Order, Segment
from dist_mtl.data.reader import Reader, blocks_of

T = TypeVar("T")
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Dataset:
    """The impressions of one folder, in the order of one configuration."""

    folder: Path
    manifest: Manifest
    encoder: Encoder
    order: Order

    @classmethod
    def open(cls, folder: str, config: Config, shuffle: bool) -> "Dataset":
        """Read the manifest and one footer. Raises DataError: no manifest, no rows, a missing or unusable column."""
        root = Path(folder)
        manifest = manifests.read(root)
        encoder = Encoder(config)
        first = manifest.files[0]
        manifests.check_file(root, manifest, first, full=False)
        encoder.check_schema(pq.read_schema(root / first.path), source=str(root))
        order = Order(
            block_rows=tuple(block.rows for block in blocks_of(manifest)),
            global_batch=config.train.global_batch,
            window_rows=config.data.shuffle_rows,
            seed=config.seed,
            shuffle=shuffle,
        )
        return cls(root, manifest, encoder, order)

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

    def _windows(self, rank: int, world: int, start: int, stop: int) -> Iterator[tuple[int, Segment, Rows]]:
        """(steps before the segment's epoch, segment, its rows) from the window that holds step start + 1."""
        reader = Reader(self.folder, blocks_of(self.manifest), self.encoder.columns)
        step = start
        while step < stop:
            epoch, step_in_epoch = divmod(step, self.order.steps_per_epoch)
            window = step_in_epoch // self.order.steps_per_window
            segment = self.order.segment(epoch, window, rank, world)
            table = reader.read(segment.spans) if segment.spans else self._no_rows()
            rows = self.encoder.encode(table, lambda row, s=segment: reader.locate(s.spans, row))
            before = epoch * self.order.steps_per_epoch
            yield before, segment, rows
            step = before + segment.first_step + len(segment.picks)

    def _cut(
        self, windows: Iterator[tuple[int, Segment, Rows]], rank: int, world: int, start: int, stop: int
    ) -> Iterator[Batch]:
        first_slot = self.order.slots(rank, world).start
        for before, segment, rows in windows:
            for index, picks in enumerate(segment.picks):
                step = before + segment.first_step + index + 1
                if start < step <= stop:
                    yield collate(self.encoder, rows, picks, step, first_slot)

    def _no_rows(self) -> pa.Table:
        """A table without rows: a rank whose slots are all empty in a short window still takes every step."""
        schema = pq.read_schema(self.folder / self.manifest.files[0].path)
        return schema.empty_table().select(list(self.encoder.columns))


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
