"""Arrow -> `Rows`: the configuration's features as numpy arrays. Every id is mapped, every number and label checked."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import BagFeature, BucketFeature, Config, CrossFeature, DenseFeature, IdFeature
from dist_mtl.config.features import CustomFeature
from dist_mtl.data.features.bag_column import IdsColumn, is_weighted
from dist_mtl.data.features.bags import Bag, is_list
from dist_mtl.data.features.column import BagColumn, Column, DenseColumn, SingleColumn, Use
from dist_mtl.data.features.custom import custom_column
from dist_mtl.data.features.dense_column import NumberColumn
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.features.labels import labels_of, weights_of
from dist_mtl.data.features.numbers import is_number
from dist_mtl.data.features.reject import Where
from dist_mtl.data.features.singles import BucketColumn, CrossColumn, IdColumn
from dist_mtl.errors import DataError, nearest

BLOCK_ROWS = 8_192  # encoded at once: what they take stays in the cache of a core


@dataclass(frozen=True)
class Rows:
    """N - 1 encoded impressions and, last, the blank row that padding slots point to (no id, labels and weight 0).

    S single-id features, D dense columns, T labels.
    """

    singles_NS: np.ndarray  # int64; NO_ID where the row has none
    bags: tuple[Bag, ...]
    dense_ND: np.ndarray  # float32
    labels_NT: np.ndarray  # float32, 0 or 1
    weight_N: np.ndarray  # float32; 0 for a dropped row
    dropped_N: np.ndarray  # bool: broke the funnel under the policy `drop`
    clamped_N: np.ndarray  # int32: ids of the row that the policy `clamp` moved


class Encoder:
    """The features of a configuration, applied to Arrow tables. Feature order: single ids, bags, then dense.

    `dense` names the feature of each dense column: the numbers, then the indicators of nulls. Not `labelled`: rows to
    be scored only; their labels are 0 and their weight is 1.
    """

    def __init__(self, config: Config, labelled: bool = True) -> None:
        self.config, self.labelled = config, labelled
        self._columns = columns = {name: column_of(name, config) for name in config.features}
        self.singles = [name for name, column in columns.items() if isinstance(column, SingleColumn)]
        self.bags = [name for name, column in columns.items() if isinstance(column, BagColumn)]
        self._numbers = [name for name, column in columns.items() if isinstance(column, DenseColumn)]
        self.dense = [*self._numbers, *(name for name in self._numbers if columns[name].indicator)]
        self.weighted = is_weighted(config)

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns to read, each once."""
        names = [c for n in (*self.singles, *self.bags, *self._numbers) for c in self.config.columns_of(n)]
        return tuple(dict.fromkeys((*names, *self.answers)))

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns that say what came of an impression and how much it counts: labels, then the weight."""
        data = self.config.data
        return (*data.labels, *([data.weight] if data.weight else [])) if self.labelled else ()

    def check_schema(self, schema: pa.Schema, source: str) -> None:
        """Raise DataError for every column that is missing or has a type that its feature can not use."""
        problems = []
        for name, words, fits in self._uses():
            if name not in schema.names:
                problems.append(f"{source}: there is no column `{name}`. {nearest(name, schema.names)}".rstrip())
            elif schema.names.count(name) > 1:
                problems.append(f"{source}: there are {schema.names.count(name)} columns `{name}`")
            elif not fits(kind := schema.field(name).type):
                problems.append(f"{source}: column `{name}` is {kind}, but {words}{_advice(kind, words)}")
        if problems:
            raise DataError("\n".join(dict.fromkeys(problems)))

    def encode(self, table: pa.Table, where: Where) -> Rows:
        """Encode `table`. Raises DataError, with the place from `where`, for the first row that breaks a rule."""
        count, data = table.num_rows, self.config.data
        clamped = np.zeros(count + 1, np.int32)
        singles = np.empty((count + 1, len(self.singles)), np.int64)
        dense = np.empty((count + 1, len(self.dense)), np.float32)
        singles[count], dense[count] = NO_ID, 0
        for start in range(0, count, BLOCK_ROWS):
            part, rows = table.slice(start, BLOCK_ROWS), slice(start, min(start + BLOCK_ROWS, count))

            def here(row: int, start: int = start) -> str:
                return where(start + row)

            if self.singles:
                moved = clamped[rows]
                # Column by column into an array of rows would take six times as long.
                singles[rows] = np.stack([self._single(name, part, moved, here) for name in self.singles]).T
            dense[rows] = self._dense(part, here).T
        bags = tuple(self._columns[name].bag(table, clamped[:count], where) for name in self.bags)
        labels, dropped = np.zeros((count + 1, len(data.labels)), np.float32), np.zeros(count + 1, bool)
        weight = np.append(np.ones(count, np.float32), np.float32(0))
        if self.labelled:
            labels[:count], dropped[:count] = labels_of(table, data, where)
            if data.weight:
                weight[:count] = weights_of(table, data.weight, where)
        weight[dropped] = 0
        return Rows(singles, bags, dense, labels, weight, dropped, clamped)

    def _uses(self) -> Iterator[Use]:
        """Every use of a column."""
        for name in (*self.singles, *self.bags, *self._numbers):
            yield from self._columns[name].uses()
        if not self.labelled:
            return
        for label in self.config.data.labels:
            yield label, "a label needs 0/1 numbers or booleans", is_number
        if weight := self.config.data.weight:
            yield weight, "data.weight needs numbers", is_number

    def _single(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> np.ndarray:
        rows, missing = self._columns[name].ids(table, clamped, where)
        return rows if missing is None else np.where(missing, NO_ID, rows)

    def _dense(self, table: pa.Table, where: Where) -> np.ndarray:
        """(D, N) float32: the numbers, then the indicators."""
        dense = np.empty((len(self.dense), table.num_rows), np.float32)
        indicator = len(self._numbers)
        for i, name in enumerate(self._numbers):
            column = self._columns[name]
            dense[i], missing = column.numbers(table, where)
            if column.indicator:
                dense[indicator] = missing
                indicator += 1
        return dense


def column_of(name: str, config: Config) -> Column:
    """What a feature makes of its columns."""
    match config.features[name]:
        case IdFeature() as feature:
            return IdColumn.of(name, feature, config)
        case BucketFeature() as feature:
            return BucketColumn.of(name, feature)
        case CrossFeature() as feature:
            return CrossColumn.of(name, feature, config)
        case BagFeature() as feature:
            return IdsColumn.of(name, feature, config)
        case DenseFeature() as feature:
            return NumberColumn.of(name, feature)
        case CustomFeature() as feature:
            return custom_column(name, feature, config)


def _advice(kind: pa.DataType, words: str) -> str:
    """What to do about a number where ids are wanted: often integers that pandas made floats to hold nulls."""
    inner = kind.value_type if is_list(kind, lambda _: True) else kind
    if "integers" in words and (pa.types.is_floating(inner) or pa.types.is_decimal(inner)):
        return "; cast it to int64 where the data are made, or use kind = 'bucket' or 'dense'"
    return ""
