"""The small side of a join, on disk: sorted keys, and records in flat files that every process maps into its memory.

While it is built, 24 bytes a record are held; after that nothing, since mapped pages are the system's to drop. So the
small side may be larger than memory, and ten processes share one copy of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_mtl.data.files.disk import writing


@dataclass(frozen=True)
class Flat:
    """An array in a file: appended to piece by piece, then mapped. `width`: of its rows; 0 for a flat one."""

    path: Path
    kind: str
    width: int = 0

    def append(self, piece: np.ndarray) -> None:
        """Write what comes next."""
        with writing(self.path.parent), self.path.open("ab") as stream:
            np.ascontiguousarray(piece, self.kind).tofile(stream)

    def mapped(self) -> np.ndarray:
        """All of it, to be read. An array without elements has no file to map."""
        if not self.path.exists() or not self.path.stat().st_size:
            return np.zeros((0, self.width) if self.width else 0, self.kind)
        flat = np.memmap(self.path, self.kind, "r").view(np.ndarray)
        return flat.reshape(-1, self.width) if self.width else flat


@dataclass(frozen=True)
class Lookup:
    """Keys (uint64, sorted, each once) and where the record of each stands."""

    keys: Flat
    places: Flat

    @classmethod
    def build(cls, folder: Path, keys: np.ndarray) -> tuple["Lookup", np.ndarray]:
        """The lookup of records that stand in the order of `keys`; and which of them repeat an earlier one's key.

        Of records with one key the first is found.
        """
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.zeros(len(keys), bool)
        again[1:] = ordered[1:] == ordered[:-1]
        made = cls(Flat(folder / "keys", "<u8"), Flat(folder / "places", "<i8"))
        made.keys.append(ordered[~again])
        made.places.append(order[~again])
        return made, order[again]

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """The place of each wanted key, -1 where there is none."""
        keys = self.keys.mapped()
        if not len(keys):
            return np.full(len(wanted), -1)
        distinct, place = np.unique(wanted, return_inverse=True)  # rows of one page or user follow each other
        at = np.minimum(np.searchsorted(keys, distinct), len(keys) - 1)
        return np.where(keys[at] == distinct, self.places.mapped()[at], -1)[place]
