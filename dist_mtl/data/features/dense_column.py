"""Features that are numbers for the network."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import DenseFeature
from dist_mtl.data.features.column import DenseColumn, Use
from dist_mtl.data.features.numbers import dense_of, is_number
from dist_mtl.data.features.reject import Where
from dist_mtl.data.features.singles import fitted


@dataclass(frozen=True)
class NumberColumn(DenseColumn):
    """A number, clipped, squeezed and scaled as `DenseFeature` says."""

    name: str
    column: str
    feature: DenseFeature
    indicator: bool

    @classmethod
    def of(cls, name: str, feature: DenseFeature) -> "NumberColumn":
        return cls(name, feature.column or name, feature, feature.null == "indicator")

    def uses(self) -> Iterator[Use]:
        yield self.column, f"features.{self.name} needs numbers", is_number

    def numbers(self, table: pa.Table, where: Where) -> tuple[np.ndarray, np.ndarray]:
        return dense_of(table.column(self.column), self.name, fitted(self.name, self.feature), where)
