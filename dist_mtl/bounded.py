"""Files that others may have made, read within bounds. The standard library alone: a launcher reads plans with it.

A regular file, opened without waiting for a pipe's writer, of so many bytes, whatever it says of its size; and JSON
that nests, counts and repeats no more than any file of ours does.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# Of nested lists and objects; our deepest file has 12. What reads the tree later may recurse, and Python ends at 1,000.
DEPTH = 64
DIGITS = 40  # of a whole number; the largest of ours is a seed of 64 bits
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class BeyondBounds(ValueError):
    """No file of its kind can be so: not regular, too long, nested too deep, a number of too many digits."""


@contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
    """A regular file, open to read; a link is followed. Raises OSError, BeyondBounds."""
    flags = os.O_NONBLOCK | os.O_NOCTTY
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BeyondBounds("it is no regular file (a pipe or a device)")
        yield file


def read_bytes(path: str | Path, most: int) -> bytes:
    """All of a file of at most `most` bytes. Raises OSError, BeyondBounds."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        raw = b"" if size > most else file.read(most + 1)
    if (size := max(size, len(raw))) > most:
        raise BeyondBounds(f"{size:,} bytes, of which there may be at most {most:,}")
    return raw


def read_lines(path: str | Path, longest: int, most: int) -> Iterator[bytes]:
    """The lines of a file with their ends, one in memory at a time. Raises OSError, BeyondBounds.

    `longest`: bytes of a line. `most`: bytes of the file when it is opened; a run at work may add to it meanwhile.
    """
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise BeyondBounds(f"{size:,} bytes, of which there may be at most {most:,}")
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise BeyondBounds(f"line {number:,} has more than {longest:,} bytes")
            yield line


def parse_json(raw: bytes, constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text. `constant`: what NaN and the infinities mean; without it they are refused.

    Raises BeyondBounds; ValueError: not JSON, not UTF-8, a key that stands twice, half a surrogate pair.
    """
    if _nests_too_deep(raw):
        raise BeyondBounds(f"nested deeper than {DEPTH} levels")
    try:
        value = json.loads(
            raw.decode(),
            parse_constant=constant or _no_constant,
            parse_int=_whole,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except (MemoryError, RecursionError):
        raise BeyondBounds("too large to be read") from None
    if SURROGATE.search(raw):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError; it could not be printed
    return value


def _nests_too_deep(raw: bytes) -> bool:
    """Without a parser, which would recurse: take the innermost pairs away, DEPTH times."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return False
    brackets = STRING.sub(b"", raw).translate(None, NO_BRACKETS)
    for _ in range(DEPTH):
        if len(brackets) <= DEPTH:  # also where pairs are left open: a line that a killed process has cut short
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return len(brackets) > DEPTH


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in tree if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return tree


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise BeyondBounds(f"a number of {len(text):,} digits")
    return int(text)


def _number(text: str) -> float:
    if math.isinf(number := float(text)):
        raise BeyondBounds(f"the number {text[:40]} is beyond any floating-point number")
    return number


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
