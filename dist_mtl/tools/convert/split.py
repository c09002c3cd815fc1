"""Entities to sides: all rows of one user, or of one page, stand in the same dataset. No state: all processes agree."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.data.cardinality import hashes_of
from dist_mtl.data.hashing import key, mix
from dist_mtl.data.synthetic import draws
from dist_mtl.errors import ConfigError

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Shares:
    """The shares of the entities that are held out of train; the sides come from a hash of the entity alone."""

    test: float = 0.0
    validation: float = 0.0

    def __post_init__(self) -> None:
        for name, share in ((TEST, self.test), (VALIDATION, self.validation)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name} share {share}: a share of the entities, from 0 to below 1")
        if self.test + self.validation >= 1:
            raise ConfigError(f"shares {self.test} (test) and {self.validation} (validation) leave nothing to train on")

    @property
    def names(self) -> tuple[str, ...]:
        """The datasets that come of it, train first."""
        held_out = ((VALIDATION, self.validation), (TEST, self.test))
        return (TRAIN, *(name for name, share in held_out if share))

    def sides(self, hashes: np.ndarray) -> dict[str, np.ndarray]:
        """Dataset -> which of the rows stand in it, by the 64-bit hash of each row's entity."""
        u = draws.uniform(mix(hashes ^ np.uint64(key("split"))))
        test = u < self.test
        validation = ~test & (u < self.test + self.validation)
        masks = {TRAIN: ~test & ~validation, VALIDATION: validation, TEST: test}
        return {name: masks[name] for name in self.names}

    def split(self, table: pa.Table, hashes: np.ndarray) -> dict[str, pa.Table]:
        """The rows of a table by dataset, in their order."""
        if len(self.names) == 1:
            return {TRAIN: table}
        return {name: table.filter(pa.array(mask)) for name, mask in self.sides(hashes).items()}


def entities(column: pa.ChunkedArray) -> np.ndarray:
    """A hash per row that is equal where the values are. Nulls are one value."""
    array = column.combine_chunks()
    return np.where(array.is_null().to_numpy(zero_copy_only=False), np.uint64(0), hashes_of(array))
