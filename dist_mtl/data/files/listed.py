"""What a manifest holds: the files of a dataset with their checksums, and their schema."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dist_mtl.data.files import partition
from dist_mtl.data.files.checksum import unpack


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a dataset."""

    path: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]  # rows of each
    crc32: str = ""  # of every column chunk and of the footer, packed; empty: listed before there was such a thing
    types: dict[str, str] = field(default_factory=dict, compare=False)  # of columns that have others in this file

    @cached_property
    def checksums(self) -> tuple[np.ndarray, int] | None:
        """(row groups, columns) CRC-32s, and the footer's; None if they are not known."""
        return unpack(self.crc32, len(self.row_groups)) if self.crc32 else None

    @property
    def partition(self) -> partition.Values:
        """What the folders above it say of its rows: {"day": "2024-01-01"}."""
        return partition.values_of(self.path)


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset in their order, with the schema in which they are read.

    `repeated`: names that several columns of each file share; no feature can read them.
    """

    version: int
    schema: dict[str, str]
    files: tuple[DataFile, ...]
    ceiling: dict[str, float] = field(default_factory=dict)
    partitions: dict[str, str] = field(default_factory=dict)  # key -> type, over all files, whichever are chosen
    repeated: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(sum(f.row_groups) for f in self.files)

    @property
    def columns(self) -> dict[str, str]:
        """Name -> type of the files' columns and of the partitions."""
        return self.schema | {key: kind for key, kind in self.partitions.items() if key not in self.schema}

    def types_of(self, file: DataFile) -> dict[str, str]:
        """Name -> type of the columns that a file itself has."""
        return self.schema | file.types

    def constants(self, file: DataFile) -> dict[str, pa.Scalar]:
        """The columns of a file that its path tells."""
        told = partition.scalars(file.partition, self.partitions) if self.partitions else {}
        return {key: value for key, value in told.items() if key not in self.schema}

    def summary(self) -> dict[str, Any]:
        """What a report tells of a dataset."""
        return {
            "rows": self.num_rows,
            "files": len(self.files),
            "bytes": sum(f.bytes for f in self.files),
            "digest": self.digest,
            "columns": self.columns,
        }

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that decides which rows are trained: files and schema."""
        told = ("path", "bytes", "sha256", "row_groups")  # what follows from these is not told again
        first = self.types_of(self.files[0]) if self.files else self.schema
        files = [{name: getattr(file, name) for name in told} | self._others(file, first) for file in self.files]
        tree = {"version": self.version, "schema": first, "files": files}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def _others(self, file: DataFile, first: dict[str, str]) -> dict[str, dict[str, str]]:
        """The types in which a file differs from the first: of the files that are read, whatever others are listed."""
        own = {} if first == self.schema and not file.types else self.types_of(file)
        others = {name: kind for name, kind in own.items() if kind != first[name]}
        return {"types": others} if others else {}
