"""What a step or a window of rows has freed stays with the process, for the next one."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Blocks up to so many bytes are kept, and so much free memory at the end of the heap. Else glibc may give blocks of a
# few MB back to the kernel and get them anew, page by page: 10 % of a small model's step, a third of the loader's time
# for rows of 629 ids (measured).
KEPT = 1 << 30
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
USUAL = 1 << 25  # the largest block size that glibc chooses by itself; it keeps free twice as much
OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Ask glibc to. False where there is no glibc, or the environment has made its own choice of an allocator."""
    if any(name in os.environ for name in OWN_CHOICE) or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Releases before 2.35 take no more than half a heap as the size of a block.
    return bool(mallopt(TRIM_THRESHOLD, KEPT)) and bool(
        mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, 1 << 25)
    )


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """The same from here to the end, for a process that lives on: then glibc gives back what is free."""
    kept = keep_freed_memory()
    try:
        yield
    finally:
        if kept:
            libc = ctypes.CDLL(None)
            libc.mallopt(MMAP_THRESHOLD, USUAL)
            libc.mallopt(TRIM_THRESHOLD, 2 * USUAL)
            libc.malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError, OSError):  # not POSIX, or another C library, which does not know the name
        return False
