"""Features that a function from outside of the package computes: `Config.extensions`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.config.extensions import Feature
from dist_mtl.config.features import CustomFeature
from dist_mtl.data.features.column import Column, DenseColumn, Ids, SingleColumn, Use
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.features.reject import Where, refuse
from dist_mtl.errors import DataError


def custom_column(name: str, feature: CustomFeature, config: Config) -> Column:
    """The column of a custom feature. Raises ConfigError if its function is not there."""
    made = config.extensions.feature(name)
    return CustomNumbers(name, made) if feature.rows is None else CustomIds(name, made)


@dataclass(frozen=True)
class CustomNumbers(DenseColumn):
    """Numbers for the network, finite."""

    name: str
    made: Feature
    indicator: bool = False

    def uses(self) -> Iterator[Use]:
        return _uses(self.name, self.made)

    def numbers(self, table: pa.Table, where: Where) -> tuple[np.ndarray, np.ndarray]:
        numbers = _values(self.name, self.made, table).astype(np.float32)
        refuse(~np.isfinite(numbers), where, f"features.{self.name}: its function returned a number that is not finite")
        return numbers, np.zeros(len(numbers), bool)


@dataclass(frozen=True)
class CustomIds(SingleColumn):
    """Ids of a table of the feature's own."""

    name: str
    made: Feature

    def uses(self) -> Iterator[Use]:
        return _uses(self.name, self.made)

    def id_columns(self) -> Iterator[str]:
        yield from self.made.columns

    def ids(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Ids:
        ids = _values(self.name, self.made, table)
        if not np.issubdtype(ids.dtype, np.integer):
            raise DataError(f"features.{self.name}: its function returned {ids.dtype} where ids are integers")
        bad = (ids < NO_ID) | (ids >= self.made.rows)
        refuse(
            bad, where, f"features.{self.name}: its function returned an id that is not from -1 to {self.made.rows - 1}"
        )
        return ids.astype(np.int64), ids == NO_ID


def _uses(name: str, made: Feature) -> Iterator[Use]:
    """Any type will do: it is the function's business."""
    return ((column, f"features.{name} reads it", lambda _: True) for column in made.columns)


def _values(name: str, made: Feature, table: pa.Table) -> np.ndarray:
    values = np.asarray(made.function(table.select(list(made.columns))))
    if values.shape != (table.num_rows,) or values.dtype.kind not in "iufb":
        told = f"{values.dtype} of shape {values.shape}"
        raise DataError(
            f"features.{name}: its function returned {told} for {table.num_rows} rows; it is one number a row"
        )
    return values
