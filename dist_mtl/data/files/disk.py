"""What a disk refuses, and who else writes there: errors of the data, with the place and what to do."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from dist_mtl.errors import DataError

ELSEWHERE = "make room there, or choose another folder"


@contextmanager
def writing(place: Path, advice: str = ELSEWHERE) -> Iterator[None]:
    """While something is written at or below `place`: what the disk refuses is a DataError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        where, reason = getattr(error, "filename", None) or place, getattr(error, "strerror", None) or error
        raise DataError(f"{where}: can not be written: {reason}; {advice}") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While a folder, made where it is not there, is ours. Raises DataError: another process has it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with writing(folder):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it, however we end
            except BlockingIOError:
                raise DataError(f"{folder}: another process writes there; wait, or choose another folder") from None
        yield
    finally:
        os.close(descriptor)


def refuse_existing(folder: Path) -> None:
    """Raise DataError for a dataset that is there: none is ever overwritten."""
    if os.path.lexists(folder):
        raise DataError(f"{folder}: exists already; a dataset is never overwritten. Remove it or choose another folder")
