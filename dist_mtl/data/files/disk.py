"""What a disk refuses, and who else writes there: errors of the data, with the place and what to do."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from dist_mtl.errors import DataError

ELSEWHERE = "make room there, or choose another folder"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


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
    """While a folder, made where it is not there, is ours. Raises DataError: another process has it.

    On a file system without locks (Lustre may be mounted so) nobody is kept out.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with writing(folder):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it, however we end
            except BlockingIOError:
                raise DataError(f"{folder}: another process writes there; wait, or choose another folder") from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if not (folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())):
                raise DataError(f"{folder}: another process has just ended there; look at what it made")
        yield
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove what is in a folder, and follow no link."""
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def refuse_existing(folder: Path) -> None:
    """Raise DataError for a dataset that is there: none is ever overwritten."""
    if os.path.lexists(folder):
        raise DataError(f"{folder}: exists already; a dataset is never overwritten. Remove it or choose another folder")
