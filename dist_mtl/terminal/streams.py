"""The standard streams of a process: what cannot be written or shown never changes its result or its exit code.

Written for Python 3.9 and without any package, as the doctor is.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TextIO

from dist_mtl.terminal.printable import printable


def hold_descriptors() -> None:
    """Open those of descriptors 0 to 2 that are closed on /dev/null.

    Else the next file that is opened gets the number, and what is printed lands in it: a checkpoint, say. So call it
    before anything is imported that keeps a file open.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one


def guard_streams() -> None:
    """Let print, warnings, logging and tracebacks show text as `printable`, in any encoding, and lose what is refused.

    A closed pipe or a full disk loses the text, and the next text is tried anew, since there may be room again.
    """
    hold_descriptors()
    os.environ["PYTHON_COLORS"] = "0"  # Python 3.13 styles its tracebacks, 3.14 argparse: that would be escaped
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, Shown) or stream is not getattr(sys, f"__{name}__"):
            continue  # somebody else's stream, a test's say
        shown = Shown(number, getattr(stream, "encoding", None) or "utf-8")
        setattr(sys, name, shown)
        setattr(sys, f"__{name}__", shown)


class Shown(io.TextIOWrapper):
    """A standard stream on which every text is printable. `plain` is the same stream for those who style it (rich)."""

    def __init__(self, number: int, encoding: str) -> None:
        super().__init__(Descriptor(number), encoding, "backslashreplace", newline="\n", line_buffering=True)
        self.plain = io.TextIOWrapper(
            Descriptor(number), encoding, "backslashreplace", newline="\n", line_buffering=True
        )

    def write(self, text: str) -> int:
        super().write(printable(text, keep="\n"))
        return len(text)


class Descriptor(io.RawIOBase):
    """A file descriptor that takes everything. It stays open when this is closed."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: object) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:  # a terminal that another program set to non-blocking
                select.select([], [self._number], [])
            except OSError:
                break
        return size

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)


def plain(stream: TextIO | None) -> TextIO | None:
    """The stream below `stream` on which styles may be written."""
    return stream.plain if isinstance(stream, Shown) else stream
