"""Label counts of the values of an id column, for a uniform sample of the values, in bounded memory.

The KEPT values with the smallest hashes are the sample. A value that is among them at the end was among them ever since
it first came, so its counts are those of all its rows: no value is mixed with another, however many there are. Below
KEPT values all of them are counted, and everything is exact.
"""

from dataclasses import dataclass, field

import numpy as np

from dist_mtl.data.cardinality import KEPT, Distinct

SLOTS = 1 << 16  # of the table that finds a value by the lowest bits of its hash
HALVES = 2


@dataclass
class Values:
    """`counts`: rows by value, half of the rows, and class."""

    classes: int
    distinct: Distinct = field(default_factory=Distinct)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    _slots: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.counts.size:
            self.counts = np.zeros((0, HALVES, self.classes), np.int64)

    def __getstate__(self) -> dict:
        return vars(self) | {"_slots": None}  # made anew where it is needed

    def add(self, hashes: np.ndarray, kinds: np.ndarray) -> None:
        """Count rows: hash of the value, and half * classes + class."""
        kept = self.distinct.smallest
        if len(kept) == KEPT:
            near = np.flatnonzero(hashes <= kept[-1])
            hashes, kinds = hashes[near], kinds[near]
        if not len(hashes):
            return
        if len(kept):
            hashes, kinds = self._count_known(hashes, kinds)
        if len(hashes):
            found, place = np.unique(hashes, return_inverse=True)
            width = HALVES * self.classes
            new = np.bincount(place * width + kinds, minlength=len(found) * width)
            self._take(found, new.reshape(len(found), HALVES, self.classes))

    def merge(self, other: "Values") -> None:
        """Count what `other` has counted."""
        self._take(other.distinct.smallest, other.counts)

    def _count_known(self, hashes: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the rows whose value is found at once; the others are given back."""
        kept, width = self.distinct.smallest, HALVES * self.classes
        if self._slots is None:
            self._slots = np.zeros(SLOTS, np.int64)
            self._slots[kept & np.uint64(SLOTS - 1)] = np.arange(len(kept))
        place = self._slots[hashes & np.uint64(SLOTS - 1)]
        known = kept[place] == hashes
        if known.all():
            self._add(place * width + kinds)
            return hashes[:0], kinds[:0]
        self._add((place * width + kinds)[known])
        return hashes[~known], kinds[~known]

    def _add(self, index: np.ndarray) -> None:
        if len(index):
            counts = np.bincount(index, minlength=self.counts.size)
            self.counts += counts.reshape(self.counts.shape)

    def _take(self, hashes: np.ndarray, counts: np.ndarray) -> None:
        kept, place = np.unique(np.append(self.distinct.smallest, hashes), return_inverse=True)
        sums = np.zeros((len(kept), HALVES, self.classes), np.int64)
        np.add.at(sums, place, np.concatenate([self.counts, counts]))
        if len(kept) > KEPT:
            kept, sums = kept[:KEPT], sums[:KEPT]
        if len(kept) != len(self.distinct.smallest) or not np.array_equal(kept, self.distinct.smallest):
            self._slots = None
        self.distinct.smallest, self.counts = kept, sums
