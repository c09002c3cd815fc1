"""What a feature makes of the columns that it reads. A kind of feature is one of the three classes here.

A new kind: its configuration in `config/features.py`, a class in a file of its own, a `case` in `encode.py`.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from dist_mtl.data.features.bags import Bag
from dist_mtl.data.features.reject import Where

Ids = tuple[np.ndarray, np.ndarray | None]  # int64, and which of them are missing; None: there is none
Use = tuple[str, str, Callable[[pa.DataType], bool]]  # a column, what it must be in words, and the same as a test


class Column:
    """What every kind tells of itself."""

    name: str  # of the feature

    def uses(self) -> Iterator[Use]:
        """The columns that it reads, and what they must be."""

    def id_columns(self) -> Iterator[str]:
        """Those of them that it reads as ids, which must be of the same class wherever a model is used."""
        yield from ()


class SingleColumn(Column):
    """One row of its table for each impression, or none."""

    def ids(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Ids:
        """Rows of the table; adds to `clamped` what a policy has moved. Raises DataError with the place of a bad id."""


class BagColumn(Column):
    """Any number of rows of its table for each impression, perhaps with weights."""

    def bag(self, table: pa.Table, clamped: np.ndarray, where: Where) -> Bag:
        """The same, with weights if any bag of the configuration has some."""


class DenseColumn(Column):
    """A number for each impression; with `indicator` a further one that says whether it is missing."""

    indicator: bool

    def numbers(self, table: pa.Table, where: Where) -> tuple[np.ndarray, np.ndarray]:
        """(float32, missing bool)."""
