"""Features of one id: an id as it stands, a number's bucket, the ids of several columns as one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from dist_mtl.config import BucketFeature, Config, CrossFeature, DenseFeature, IdFeature
from dist_mtl.data.features.column import Ids, SingleColumn, Use
from dist_mtl.data.features.ids import Lookup, cross, ids_of, is_id, wanted
from dist_mtl.data.features.numbers import buckets_of, is_number, numbers_of
from dist_mtl.data.features.reject import Where
from dist_mtl.errors import InternalError


@dataclass(frozen=True)
class IdColumn(SingleColumn):
    """An id, by the policy of the feature."""

    name: str
    column: str
    feature: IdFeature
    lookup: Lookup

    @classmethod
    def of(cls, name: str, feature: IdFeature, config: Config) -> "IdColumn":
        return cls(name, feature.column or name, feature, lookup_of(name, feature.policy, config))

    def uses(self) -> Iterator[Use]:
        policy = self.feature.policy
        under = "" if policy == "hash" else f" with policy `{policy}`"
        yield self.column, f"features.{self.name}{under} needs {wanted(policy)}", lambda kind: is_id(kind, policy)

    def id_columns(self) -> Iterator[str]:
        yield self.column

    def ids(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Ids:
        column = table.column(self.column)
        ids, missing = ids_of(column, self.feature.policy)
        rows, moved = self.lookup.rows_of(ids, where, column)
        if moved is not None:
            clamped += moved
        return rows, missing


@dataclass(frozen=True)
class BucketColumn(SingleColumn):
    """The bucket of a number."""

    name: str
    column: str
    feature: BucketFeature

    @classmethod
    def of(cls, name: str, feature: BucketFeature) -> "BucketColumn":
        return cls(name, feature.column or name, feature)

    def uses(self) -> Iterator[Use]:
        yield self.column, f"features.{self.name} needs numbers", is_number

    def ids(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Ids:
        return buckets_of(numbers_of(table.column(self.column)), fitted(self.name, self.feature).edges)


@dataclass(frozen=True)
class CrossColumn(SingleColumn):
    """The ids of several columns, or buckets, as one."""

    name: str
    parts: tuple[tuple[str, str, BucketColumn | None], ...]  # name, column, the feature if it is a bucket
    lookup: Lookup

    @classmethod
    def of(cls, name: str, feature: CrossFeature, config: Config) -> "CrossColumn":
        parts = []
        for part, column in zip(feature.of, config.columns_of(name), strict=True):
            other = config.features.get(part)
            parts.append((part, column, BucketColumn.of(part, other) if isinstance(other, BucketFeature) else None))
        return cls(name, tuple(parts), lookup_of(name, feature.policy, config))

    def uses(self) -> Iterator[Use]:
        for column in self.id_columns():
            yield column, f"features.{self.name}, a cross, needs {wanted('hash')}", is_id

    def id_columns(self) -> Iterator[str]:
        yield from (column for _, column, bucket in self.parts if bucket is None)

    def ids(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Ids:
        parts = [
            ids_of(table.column(column), "hash") if bucket is None else bucket.ids(table, clamped, where)
            for _, column, bucket in self.parts
        ]
        gaps = [missing for _, missing in parts if missing is not None]
        crossed = cross([ids for ids, _ in parts])
        rows, _ = self.lookup.rows_of(crossed, where, pa.array(crossed))
        return rows, np.logical_or.reduce(gaps) if gaps else None


def lookup_of(name: str, policy: str, config: Config) -> Lookup:
    """How the ids of a feature become rows of its table."""
    table = config.table_of(name)
    return Lookup(name, table, config.tables[table].rows, policy)


Fitted = TypeVar("Fitted", BucketFeature, DenseFeature)


def fitted(name: str, feature: Fitted) -> Fitted:
    """A feature whose values are known. Raises InternalError if they wait for the training rows."""
    if not feature.is_fitted:
        raise InternalError(f"features.{name}: to be found in the training rows, but nothing has looked yet")
    return feature
