"""How many different values a column has, in bounded memory, and the 64-bit hashes of values that this is told by."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dist_mtl.data.column_class import is_text
from dist_mtl.data.features.ids import ids_of
from dist_mtl.data.features.numbers import numbers_of
from dist_mtl.data.hashing import GOLDEN, mix

KEPT = 4096  # hashes kept: cardinalities are exact below it, within 3 % (two sigma) above


def hashes_of(array: pa.Array) -> np.ndarray:
    """N values -> N uint64: integers, text, times and booleans as the ids that they are to a feature; floats by value.

    Equal ids of two columns have one hash. A null has any.
    """
    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        words = (numbers_of(array) + 0.0).view(np.uint64)  # + 0.0: -0 is 0
    else:
        words = ids_of(array, "hash")[0].view(np.uint64)
        if is_text(_values(array.type)):
            return words  # hashed already
    return mix(words + np.uint64(1))  # + 1: `mix` leaves 0 where it is


def _values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def list_hashes(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Lists of hashes (list i is values[offsets[i]:offsets[i+1]]) -> one uint64 each; order and length count."""
    lengths = np.diff(offsets)
    place = np.arange(len(values), dtype=np.uint64) - np.repeat(offsets[:-1], lengths).astype(np.uint64)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mix(values + place * np.uint64(GOLDEN)), dtype=np.uint64)])
    return mix(sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64))


@dataclass
class Distinct:
    """The smallest distinct hashes among those seen (k minimum values; Bar-Yossef et al. 2002)."""

    smallest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))  # ascending

    def add(self, hashes: np.ndarray) -> None:
        """See hashes of values."""
        if len(self.smallest) == KEPT:
            hashes = hashes[hashes < self.smallest[-1]]
        if len(hashes):
            self.smallest = np.unique(np.append(self.smallest, hashes))[:KEPT]

    def merge(self, other: "Distinct") -> None:
        """See what `other` has seen."""
        self.add(other.smallest)

    @property
    def is_exact(self) -> bool:
        return len(self.smallest) < KEPT

    @property
    def count(self) -> int:
        """Distinct hashes, estimated where there are more than KEPT."""
        if self.is_exact:
            return len(self.smallest)
        return round((KEPT - 1) / (float(self.smallest[-1]) / 2**64))
