"""Arrow -> `Rows`: the configuration's features as numpy arrays. Every id is mapped, every number and label checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import BagFeature, BucketFeature, Config, CrossFeature, DenseFeature, IdFeature
from dist_mtl.data.features.bags import Bag, blocks, is_list, lists, offsets_of, shares, truncate
from dist_mtl.data.features.ids import NO_ID, Lookup, cross, ids_of, is_id, wanted
from dist_mtl.data.features.labels import labels_of, weights_of
from dist_mtl.data.features.numbers import buckets_of, dense_of, is_number, numbers_of
from dist_mtl.data.features.refusal import Where, refuse
from dist_mtl.errors import DataError, InternalError
from dist_mtl.hints import nearest

BLOCK_ROWS, BLOCK_IDS = 8_192, 262_144  # encoded at once: what they take stays in the cache of a core
Ids = tuple[np.ndarray, np.ndarray | None]  # int64, and which of them are missing; None: there is none


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
        features = config.features
        self.singles = [n for n, f in features.items() if isinstance(f, IdFeature | BucketFeature | CrossFeature)]
        self.bags = [n for n, f in features.items() if isinstance(f, BagFeature)]
        self._numbers = [n for n, f in features.items() if isinstance(f, DenseFeature)]
        self.dense = [*self._numbers, *(n for n in self._numbers if features[n].null == "indicator")]
        self.weighted = any(features[n].weights for n in self.bags)

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
        for name, words, fits in self._wanted():
            if name not in schema.names:
                problems.append(f"{source}: there is no column `{name}`. {nearest(name, schema.names)}".rstrip())
            elif schema.names.count(name) > 1:
                problems.append(f"{source}: there are {schema.names.count(name)} columns `{name}`")
            elif not fits(kind := schema.field(name).type):
                problems.append(f"{source}: column `{name}` is {kind}, but {words}{_advice(kind, words)}")
        if problems:
            raise DataError("\n".join(dict.fromkeys(problems)))

    def can_be(self, column: str, kind: pa.DataType) -> bool:
        """Whether every feature of a column can use this type."""
        return all(fits(kind) for name, _, fits in self._wanted() if name == column)

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
        bags = tuple(self._bag(name, table, clamped[:count], where) for name in self.bags)
        labels, dropped = np.zeros((count + 1, len(data.labels)), np.float32), np.zeros(count + 1, bool)
        weight = np.append(np.ones(count, np.float32), np.float32(0))
        if self.labelled:
            labels[:count], dropped[:count] = labels_of(table, data, where)
            if data.weight:
                weight[:count] = weights_of(table, data.weight, where)
        weight[dropped] = 0
        return Rows(singles, bags, dense, labels, weight, dropped, clamped)

    def _wanted(self) -> Iterator[tuple[str, str, Callable[[pa.DataType], bool]]]:
        """Every use of a column: its name, and what it must be in words and as a test."""
        for name in (*self.singles, *self.bags, *self._numbers):
            feature, columns = self.config.features[name], self.config.columns_of(name)
            match feature:
                case IdFeature(policy=policy):
                    under = "" if policy == "hash" else f" with policy `{policy}`"
                    yield columns[0], f"features.{name}{under} needs {wanted(policy)}", lambda t, p=policy: is_id(t, p)
                case CrossFeature():
                    buckets = {p for p in feature.of if isinstance(self.config.features.get(p), BucketFeature)}
                    for part, column in zip(feature.of, columns, strict=True):
                        if part not in buckets:
                            yield column, f"features.{name}, a cross, needs {wanted('hash')}", is_id
                case BagFeature(policy=policy):
                    words = f"features.{name} needs a list of ids: {wanted(policy)}"
                    yield columns[0], words, lambda t, p=policy: is_list(t, lambda inner: is_id(inner, p))
                    if feature.weights:
                        words = f"the weights of features.{name} need a list of numbers"
                        yield feature.weights, words, lambda t: is_list(t, is_number)
                case _:
                    yield columns[0], f"features.{name} needs numbers", is_number
        if not self.labelled:
            return
        for label in self.config.data.labels:
            yield label, "a label needs 0/1 numbers or booleans", is_number
        if weight := self.config.data.weight:
            yield weight, "data.weight needs numbers", is_number

    def _single(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> np.ndarray:
        feature = self.config.features[name]
        match feature:
            case BucketFeature():
                rows, missing = self._buckets(name, table)
            case CrossFeature():
                ids, missing = self._cross(feature, table)
                rows, _ = self._lookup(name).rows_of(ids, where)
            case _:
                ids, missing = ids_of(table.column(feature.column or name), feature.policy)
                rows, moved = self._lookup(name).rows_of(ids, where)
                if moved is not None:
                    clamped += moved
        return rows if missing is None else np.where(missing, NO_ID, rows)

    def _cross(self, feature: CrossFeature, table: pa.Table) -> Ids:
        parts = [self._part(name, table) for name in feature.of]
        gaps = [missing for _, missing in parts if missing is not None]
        return cross([ids for ids, _ in parts]), np.logical_or.reduce(gaps) if gaps else None

    def _part(self, name: str, table: pa.Table) -> Ids:
        feature = self.config.features.get(name)
        if isinstance(feature, BucketFeature):
            return self._buckets(name, table)
        return ids_of(table.column(name if feature is None else feature.column or name), "hash")

    def _buckets(self, name: str, table: pa.Table) -> Ids:
        feature = self._fitted(name)
        return buckets_of(numbers_of(table.column(feature.column or name)), feature.edges)

    def _bag(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        """A bag's column, a block after the other, into one array: large arrays that live shortly cost page faults."""
        feature = self.config.features[name]
        table = table.select(dict.fromkeys(self.config.columns_of(name)))
        offsets = offsets_of(table, feature.column or name, feature.max_length)
        shared = self.weighted and self.config.tables[self.config.table_of(name)].pooling == "mean"
        values = np.empty(offsets[-1], np.int64)
        weights = np.empty(offsets[-1], np.float32) if feature.weights or shared else None
        for rows in blocks(offsets, BLOCK_IDS):
            part = table.slice(rows.start, rows.stop - rows.start)
            bag = self._block(name, part, clamped[rows], lambda row, first=rows.start: where(first + row))
            place = slice(offsets[rows.start], offsets[rows.stop])
            values[place] = bag.values
            if weights is not None:
                weights[place] = bag.weights
        return Bag(values, np.append(offsets, offsets[-1]), weights)

    def _block(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        feature = self.config.features[name]
        array, offsets = lists(table, feature.column or name)
        weights = self._weights(name, table, offsets, where) if feature.weights else None
        if feature.max_length is not None:
            kept, offsets = truncate(offsets, feature.max_length, feature.keep or "last")
            if kept is not None:
                array, weights = array.take(pa.array(kept)), None if weights is None else weights[kept]

        def row(value: int) -> str:
            """The place of the row that holds a value."""
            return where(int(np.searchsorted(offsets, value, side="right")) - 1)

        ids, missing = ids_of(array, feature.policy)
        if missing is not None:
            refuse(missing, row, f"features.{name}: a null inside the list")
        values, moved = self._lookup(name).rows_of(ids, row)
        if moved is not None and moved.any():
            sums = np.concatenate([[0], np.cumsum(moved, dtype=np.int32)])
            clamped += np.diff(sums[offsets])
        if weights is not None:
            refuse(~np.isfinite(weights), row, f"`{feature.weights}` is null or not finite")
        if self.weighted and self.config.tables[self.config.table_of(name)].pooling == "mean":
            if weights is not None:
                refuse(weights < 0, row, f"`{feature.weights}` is negative, and a mean has no negative weights")
            weights = shares(offsets, weights)
        return Bag(values, offsets, weights)

    def _weights(self, name: str, table: pa.Table, offsets: np.ndarray, where: Where) -> np.ndarray:
        """The weights of a bag's ids, as they stand in the data."""
        column = self.config.features[name].weights
        raw, theirs = lists(table, column)
        refuse(np.diff(theirs) != np.diff(offsets), where, f"`{column}` is not as long as features.{name}")
        return raw.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)

    def _dense(self, table: pa.Table, where: Where) -> np.ndarray:
        """(D, N) float32: the numbers, then the indicators."""
        dense = np.empty((len(self.dense), table.num_rows), np.float32)
        indicator = len(self._numbers)
        for i, name in enumerate(self._numbers):
            feature = self._fitted(name)
            numbers = numbers_of(table.column(feature.column or name))
            dense[i], missing = dense_of(numbers, name, feature, where)
            if feature.null == "indicator":
                dense[indicator] = missing
                indicator += 1
        return dense

    def _lookup(self, name: str) -> Lookup:
        table = self.config.table_of(name)
        return Lookup(name, table, self.config.tables[table].rows, self.config.features[name].policy)

    def _fitted(self, name: str) -> BucketFeature | DenseFeature:
        feature = self.config.features[name]
        if not feature.is_fitted:
            raise InternalError(f"features.{name}: to be found in the training rows, but nothing has looked yet")
        return feature


def _advice(kind: pa.DataType, words: str) -> str:
    """What to do about a number where ids are wanted: often integers that pandas made floats to hold nulls."""
    inner = kind.value_type if is_list(kind, lambda _: True) else kind
    if "integers" in words and (pa.types.is_floating(inner) or pa.types.is_decimal(inner)):
        return "; cast it to int64 where the data are made, or use kind = 'bucket' or 'dense'"
    return ""
