"""Features that are lists of ids, perhaps with weights, perhaps cut to a length."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import BagFeature, Config
from dist_mtl.data.features.bags import Bag, blocks, is_list, lists, offsets_of, shares, truncate
from dist_mtl.data.features.column import BagColumn, Use
from dist_mtl.data.features.ids import Lookup, ids_of, is_id, wanted
from dist_mtl.data.features.numbers import is_number, numbers_of
from dist_mtl.data.features.reject import Where, refuse, refuse_value
from dist_mtl.data.features.singles import lookup_of

BLOCK_IDS = 262_144  # encoded at once: what they take stays in the cache of a core


@dataclass(frozen=True)
class IdsColumn(BagColumn):
    """A bag. `is_mean`: its weights are made a mean here, because some bag of the configuration is weighted."""

    name: str
    column: str
    feature: BagFeature
    lookup: Lookup
    is_mean: bool

    @classmethod
    def of(cls, name: str, feature: BagFeature, config: Config) -> "IdsColumn":
        is_mean = is_weighted(config) and config.tables[config.table_of(name)].pooling == "mean"
        return cls(name, feature.column or name, feature, lookup_of(name, feature.policy, config), is_mean)

    def uses(self) -> Iterator[Use]:
        policy = self.feature.policy
        words = f"features.{self.name} needs a list of ids: {wanted(policy)}"
        yield self.column, words, lambda kind: is_list(kind, lambda inner: is_id(inner, policy))
        if self.feature.weights:
            words = f"the weights of features.{self.name} need a list of numbers"
            yield self.feature.weights, words, lambda kind: is_list(kind, is_number)

    def id_columns(self) -> Iterator[str]:
        yield self.column

    def bag(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        """A block after the other, into one array: large arrays that live shortly cost page faults."""
        feature = self.feature
        table = table.select(list(dict.fromkeys(column for column, _, _ in self.uses())))
        offsets = offsets_of(table, self.column, feature.max_length)
        values = np.empty(offsets[-1], np.int64)
        weights = np.empty(offsets[-1], np.float32) if feature.weights or self.is_mean else None
        for rows in blocks(offsets, BLOCK_IDS):
            part = table.slice(rows.start, rows.stop - rows.start)
            bag = self._block(part, clamped[rows], lambda row, first=rows.start: where(first + row))
            place = slice(offsets[rows.start], offsets[rows.stop])
            values[place] = bag.values
            if weights is not None:
                weights[place] = bag.weights
        return Bag(values, np.append(offsets, offsets[-1]), weights)

    def _block(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        feature = self.feature
        array, offsets = lists(table, self.column)
        weights = self._weights(table, offsets, where) if feature.weights else None
        if feature.max_length is not None:
            kept, offsets = truncate(offsets, feature.max_length, feature.keep or "last")
            if kept is not None:
                array, weights = array.take(pa.array(kept)), None if weights is None else weights.take(pa.array(kept))

        def row(value: int) -> str:
            """The place of the row that holds a value."""
            return where(int(np.searchsorted(offsets, value, side="right")) - 1)

        ids, missing = ids_of(array, feature.policy)
        if missing is not None:
            refuse(missing, row, f"features.{self.name}: a null inside the list")
        values, moved = self.lookup.rows_of(ids, row, array)
        if moved is not None and moved.any():
            sums = np.concatenate([[0], np.cumsum(moved, dtype=np.int32)])
            clamped += np.diff(sums[offsets])
        if weights is not None:
            weights = _finite(weights, row, feature.weights)
        if self.is_mean:
            if weights is not None:
                refuse(weights < 0, row, f"`{feature.weights}` is negative, and a mean has no negative weights")
            weights = shares(offsets, weights)
        return Bag(values, offsets, weights)

    def _weights(self, table: pa.Table, offsets: np.ndarray, where: Where) -> pa.Array:
        """The weights of a bag's ids, as they stand in the data."""
        column = self.feature.weights
        raw, theirs = lists(table, column)
        refuse(np.diff(theirs) != np.diff(offsets), where, f"`{column}` is not as long as features.{self.name}")
        return raw


def _finite(raw: pa.Array, row: Where, column: str) -> np.ndarray:
    """Weights as float32. Raises DataError for one that is none."""
    weights = raw.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    if not (good := np.isfinite(weights)).all():
        refuse(~np.isfinite(numbers_of(raw)), row, f"`{column}` is null or not finite")
        refuse_value(~good, row, f"`{column}`", raw, "beyond the range of float32")
    return weights


def is_weighted(config: Config) -> bool:
    """Whether any bag has weights; then all ids have."""
    return any(isinstance(feature, BagFeature) and feature.weights for feature in config.features.values())
