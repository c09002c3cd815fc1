"""Rows in memory as what a dataset gives: a pandas frame, an Arrow table or a list of dicts -> batches, in their order.

Only the columns that features read are taken; others are ignored.
"""

import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch, Carried, collate
from dist_mtl.data.column_class import WHOLE, TrainedOn
from dist_mtl.data.column_class import Columns as RawColumns
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.same_ids import check_same_ids
from dist_mtl.data.files.quarantine import Lost
from dist_mtl.data.files.schema import cast, readable
from dist_mtl.data.order import EMPTY, InFileOrder
from dist_mtl.errors import DataError

SOURCE = "the frame"  # what messages call it
EXACT = 2**53  # integers beyond it are not exact as float64
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class FrameRows:
    """The rows of a table, cut into steps and windows as a dataset of these rows is."""

    table: pa.Table
    encoder: Encoder
    order: InFileOrder
    folder: str = SOURCE
    quarantine: int = 0

    @classmethod
    def of(cls, frame: Any, config: Config, trained_on: TrainedOn) -> "FrameRows":
        """The rows of a frame. Raises DataError: it is none, or a column is missing, of a type that its feature cannot
        use, or of another class than the one that was trained on."""
        encoder = Encoder(config, labelled=False)
        table = table_of(frame, encoder.columns, trained_on.columns)
        table = cast(table, readable(table.schema), SOURCE)
        encoder.check_schema(table.schema, SOURCE)
        check_same_ids(config, trained_on, table.schema, SOURCE)
        order = InFileOrder((table.num_rows,), config.train.global_batch, config.data.shuffle_rows)
        return cls(table.select(list(encoder.columns)), encoder, order)

    def batches(
        self, rank: int, world: int, from_step: int = 0, to_step: int | None = None, lost: Sequence[Lost] = ()
    ) -> Generator[Batch]:
        """All of them, as `Dataset.batches` gives those of a dataset that is scored. Raises DataError."""
        for window in range(self.order.num_windows):
            segment = self.order.segment(0, window, rank, world)
            table = pa.concat_tables(self.table.slice(s.start, s.stop - s.start) for s in segment.spans)
            rows = self.encoder.encode(table, lambda row, first=segment.start: f"{SOURCE}, row {first + row}")
            for index, picks in enumerate(segment.picks):
                batch = collate(self.encoder, rows, picks, segment.first_step + index + 1, 0)
                first, count = segment.start + max(int(picks[0]), 0), int((picks != EMPTY).sum())
                carried = Carried(first, count, self.table.slice(first, count).select([]))
                yield replace(batch, carried=carried)


def table_of(frame: Any, names: Sequence[str], trained: RawColumns) -> pa.Table:
    """The columns of `frame` with these names, as far as it has them. `trained`: those of the training rows.

    Raises DataError for what is no frame, or a column of no Arrow type.
    """
    if isinstance(frame, pa.Table):
        found = {name: frame.column(name) for name in names if frame.column_names.count(name) == 1}
        _refuse_twice(names, frame.column_names)
    elif _is_pandas(frame):
        columns = [name for name in frame.columns if isinstance(name, str)]
        _refuse_twice(names, columns)
        found = {name: _from_pandas(frame[name], name, trained) for name in names if name in columns}
    elif isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
        known = set().union(*(row.keys() for row in frame))
        found = {name: _array([row.get(name) for row in frame], name) for name in names if name in known or not frame}
    else:
        raise DataError(
            f"{type(frame).__name__} is no frame to score; pass a pandas DataFrame, a pyarrow Table or a list of dicts"
        )
    return pa.table(found)


def answer(frame: Any, columns: Columns) -> Any:
    """The columns as a frame of the same kind; of pandas with the same index."""
    if isinstance(frame, pa.Table):
        return pa.table(columns)
    if _is_pandas(frame):
        return type(frame)(columns, index=frame.index)
    numbers = (column.tolist() for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*numbers, strict=True)]


def _is_pandas(frame: Any) -> bool:
    """Whether it is a pandas frame; pandas is no requirement, and whoever has a frame has imported it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(frame, pandas.DataFrame)


def _refuse_twice(names: Sequence[str], there: Sequence[str]) -> None:
    if twice := [name for name in names if list(there).count(name) > 1]:
        raise DataError(f"{SOURCE}: there are {list(there).count(twice[0])} columns `{twice[0]}`; remove or rename one")


def _array(values: Any, name: str) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"{SOURCE}: column `{name}`: {str(error).splitlines()[0]}; give it values of one type"
        ) from None


def _from_pandas(series: Any, name: str, trained: RawColumns) -> pa.Array | pa.ChunkedArray:
    """As pandas' own Parquet files have it; and whole numbers that pandas made floats to hold nulls are whole again."""
    array = _array(series, name)
    if not pa.types.is_float64(array.type) or name not in trained or trained[name].kind != WHOLE:
        return array
    numbers = array.drop_null().to_numpy(zero_copy_only=False)
    if (numbers != np.trunc(numbers)).any() or (np.abs(numbers) > EXACT).any():
        return array  # of another class, which is refused
    return array.cast(pa.int64())
