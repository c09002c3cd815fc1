"""A dataset as an endless-looking stream of batches: reading, encoding and collating run ahead in two threads.

Threads, not worker processes: Arrow and numpy release the GIL, and there is no fork to inherit a lock. Memory, whatever
the dataset's size: two windows of `data.shuffle_rows` / world rows (one in use, one read ahead), and the rest of each
open row group, which are at most two windows' rows, or one row group if that has more (see `Order.num_tracks`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch, Carried, collate
from dist_mtl.data.column_class import TrainedOn, columns_of
from dist_mtl.data.features.encode import Encoder, Rows
from dist_mtl.data.features.same_ids import check_same_ids
from dist_mtl.data.files import manifest as manifests
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.quarantine import Lost, salvage, without
from dist_mtl.data.files.reader import Block, Reader, blocks_of
from dist_mtl.data.files.schema import subset
from dist_mtl.data.files.window_reader import Unfinished
from dist_mtl.data.order import EMPTY, InFileOrder, Order, Partitions, Segment
from dist_mtl.data.prefetch import prefetch
from dist_mtl.data.stream import files_of, streamed
from dist_mtl.errors import DataError, nearest

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Dataset:
    """The impressions of one folder, in the order of one configuration."""

    folder: Folder
    manifest: Manifest
    schema: pa.Schema  # of the files' columns, then of the partitions
    encoder: Encoder
    order: Order | Partitions | InFileOrder
    carry: tuple[str, ...] = ()  # columns that travel with the batches; in file order only
    quarantine: int = 0  # damaged row groups that may be skipped, in training only

    @classmethod
    def open(cls, folder: str, config: Config, shuffle: bool) -> "Dataset":
        """To train. Reads the manifest and one footer.

        Raises DataError: no manifest, no rows, a missing or unusable column, no partitions for data.stream.
        """
        manifest = manifests.read(folder)
        order = Order(*_steps(manifest, config), config.seed, shuffle)
        if config.data.stream is not None:
            order = streamed(order, manifest, config.data.stream, folder)
        schema, encoder = manifests.arrow_schema(folder, manifest), Encoder(config)
        return cls(Folder.of(folder), manifest, schema, encoder, order, quarantine=config.data.quarantine)._checked()

    @classmethod
    def open_to_score(
        cls, folder: str, config: Config, carry: Sequence[str], labelled: bool, trained_on: TrainedOn | None = None
    ) -> "Dataset":
        """To score, in the order of the files. `carry`: columns that go along. Not `labelled`: labels may be absent.

        Raises DataError as `open` does, and for ids of another class than in the rows that were `trained_on`.
        """
        manifest = manifests.read(folder)
        labelled = labelled or any(label in manifest.schema for label in config.data.labels)
        encoder, order = Encoder(config, labelled), InFileOrder(*_steps(manifest, config))
        schema = manifests.arrow_schema(folder, manifest)
        dataset = cls(Folder.of(folder), manifest, schema, encoder, order, tuple(dict.fromkeys(carry)))._checked()
        if trained_on is not None:
            check_same_ids(config, trained_on, schema, source=str(folder))
        return dataset

    @property
    def trained_on(self) -> TrainedOn:
        """What other rows are compared with, once these are trained."""
        return TrainedOn(str(self.folder), columns_of(self.schema))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Every row group, in the manifest's order: what the order's blocks are."""
        return blocks_of(self.manifest)

    def reader(self, columns: Sequence[str]) -> Reader:
        """Of these columns, each once, in the types of the whole dataset."""
        return Reader(self.folder, self.blocks, subset(self.schema, columns))

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns to read, each once."""
        return tuple(dict.fromkeys((*self.encoder.columns, *self.carry)))

    def digest_at(self, step: int) -> str:
        """What decides the rows up to a step: the manifest's digest, of a stream that of its partitions so far.

        So a stream goes on where partitions came to its end. (Rates that decay to an end are a matter of all rows.)
        """
        config = self.encoder.config
        if config.data.stream is None or config.optim.decay != "none":
            return self.manifest.digest
        names = [part.name for part in self.order.parts[: self.order.part_of(step) + 1]]
        return files_of(self.manifest, config.data.stream, names).digest

    def _checked(self) -> "Dataset":
        manifests.check_file(self.folder, self.manifest, self.manifest.files[0], full=False)
        self.encoder.check_schema(self.schema, source=str(self.folder))
        if bad := [name for name in self.carry if self.schema.names.count(name) != 1]:
            count = self.schema.names.count(bad[0])
            there = f"are {count} columns" if count else "is no column"
            hint = "give each its own name" if count else nearest(bad[0], self.schema.names)
            raise DataError(f"{self.folder}: there {there} `{bad[0]}` to carry along. {hint}".rstrip())
        return self

    def verify(self, rank: int, world: int, full: bool) -> None:
        """Check this rank's share of the files against the manifest. Raises DataError naming the first bad one."""
        manifests.check_files(self.folder, self.manifest, self.manifest.files[rank::world], full)

    def batches(
        self, rank: int, world: int, from_step: int = 0, to_step: int | None = None, lost: Sequence[Lost] = ()
    ) -> Iterator[Batch]:
        """The batches of steps from_step + 1 ... to_step (default: the end of the first epoch) for one rank.

        Steps count from 1 over all epochs; `from_step` is the last trained one, the whole state of the loader
        beside the row groups that were `lost` before. Close the iterator (or exhaust it) to end its threads.
        """
        stop = self.order.steps_per_epoch if to_step is None else to_step
        windows = prefetch(self._windows(rank, world, from_step, stop, lost), ahead=1)
        return prefetch(self._cut(windows, rank, world, from_step, stop), ahead=BATCHES_AHEAD)

    def _windows(self, rank: int, world: int, start: int, stop: int, gone: Sequence[Lost]) -> Iterator["_Window"]:
        """From the window that holds step start + 1."""
        source = Unfinished(self.reader(self.columns))
        known = {one.place for one in gone}
        lost = {i: "" for i, block in enumerate(self.blocks) if (block.path, block.row_group) in known} if known else {}
        step = start
        while step < stop:
            epoch, place = divmod(step, self.order.steps_per_epoch)
            before = epoch * self.order.steps_per_epoch
            segment = self.order.segment(epoch, self.order.window_of(place), rank, world)
            yield self._window(before, segment, source, lost)
            step = before + segment.first_step + len(segment.picks)

    def _window(self, before: int, segment: Segment, source: Unfinished, lost: dict[int, str]) -> "_Window":
        known, quarantined = set(lost), np.zeros(len(segment.picks), np.int64)
        if self.quarantine:
            sound, table = salvage(source.read, segment.spans, lost)
            segment, quarantined = without(segment, sound)
        else:
            table = source.read(segment.spans) if segment.spans else None
        table = self._no_rows() if table is None else table
        rows = self.encoder.encode(table, lambda row: source.reader.locate(segment.spans, row))
        carried = table.select(list(self.carry)) if isinstance(self.order, InFileOrder) else None
        found = tuple(self._lost(block, lost[block]) for block in lost if block not in known)
        return _Window(before, segment, rows, carried, quarantined, found)

    def _lost(self, number: int, reason: str) -> Lost:
        block = self.blocks[number]
        return Lost(block.path, block.row_group, block.rows, reason)

    def _cut(self, windows: Iterator["_Window"], rank: int, world: int, start: int, stop: int) -> Iterator[Batch]:
        first_slot = self.order.slots(rank, world).start
        for window in windows:
            for index, picks in enumerate(window.segment.picks):
                step = window.steps_before + window.segment.first_step + index + 1
                if start < step <= stop:
                    batch = collate(self.encoder, window.rows, picks, step, first_slot)
                    if self.quarantine:
                        new = window.lost if index == 0 or step == start + 1 else ()
                        batch = replace(batch, quarantined=int(window.quarantined[index]), lost=new)
                    yield batch if window.carried is None else replace(batch, carried=window.carry(picks))

    def _no_rows(self) -> pa.Table:
        """A table without rows: a rank whose slots are all empty in a short window still takes every step."""
        return subset(self.schema, self.columns).empty_table()


@dataclass(frozen=True)
class _Window:
    """A rank's part of a window, decoded."""

    steps_before: int  # of its epoch
    segment: Segment
    rows: Rows
    carried: pa.Table | None
    quarantined: np.ndarray  # rows of lost row groups at each step
    lost: tuple[Lost, ...]  # found in this window

    def carry(self, picks: np.ndarray) -> Carried:
        """The carried rows of one step; in file order they stand side by side."""
        first, count = max(int(picks[0]), 0), int((picks != EMPTY).sum())
        return Carried(self.segment.start + first, count, self.carried.slice(first, count))


def _steps(manifest: Manifest, config: Config) -> tuple[tuple[int, ...], int, int]:
    """What every order of a dataset starts from: rows of each block, of a step, of a window."""
    blocks = tuple(block.rows for block in blocks_of(manifest))
    return blocks, config.train.global_batch, config.data.shuffle_rows
