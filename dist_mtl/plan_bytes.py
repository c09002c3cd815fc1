"""The bytes of a plan file, for training and for a launcher, which may have the standard library alone."""

import os
import stat
from pathlib import Path

MAX_BYTES = 1 << 28  # 10,000 tables on 1,000 ranks each take half of it


def plan_bytes(path: str | Path) -> bytes:
    """All of the file. Raises OSError: it can not be read; ValueError: it is no regular file, or too large for a plan.

    Never waits for a pipe's writer, and never reads more than a plan can have, whatever the file says of its size.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        raw = b"" if found.st_size > MAX_BYTES else file.read(MAX_BYTES + 1)
    if (size := max(found.st_size, len(raw))) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes; a plan has at most {MAX_BYTES:,}")
    return raw
