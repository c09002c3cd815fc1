"""The entries of a manifest: what is checked of them before a file is opened."""

from collections import Counter
from pathlib import PurePosixPath

from dist_mtl.data.files.contents import fault_of
from dist_mtl.data.files.listed import Manifest
from dist_mtl.errors import DataError

MAX_ROWS = 1 << 40  # of a dataset; beyond 2**63 numbers of rows would wrap, and no one has so many


def check_entries(path: str, manifest: Manifest) -> None:
    """Raises DataError, with `path` in front, for an entry that no listing writes."""
    files = manifest.files
    for file in files:
        if fault := fault_of(file.path):
            raise DataError(f"{path}: path {file.path[:80]!r}: {fault}; correct it, or list the folder again")
        if any(not 0 <= rows <= MAX_ROWS for rows in file.row_groups):
            raise DataError(
                f"{path}: {file.path} claims a negative number of rows, or a huge one; list the folder again"
            )
    if (claimed := sum(sum(file.row_groups) for file in files)) > MAX_ROWS:
        raise DataError(f"{path}: claims {claimed:,} rows, of which there can be {MAX_ROWS:,}; list the folder again")
    if strange := [file.path for file in files if file.types.keys() - manifest.schema.keys()]:
        raise DataError(f"{path}: {strange[0]} has types of columns that the schema lacks; list the folder again")
    listed = Counter(str(PurePosixPath(file.path)) for file in files)
    if twice := [name for name, count in listed.items() if count > 1]:
        raise DataError(f"{path}: lists {twice[0]} more than once; its rows would be trained twice")
    for file in files:
        try:
            _ = file.checksums
        except ValueError as error:
            raise DataError(f"{path}: {file.path}: {error}; list the folder again") from None
