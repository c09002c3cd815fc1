"""Ragged columns: lists of ids a row, with weights, cut to a length."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.data.column_class import is_odd_list


@dataclass(frozen=True)
class Bag:
    """A ragged column: row i holds values[offsets[i]:offsets[i+1]]."""

    values: np.ndarray  # int64
    offsets: np.ndarray  # int64, N + 1
    weights: np.ndarray | None  # float32, as long as `values`

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32, N."""
        return np.diff(self.offsets).astype(np.int32)


def is_list(kind: pa.DataType, inner: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type is a list, of any kind, of what `inner` accepts. A column of null alone has empty lists."""
    lists = pa.types.is_list(kind) or is_odd_list(kind)
    return (lists and inner(kind.value_type)) or pa.types.is_null(kind)


def lists(table: pa.Table, column: str) -> tuple[pa.Array, np.ndarray]:
    """A list column as its flat values and offsets; a null list is empty."""
    array = _lists(table.column(column)).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return array.flatten(), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.list_(pa.null())) if pa.types.is_null(column.type) else column


def offsets_of(table: pa.Table, column: str, longest: int | None) -> np.ndarray:
    """Where each row's list begins once none is longer than `longest`; int64, N + 1."""
    lengths = pc.fill_null(pc.list_value_length(_lists(table.column(column))), 0).to_numpy()
    kept = lengths if longest is None else np.minimum(lengths, longest)
    return np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])


def blocks(offsets: np.ndarray, most: int) -> Iterator[slice]:
    """Rows in blocks of about `most` values, and of one row at least."""
    start, rows = 0, len(offsets) - 1
    while start < rows:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + most, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def truncate(offsets: np.ndarray, longest: int, keep: str) -> tuple[np.ndarray | None, np.ndarray]:
    """The positions that stay when no list may be longer than `longest` (None: all), and the new offsets."""
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, longest)
    if kept.sum() == offsets[-1]:
        return None, offsets
    starts = offsets[:-1] if keep == "first" else offsets[1:] - kept
    shorter = np.concatenate([[0], np.cumsum(kept)])
    return np.arange(shorter[-1]) + np.repeat(starts - shorter[:-1], kept), shorter


def shares(offsets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The weights of each list (none: all 1) over their sum, so that a weighted sum is the mean; all 0 stay 0."""
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    totals = np.bincount(owner, weights, minlength=len(lengths)).astype(np.float64)
    scale = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals != 0)[owner]
    return (scale if weights is None else weights * scale).astype(np.float32)
