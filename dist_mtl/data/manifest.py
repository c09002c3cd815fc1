"""The manifest: a dataset as a checksummed list of Parquet files. What is not on the list does not exist.

`manifest.json` stands beside the files: path (relative, below the folder), rows of each row group, bytes and sha256 of
every file, the schema, and for synthetic logs the ceiling (the AUC of the true probabilities).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from dist_mtl.errors import DataError

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a dataset."""

    path: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]  # rows of each


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset in their order, with the schema that all of them have."""

    version: int
    schema: dict[str, str]
    files: tuple[DataFile, ...]
    ceiling: dict[str, float] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(sum(f.row_groups) for f in self.files)

    def summary(self) -> dict[str, Any]:
        """What a report tells of a dataset."""
        return {
            "rows": self.num_rows,
            "files": len(self.files),
            "bytes": sum(f.bytes for f in self.files),
            "digest": self.digest,
            "columns": self.schema,
        }

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that decides which rows are trained: files and schema."""
        tree = asdict(self)
        tree.pop("ceiling")
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def build(folder: str | Path, ceiling: dict[str, float] | None = None) -> Manifest:
    """List every *.parquet file below `folder`, in order of its path. Reads and hashes every byte.

    Raises DataError when there is no file, or when two files differ in schema.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
    if not paths:
        raise DataError(f"{folder}: no *.parquet file in it; write some, or correct data.train / data.test")
    with ThreadPoolExecutor() as pool:
        return joined(folder, list(pool.map(lambda p: of_file(folder, p), paths)), ceiling)


def of_file(folder: Path, path: Path) -> Manifest:
    """The dataset of one file below `folder`. Reads and hashes every byte. Raises DataError if it is not Parquet."""
    footer = _footer(path)
    name = path.relative_to(folder).as_posix()
    file = DataFile(name, path.stat().st_size, sha256_of(path), _row_groups(footer))
    return Manifest(VERSION, schema_of(footer.schema.to_arrow_schema()), (file,))


def joined(folder: Path, parts: Sequence[Manifest], ceiling: dict[str, float] | None = None) -> Manifest:
    """The files of one part or more, in their order, as one dataset. Raises DataError when two differ in schema."""
    first = parts[0]
    for part in parts:
        if part.schema != first.schema:
            raise DataError(
                f"{folder / part.files[0].path}: its columns differ from those of {folder / first.files[0].path}: "
                f"{_difference(first.schema, part.schema)}"
            )
    return Manifest(VERSION, first.schema, tuple(file for part in parts for file in part.files), ceiling or {})


def write(folder: str | Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, complete or not at all."""
    target = Path(folder) / NAME
    staged = target.with_suffix(".json.tmp")
    staged.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    staged.replace(target)


def read(folder: str | Path) -> Manifest:
    """The manifest of a dataset folder. Raises DataError: it is absent, malformed, newer, or names a path outside."""
    path = Path(folder) / NAME
    try:
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file. A dataset is a folder of Parquet files with a manifest; "
            f"make one with `python launch/convert.py manifest {folder}`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not a manifest: {place}{': ' if place else ''}{first['msg']}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if manifest.version > VERSION:
        raise DataError(f"{path}: format version {manifest.version}; this program knows {VERSION}. Upgrade dist_mtl")
    for file in manifest.files:
        pure = PurePosixPath(file.path)
        if pure.is_absolute() or ".." in pure.parts or "\0" in file.path or len(file.path) > 4096:
            raise DataError(f"{path}: path {file.path[:80]!r} is not below the dataset's folder")
        if any(rows < 0 for rows in file.row_groups):
            raise DataError(f"{path}: {file.path} claims a negative number of rows")
    listed = Counter(str(PurePosixPath(file.path)) for file in manifest.files)
    if twice := [name for name, count in listed.items() if count > 1]:
        raise DataError(f"{path}: lists {twice[0]} more than once; its rows would be trained twice")
    if manifest.num_rows == 0:
        raise DataError(f"{path}: the dataset is empty (0 rows)")
    return manifest


def check_file(folder: str | Path, manifest: Manifest, file: DataFile, full: bool) -> None:
    """Raise DataError if a file is missing or is not the one that was listed. `full`: compare the sha256 as well."""
    path = Path(folder) / file.path
    advice = f"restore it, or accept the new data with `python launch/convert.py manifest {folder}`"
    if not path.is_file():
        raise DataError(f"{path}: the manifest lists it, but it is missing; {advice}")
    if (size := path.stat().st_size) != file.bytes:
        raise DataError(f"{path}: changed since the manifest was written ({size} bytes, listed {file.bytes}); {advice}")
    if full and sha256_of(path) != file.sha256:
        raise DataError(f"{path}: changed since the manifest was written (sha256 differs); {advice}")
    footer = _footer(path)
    if _row_groups(footer) != file.row_groups or schema_of(footer.schema.to_arrow_schema()) != manifest.schema:
        raise DataError(f"{path}: its row groups or columns are not the listed ones; {advice}")


def schema_of(schema: pa.Schema) -> dict[str, str]:
    """Column name -> Arrow type, in the file's order."""
    return {f.name: str(f.type) for f in schema}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _row_groups(footer: pq.FileMetaData) -> tuple[int, ...]:
    return tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))


def _difference(a: dict[str, str], b: dict[str, str]) -> str:
    parts = [f"no `{k}`" for k in a.keys() - b.keys()] + [f"extra `{k}`" for k in b.keys() - a.keys()]
    parts += [f"`{k}` is {b[k]}, not {a[k]}" for k in a.keys() & b.keys() if a[k] != b[k]]
    return ", ".join(sorted(parts)) or "another order of columns"
