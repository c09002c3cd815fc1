"""Rows that stand in a dataset more than once, in bounded memory: by 64-bit hashes of whole rows.

Up to KEPT rows all hashes are kept, and the count is exact (but for chance: two of 10**9 rows share a hash with
probability 0.03). Beyond, only the hashes below a limit are, which halves as often as needed: copies of a row have one
hash, so they are kept or left out together, and the share among those kept estimates the share of all.
"""

from dataclasses import dataclass, field

import numpy as np

KEPT = 1 << 21  # hashes: 16 MB


@dataclass
class Duplicates:
    """The hashes of rows that are below 2**(64 - halvings)."""

    rows: int = 0
    halvings: int = 0
    kept: list[np.ndarray] = field(default_factory=list)

    def add(self, hashes: np.ndarray) -> None:
        """See rows by their hashes."""
        self.rows += len(hashes)
        self._keep(hashes)

    def merge(self, other: "Duplicates") -> None:
        """See the rows that `other` has seen."""
        self.rows += other.rows
        self.halvings = max(self.halvings, other.halvings)
        self.kept = [self._below(part) for part in self.kept]
        for part in other.kept:
            self._keep(part)

    @property
    def is_exact(self) -> bool:
        return not self.halvings

    @property
    def extra(self) -> int:
        """Rows that are a copy of another one before them; an estimate where not `is_exact`."""
        hashes = np.concatenate(self.kept) if self.kept else np.zeros(0, np.uint64)
        return round((len(hashes) - len(np.unique(hashes))) * 2.0**self.halvings)

    @property
    def share(self) -> float:
        """`extra` over all rows."""
        return min(1.0, self.extra / max(1, self.rows))

    def _keep(self, hashes: np.ndarray) -> None:
        self.kept.append(self._below(hashes))
        while sum(map(len, self.kept)) > KEPT:
            self.halvings += 1
            self.kept = [self._below(np.concatenate(self.kept))]

    def _below(self, hashes: np.ndarray) -> np.ndarray:
        return hashes[hashes >> np.uint64(64 - self.halvings) == 0] if self.halvings else hashes
