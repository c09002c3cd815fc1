"""Arrow -> `Rows`: the configuration's features as numpy arrays. Every id is hashed, clamped or rejected here.

After this file an id is a row of its table, whatever the sharding plan: FBGEMM itself would map an id beyond the table
to row 0, and a row-wise plan a negative one to a row of another shard, both silently (measured).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.config import BagFeature, BucketFeature, Config, DenseFeature, IdFeature
from dist_mtl.data.funnel import broken
from dist_mtl.data.hashing import hash_ids, hash_strings, key
from dist_mtl.errors import DataError
from dist_mtl.hints import nearest

NO_ID = -1
LEAST_WEIGHT, MOST_WEIGHT = 2.0**-20, 2.0**10  # of a row that counts: metrics sum weights and their squares as integers
Where = Callable[[int], str]  # row number -> file and row, for messages


@dataclass(frozen=True)
class Bag:
    """A ragged column: row i holds values[offsets[i]:offsets[i+1]]."""

    values: np.ndarray  # int64
    offsets: np.ndarray  # int64, N + 1
    weights: np.ndarray | None  # float32, as long as `values`


@dataclass(frozen=True)
class Rows:
    """N - 1 encoded impressions and, last, the blank row that padding slots point to (no id, labels and weight 0).

    S single-id features, D dense features, T labels.
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

    Not `labelled`: rows to be scored only; their labels are 0 and their weight is 1.
    """

    def __init__(self, config: Config, labelled: bool = True) -> None:
        self.config, self.labelled = config, labelled
        self.singles = [n for n, f in config.features.items() if isinstance(f, IdFeature | BucketFeature)]
        self.bags = [n for n, f in config.features.items() if isinstance(f, BagFeature)]
        self.dense = [n for n, f in config.features.items() if isinstance(f, DenseFeature)]
        self.weighted = any(getattr(config.features[n], "weights", None) for n in self.bags)

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns to read, each once."""
        features = self.config.features
        names = [features[n].column or n for n in (*self.singles, *self.bags, *self.dense)]
        names += [w for n in self.bags if (w := features[n].weights)]
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
            elif not fits(schema.field(name).type):
                problems.append(f"{source}: column `{name}` is {schema.field(name).type}, but {words}")
        if problems:
            raise DataError("\n".join(dict.fromkeys(problems)))

    def encode(self, table: pa.Table, where: Where) -> Rows:
        """Encode `table`. Raises DataError, with the place from `where`, for the first row that breaks a rule."""
        count = table.num_rows
        clamped = np.zeros(count + 1, np.int32)
        singles = np.full((count + 1, len(self.singles)), NO_ID, np.int64)
        for i, name in enumerate(self.singles):
            singles[:count, i] = self._single(name, table, clamped[:count], where)
        bags = tuple(self._bag(name, table, clamped[:count], where) for name in self.bags)
        dense = np.zeros((count + 1, len(self.dense)), np.float32)
        for i, name in enumerate(self.dense):
            dense[:count, i] = self._dense(name, table, where)
        labels, dropped = self._labels(table, where)
        weight = np.zeros(count + 1, np.float32)
        weight[:count] = 1
        if self.labelled and (column := self.config.data.weight):
            weight[:count] = _weights(table, column, where)
        weight[dropped] = 0
        return Rows(singles, bags, dense, labels, weight, dropped, clamped)

    def _wanted(self) -> Iterator[tuple[str, str, Callable[[pa.DataType], bool]]]:
        """Every use of a column: its name, and what it must be in words and as a test."""
        features = self.config.features
        for name in (*self.singles, *self.bags, *self.dense):
            feature = features[name]
            column = feature.column or name
            match feature:
                case IdFeature(policy="hash"):
                    yield column, f"features.{name} needs integers or strings", _is_id
                case IdFeature():
                    yield column, f"features.{name} with policy `{feature.policy}` needs integers", pa.types.is_integer
                case BagFeature():
                    inner = _is_id if feature.policy == "hash" else pa.types.is_integer
                    yield column, f"features.{name} needs a list of ids", lambda t, i=inner: _is_list(t, i)
                    if feature.weights:
                        words = f"the weights of features.{name} need a list of numbers"
                        yield feature.weights, words, lambda t: _is_list(t, _is_number)
                case _:
                    yield column, f"features.{name} needs numbers", _is_number
        if not self.labelled:
            return
        for label in self.config.data.labels:
            yield label, "a label needs 0/1 numbers or booleans", lambda t: _is_number(t) or pa.types.is_boolean(t)
        if weight := self.config.data.weight:
            yield weight, "data.weight needs numbers", _is_number

    def _single(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> np.ndarray:
        feature = self.config.features[name]
        column = feature.column or name
        if isinstance(feature, BucketFeature):
            numbers = _numbers(table, column, where, null=np.nan)
            buckets = np.searchsorted(np.asarray(feature.boundaries), numbers, side="right")
            return np.where(np.isnan(numbers), NO_ID, buckets)
        array = decoded(table.column(column).combine_chunks())
        rows, moved = self._map(name, ids_of(array, feature.policy), where)
        if moved is not None:
            clamped += moved
        if array.null_count:
            missing = array.is_null().to_numpy(zero_copy_only=False)
            rows = np.where(missing, NO_ID, rows)
        return rows

    def _map(self, name: str, ids: np.ndarray, where: Where) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids -> rows of the feature's table by its policy, and which of them `clamp` moved."""
        table = self.config.table_of(name)
        rows = self.config.tables[table].rows
        match self.config.features[name].policy:
            case "hash":
                return hash_ids(ids, rows, key("table", table)), None
            case "clamp":
                mapped = np.clip(ids, 0, rows - 1)
                return mapped, mapped != ids
            case _:
                bad = (ids < 0) | (ids >= rows)
                first = ids[bad][0] if bad.any() else None
                _refuse(
                    bad, where, f"features.{name}: id {first} is outside table `{table}` of {rows} rows (policy reject)"
                )
                return ids, None

    def _bag(self, name: str, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        feature = self.config.features[name]
        array, offsets = _lists(table, feature.column or name)
        array = decoded(array)
        owner = np.repeat(np.arange(table.num_rows), np.diff(offsets))
        if array.null_count:
            bad = array.is_null().to_numpy(zero_copy_only=False)
            _refuse(bad, lambda i: where(int(owner[i])), f"features.{name}: a null inside the list")
        ids = ids_of(array, feature.policy)
        weights = None
        if feature.weights:
            raw, weight_offsets = _lists(table, feature.weights)
            _refuse(
                np.diff(weight_offsets) != np.diff(offsets),
                where,
                f"`{feature.weights}` is not as long as features.{name}",
            )
            weights = raw.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
            _refuse(~np.isfinite(weights), lambda i: where(int(owner[i])), f"`{feature.weights}` is null or not finite")
        values, moved = self._map(name, ids, lambda i: where(int(owner[i])))
        if moved is not None:
            clamped += np.bincount(owner[moved], minlength=len(clamped)).astype(np.int32)
        if feature.max_length is not None:
            kept, offsets = _truncate(offsets, feature.max_length, feature.keep or "last")
            values, weights = values[kept], None if weights is None else weights[kept]
        if self.weighted and self.config.tables[self.config.table_of(name)].pooling == "mean":
            weights = _shares(offsets, weights)
        return Bag(values, np.append(offsets, offsets[-1]), weights)

    def _dense(self, name: str, table: pa.Table, where: Where) -> np.ndarray:
        feature: Any = self.config.features[name]
        numbers = _numbers(table, feature.column or name, where, null=np.nan)
        missing = np.isnan(numbers)
        if feature.log:
            numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        with np.errstate(over="ignore"):
            values = np.where(missing, feature.fill, (numbers - feature.mean) / feature.std).astype(np.float32)
        _refuse(~np.isfinite(values), where, f"features.{name} is infinite or beyond the range of float32")
        return values

    def _labels(self, table: pa.Table, where: Where) -> tuple[np.ndarray, np.ndarray]:
        """Labels as float32 and the rows to drop because a later label is set where an earlier one is not."""
        names = self.config.data.labels
        labels = np.zeros((table.num_rows + 1, len(names)), np.float32)
        if not self.labelled:
            return labels, np.zeros(table.num_rows + 1, bool)
        for i, name in enumerate(names):
            labels[:-1, i] = _numbers(table, name, where, null=None)
            bad = (labels[:, i] != 0) & (labels[:, i] != 1)
            _refuse(bad, where, f"label `{name}` is {labels[bad, i][:1]}, not 0 or 1")
        if not self.config.data.funnel:
            return labels, np.zeros(len(labels), bool)
        breaks = broken(labels)
        dropped = breaks.any(axis=1)
        if self.config.data.violations == "reject" and dropped.any():
            place = int(np.argmax(breaks[dropped][0]))
            _refuse(
                dropped,
                where,
                f"`{names[place + 1]}` is 1 where `{names[place]}` is 0; mend the data or set data.violations = 'drop'",
            )
        return labels, dropped


def _refuse(bad: np.ndarray, where: Where, message: str) -> None:
    if bad.any():
        raise DataError(f"{where(int(np.argmax(bad)))}: {message} ({int(bad.sum())} such in this read)")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_id(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(inner) or _is_string(inner)


def _is_list(kind: pa.DataType, inner: Callable[[pa.DataType], bool]) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and inner(kind.value_type)


def decoded(array: pa.Array) -> pa.Array:
    """A dictionary's values in their places. Before nulls are asked for: one may be among the values, uncounted."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def ids_of(array: pa.Array, policy: str) -> np.ndarray:
    """Integers or strings -> int64; nulls give any value. uint64 wraps if `hash` (an id is a name), else saturates."""
    if _is_string(array.type):
        array = array.cast(pa.large_string())
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        return hash_strings(np.frombuffer(data or b"", np.uint8), bounds)
    if array.null_count:
        array = array.fill_null(0)
    ids = array.to_numpy(zero_copy_only=False)
    if ids.dtype == np.uint64 and policy != "hash":
        ids = np.minimum(ids, np.uint64(2**63 - 1))
    return ids.astype(np.int64, copy=False)


def _numbers(table: pa.Table, column: str, where: Where, null: float | None) -> np.ndarray:
    """A numeric column as float64. `null` stands for nulls and NaN; None refuses both."""
    array = table.column(column).combine_chunks().cast(pa.float64(), safe=False)
    if null is None and array.null_count:
        _refuse(array.is_null().to_numpy(zero_copy_only=False), where, f"`{column}` is null")
    numbers = array.to_numpy(zero_copy_only=False)  # nulls become NaN
    if null is None:
        _refuse(np.isnan(numbers), where, f"`{column}` is NaN")
    return numbers


def _weights(table: pa.Table, column: str, where: Where) -> np.ndarray:
    """Weights of rows as float64: 0, or what a sum over all rows has room for."""
    numbers = _numbers(table, column, where, null=None)
    bad = (numbers != 0) & ~((numbers >= LEAST_WEIGHT) & (numbers <= MOST_WEIGHT))
    room = f"0 or {LEAST_WEIGHT:.2g} (2^-20) to {MOST_WEIGHT:g}"
    advice = "only ratios of weights matter: divide all by their mean, and cap what is larger still"
    _refuse(bad, where, f"`{column}` is {numbers[bad][:1]}, but a row may weigh {room}; {advice}")
    return numbers


def _lists(table: pa.Table, column: str) -> tuple[pa.Array, np.ndarray]:
    """A list column as its flat values and offsets; a null list is empty."""
    array = table.column(column).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return array.flatten(), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _truncate(offsets: np.ndarray, longest: int, keep: str) -> tuple[np.ndarray, np.ndarray]:
    """The positions that stay when no list may be longer than `longest`, and the new offsets."""
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, longest)
    starts = offsets[:-1] if keep == "first" else offsets[1:] - kept
    shorter = np.concatenate([[0], np.cumsum(kept)])
    return np.arange(shorter[-1]) + np.repeat(starts - shorter[:-1], kept), shorter


def _shares(offsets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The weights of each list (none: all 1) over their sum, so that a weighted sum is the mean; all 0 stay 0."""
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    totals = np.bincount(owner, weights, minlength=len(lengths)).astype(np.float64)
    scale = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals != 0)[owner]
    return (scale if weights is None else weights * scale).astype(np.float32)
