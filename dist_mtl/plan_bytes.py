"""The bytes of a plan file, for training and for a launcher, which may have the standard library alone."""

from pathlib import Path

from dist_mtl import bounded

MAX_BYTES = 1 << 28  # 10,000 tables on 1,000 ranks each take half of it


def plan_bytes(path: str | Path) -> bytes:
    """All of the file. Raises OSError; ValueError: it is no regular file, or too large for a plan."""
    return bounded.read_bytes(path, MAX_BYTES)
