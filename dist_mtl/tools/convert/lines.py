"""Raw text files, plain or compressed, as blocks of whole lines. Memory holds a block, whatever the size of the file.

A plain file is cut into segments of a fixed size, so that several processes can share it; where the cuts fall depends
on the file alone. A compressed file can only be read from its start: it is one segment.
"""

import bz2
import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dist_mtl.bounded import BeyondBounds, opened
from dist_mtl.errors import DataError

SEGMENT_BYTES = 128 << 20  # about half a million rows of 300 bytes: one output file, seconds of work
BLOCK_BYTES = 4 << 20  # ten thousand rows: types can be inferred from one, and numpy's overhead vanishes
LONGEST_LINE = 256 << 20  # what has no line end in so many bytes is no text
BOM = b"\xef\xbb\xbf"  # what some editors put before the first line
COMPRESSED = (".gz", ".bz2", ".zip")

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Segment:
    """Bytes [start, stop) of a file, whole lines. `number` is its place in a conversion and names what it makes."""

    path: str
    number: int
    start: int = 0
    stop: int | None = None  # none: to the end
    header: bool = False  # the file's first line holds the names of the columns; no block has it


@dataclass(frozen=True)
class Block:
    """Whole lines of a segment. `line` is the first one's number in the segment, from 1."""

    segment: Segment
    line: int
    data: bytes
    complete: bool = True  # false: the file ended without a line end, which was added

    def place(self, row: int) -> "Place":
        """Where row `row` (from 0; empty lines hold none) of this block stands."""
        return Place(self.segment, self.line + _line_of_row(self.data, row))


@dataclass(frozen=True)
class Place:
    """A line of a segment. To say its number in the file, the lines before the segment are counted: do it once."""

    segment: Segment
    line: int

    def __str__(self) -> str:
        return f"{self.segment.path}, line {_lines_before(self.segment) + self.line:,}"


def segments(paths: Sequence[str | Path], first: int = 0, header: bool = False) -> list[Segment]:
    """The files cut into segments, numbered from `first`. Raises DataError: a file is absent or can not be read."""
    cut: list[Segment] = []
    for path in map(str, paths):
        edges = [0, None] if path.endswith(COMPRESSED) else _edges(path)
        for start, stop in zip(edges, edges[1:], strict=False):
            cut.append(Segment(path, first + len(cut), start, stop, header))
    return cut


def blocks(segment: Segment, on_bytes: OnBytes | None = None) -> Iterator[Block]:
    """The lines of a segment. `on_bytes`: told how many bytes of the file, as it lies on the disk, were read since.

    Raises DataError: the file is absent, damaged or cut short, or it has no lines.
    """
    rest, line, header = b"", 1, segment.header and segment.start == 0
    for number, chunk in enumerate(_chunks(segment, on_bytes)):
        if number == 0 and segment.start == 0:
            chunk = chunk.removeprefix(BOM)
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            rest += chunk
            if len(rest) > LONGEST_LINE:
                raise _no_text(segment.path, len(rest))
            continue
        data, rest = rest + chunk[:cut], chunk[cut:]
        if header:
            data, line, header = data[data.index(b"\n") + 1 :], 2, False
        yield Block(segment, line, data)
        line += data.count(b"\n")
    if rest and not header:
        yield Block(segment, line, rest + b"\n", complete=False)


def first_line(path: str | Path) -> str:
    """The first line of a file, without its end. Raises DataError: none, or not UTF-8."""
    for block in blocks(Segment(str(path), 0)):
        try:
            return block.data[: block.data.index(b"\n")].decode().rstrip("\r")
        except UnicodeDecodeError:
            raise DataError(f"{path}, line 1: not UTF-8 text; convert it to UTF-8, e.g. by iconv") from None
    raise DataError(f"{path}: empty, it has not even a header; make or download it again")


def bytes_of(paths: Sequence[str | Path]) -> int:
    """The size of the files on the disk, 0 for one that is absent (whoever opens it says so)."""
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file())


def _no_text(path: str, size: int) -> DataError:
    return DataError(f"{path}: no line end in {size:,} bytes; this is not a text file, convert another one")


def _edges(path: str) -> list[int | None]:
    """Where the segments of a plain file begin; the last ends with the file."""
    edges: list[int | None] = [0]
    with _reading(path), opened(path) as stream:
        size = stream.seek(0, 2)
        for wanted in range(SEGMENT_BYTES, size, SEGMENT_BYTES):
            stream.seek(max(wanted, edges[-1]) - 1)
            # To the end of the line that holds the byte before: a cut at a line's start stays there.
            if len(stream.readline(LONGEST_LINE)) == LONGEST_LINE:
                raise _no_text(path, LONGEST_LINE)
            if edges[-1] < stream.tell() < size:
                edges.append(stream.tell())
    return [*edges, size]


def _chunks(segment: Segment, on_bytes: OnBytes | None) -> Iterator[bytes]:
    with _reading(segment.path), opened(segment.path) as file, _opened(segment.path, file) as stream:
        if segment.start:
            stream.seek(segment.start)
        left, told = None if segment.stop is None else segment.stop - segment.start, segment.start
        while left != 0 and (chunk := stream.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))):
            left = None if left is None else left - len(chunk)
            if on_bytes is not None:
                on_bytes(file.tell() - told)
                told = file.tell()
            yield chunk


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """While a file is read: what it or the disk refuses is a DataError."""
    try:
        yield
    except BeyondBounds as error:
        raise DataError(f"{path}: {error}; write its lines into a file first, which is read more than once") from None
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; correct the path") from None
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, RuntimeError) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); download it again") from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: can not be read: {reason}; start again once it can, or download it again") from None


@contextmanager
def _opened(path: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """The text inside `file`: itself, or what is compressed in it."""
    if path.endswith(".gz"):
        with gzip.open(file) as stream:
            yield stream
    elif path.endswith(".bz2"):
        with bz2.open(file) as stream:
            yield stream
    elif path.endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX")]
            if len(members) != 1:
                raise DataError(f"{path}: holds {len(members)} files, not one; unpack it and name the folder")
            with archive.open(members[0]) as stream:
                yield stream
    else:
        yield file


def _line_of_row(data: bytes, row: int) -> int:
    """The number, from 0, of the line that holds row `row`. For messages only: it walks over the lines."""
    number = start = 0
    while (stop := data.find(b"\n", start)) >= 0:
        row -= bool(data[start:stop].strip(b"\r"))
        if row < 0:
            return number
        number, start = number + 1, stop + 1
    return number


def _lines_before(segment: Segment) -> int:
    """The lines of the file before the segment begins."""
    left, lines = segment.start, 0
    with open(segment.path, "rb") as stream:
        while left and (chunk := stream.read(min(BLOCK_BYTES, left))):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return lines
