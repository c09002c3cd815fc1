"""Two folders of predictions of the same rows -> arrays. Only the columns that are asked for are read, block by block.

Memory, N rows, M tasks, L labels: 8 M + L + 4 bytes a row, 9 for each key column and 4 for each column of slices: 39
for click and conversion compared by user. `statistics` takes 140 bytes a row on top of it, 190 with groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_mtl.data.features.group_keys import keys_of
from dist_mtl.data.files import manifest as manifests
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.reader import Reader, blocks_of
from dist_mtl.data.files.schema import subset
from dist_mtl.data.funnel import broken, spaces
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError
from dist_mtl.metrics.slices import Slicing
from dist_mtl.scoring.predict import ROW
from dist_mtl.terminal.wording import plural


@dataclass(frozen=True)
class Keys:
    """A column that says which rows belong together; a row without a value belongs to none."""

    keys_N: np.ndarray  # int64
    present_N: np.ndarray  # bool

    def clusters(self) -> np.ndarray:
        """Codes 0, 1, ... of the rows' groups; a row without a value is a group of its own."""
        codes_N = np.unique(self.keys_N, return_inverse=True)[1]
        absent = np.flatnonzero(~self.present_N)
        codes_N[absent] = len(codes_N) + np.arange(len(absent))
        return codes_N


@dataclass(frozen=True)
class TaskRows:
    """The n rows that count for one task: in its space, of a weight above 0. `rows_n`: their numbers in the dataset."""

    a_n: np.ndarray  # float32 logits
    b_n: np.ndarray
    labels_n: np.ndarray  # bool
    weights_n: np.ndarray  # float64
    rows_n: np.ndarray

    def at(self, places: np.ndarray) -> "TaskRows":
        """Some of the rows, by their place or by a mask."""
        return TaskRows(*(column[places] for column in vars(self).values()))


@dataclass(frozen=True)
class Joint:
    """N rows with the scores of both runs, in the order of the dataset."""

    tasks: tuple[str, ...]
    a_MN: np.ndarray  # float32 logits of the M tasks
    b_MN: np.ndarray
    labels_LN: np.ndarray  # bool
    weights_N: np.ndarray  # float32; 0 for a row that breaks the funnel, as in training
    keys: dict[str, Keys]  # by column
    places: dict[str, np.ndarray]  # by the name of a slicing: int32, the slice of each row

    @property
    def is_funnel(self) -> bool:
        """Whether a label implies the one before it; a funnel of T > 1 labels has tasks between them, too."""
        return len(self.tasks) > len(self.labels_LN)

    def of(self, task: int) -> TaskRows:
        """What counts for a task, on its own space."""
        space, counts_N = spaces(len(self.labels_LN), self.is_funnel)[task], self.weights_N > 0
        if space.given is not None:
            counts_N &= self.labels_LN[space.given]
        rows_n = np.flatnonzero(counts_N)
        columns = (self.a_MN[task], self.b_MN[task], self.labels_LN[space.label], self.weights_N.astype(np.float64))
        return TaskRows(*(column[rows_n] for column in columns), rows_n)


def read(
    folders: tuple[Path, Path],
    tasks: tuple[str, ...],
    labels: Sequence[str],
    weight: str | None,
    keys: Sequence[str],
    slicings: Sequence[Slicing],
) -> Joint:
    """The predictions of both runs, with the labels, the weight, the keys and the slices that run A's kept.

    Raises DataError: a damaged file, or rows that are not 0, 1, 2, ... in both folders.
    """
    first, second = (manifests.read(folder) for folder in folders)
    if first.num_rows != second.num_rows:
        raise _other_rows(folders[1], f"{plural(second.num_rows, 'row')}, {folders[0]} has {first.num_rows:,}")
    count = first.num_rows
    joint = Joint(
        tasks,
        *(np.empty((len(tasks), count), np.float32) for _ in folders),
        np.empty((len(labels), count), bool),
        np.ones(count, np.float32),
        {name: Keys(np.empty(count, np.int64), np.empty(count, bool)) for name in keys},
        {slicing.name: np.empty(count, np.int32) for slicing in slicings},
    )
    logits = tuple(f"logit_{task}" for task in tasks)
    more = (*labels, *([weight] if weight else []), *keys, *(slicing.column for slicing in slicings))
    for rows, table in _blocks(folders[0], first, (*logits, *more)):
        _take(joint, rows, table, labels, weight, slicings)
        joint.a_MN[:, rows] = [table.column(name).to_numpy() for name in logits]
    for rows, table in _blocks(folders[1], second, logits):
        joint.b_MN[:, rows] = [table.column(name).to_numpy() for name in logits]
    return joint


def _take(
    joint: Joint, rows: slice, table: pa.Table, labels: Sequence[str], weight: str | None, slicings: Sequence[Slicing]
) -> None:
    """What both runs share, of the rows of one block."""
    for place, name in enumerate(labels):
        joint.labels_LN[place, rows] = _numbers(table, name) > 0
    if weight:
        joint.weights_N[rows] = _numbers(table, weight)
    if joint.is_funnel:
        joint.weights_N[rows][broken(joint.labels_LN[:, rows].T).any(axis=1)] = 0
    for name, column in joint.keys.items():
        column.keys_N[rows], column.present_N[rows] = keys_of(table.column(name))
    for slicing in slicings:
        joint.places[slicing.name][rows] = slicing.places(table.column(slicing.column))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _blocks(folder: Path, manifest: Manifest, columns: Sequence[str]) -> Iterator[tuple[slice, pa.Table]]:
    """The row groups in order, each with the rows it is; `row_number` is checked on the way."""
    blocks, first = blocks_of(manifest), 0
    reader = Reader(folder, blocks, subset(manifests.arrow_schema(folder, manifest), (ROW, *columns)))
    for index, block in enumerate(blocks):
        table = reader.read([Span(index, 0, block.rows)])
        rows = slice(first, first + block.rows)
        if not np.array_equal(table.column(ROW).to_numpy(), np.arange(rows.start, rows.stop)):
            raise _other_rows(folder, f"{block.path} does not hold rows {rows.start:,} to {rows.stop - 1:,} in order")
        yield rows, table
        first = rows.stop


def _other_rows(folder: Path, what: str) -> DataError:
    return DataError(f"{folder}: {what}, so it can not be compared row by row; remove the folder, it is made again")
