"""The distribution of a column in bounded memory: a function of its values alone, not of their order or of their place.

So any number of ranks, files and merges gives the same bits. Values are counted by cell. Up to MOST_CELLS distinct
values each has a cell of its own, and everything is exact. Beyond, cells drop mantissa bits, as few as needed: a cell
then spans a relative width of `precision`. Counts are integers and always exact.
"""

from dataclasses import dataclass, field

import numpy as np

MOST_CELLS = 1 << 16  # 16 bytes each: 1 MB a column, on every rank
MANTISSA = 52  # bits of a float64
LOW = np.int64(2**63 - 1)


@dataclass
class Sketch:
    """Counts of the finite ones among float64 values."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # ascending; each its cell's lowest
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    dropped: int = 0  # mantissa bits that keys lack
    lowest: float = np.inf
    highest: float = -np.inf

    @property
    def total(self) -> int:
        """Values that were counted."""
        return int(self.counts.sum())

    @property
    def precision(self) -> float:
        """The width of a cell over the values in it, at most; 0: exact."""
        return 2.0 ** (self.dropped - MANTISSA) if self.dropped else 0.0

    def add(self, values: np.ndarray) -> None:
        """Count float64 values. Sorting costs about the same for few values as for MOST_CELLS: give it many."""
        finite = values[np.isfinite(values)]
        if len(finite):
            self.lowest, self.highest = min(self.lowest, float(finite.min())), max(self.highest, float(finite.max()))
            keys, counts = np.unique(_cells(_key(finite), self.dropped), return_counts=True)
            self._take(keys, counts)

    def merge(self, other: "Sketch") -> None:
        """Count what `other` has counted."""
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.dropped = max(self.dropped, other.dropped)
        self._take(other.keys, other.counts)

    def quantiles(self, buckets: int) -> list[float]:
        """Boundaries, ascending, of up to `buckets` buckets of equal counts: bucket k holds b[k-1] <= x < b[k].

        Each is the value of rank k n / buckets, or the lower end of its cell. Equal ones and the lowest value, below
        which there is nothing, are left out; but the lowest is always told from all others. Empty: one value, or none.
        """
        ranks = np.arange(1, buckets) * self.total // buckets
        places = np.unique(np.searchsorted(np.cumsum(self.counts), ranks, side="right"))
        places = places[places > 0] if places[-1] > 0 else np.arange(1, min(2, len(self.keys)))
        return _value(self.keys[places]).tolist()

    def values(self) -> np.ndarray:
        """A value for each cell: its middle, within what was seen; the value itself where that is exact."""
        low = _value(self.keys)
        if not self.dropped:
            return low
        high = _value(self.keys + ((1 << self.dropped) - 1))
        return np.clip(low + (high - low) / 2, self.lowest, self.highest)

    def _take(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self.keys, self.counts = _summed(np.append(self.keys, keys), np.append(self.counts, counts), self.dropped)
        if len(self.keys) > MOST_CELLS:
            # The fewest bits that make them fit. A part of the values never drops more than the whole, hence the same
            # bits in any order.
            while np.count_nonzero(np.diff(self.keys >> self.dropped)) >= MOST_CELLS:
                self.dropped += 1
            self.keys, self.counts = _summed(self.keys, self.counts, self.dropped)


def _summed(keys: np.ndarray, counts: np.ndarray, dropped: int) -> tuple[np.ndarray, np.ndarray]:
    keys, place = np.unique(_cells(keys, dropped), return_inverse=True)
    sums = np.zeros(len(keys), np.int64)
    np.add.at(sums, place, counts)
    return keys, sums


def _cells(keys: np.ndarray, dropped: int) -> np.ndarray:
    return keys >> dropped << dropped


def _key(values: np.ndarray) -> np.ndarray:
    """float64 -> int64 in the same order; -0 is 0."""
    bits = (values + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & LOW)


def _value(keys: np.ndarray) -> np.ndarray:
    """The inverse of `_key`."""
    return (keys ^ ((keys >> 63) & LOW)).view(np.float64)
