"""Spans of row groups -> Arrow. Every byte that is decoded was checked, every error names file and row group.

The bytes are checked against the manifest's CRC-32s (see `checksum`); where it has none, by the checksums of pages.
"""

import io
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.data.files.checksum import Footer
from dist_mtl.data.files.folder import Folder, reason
from dist_mtl.data.files.manifest import AnyFolder, DataFile, Manifest, checked_footer
from dist_mtl.data.files.schema import cast
from dist_mtl.data.order import Span
from dist_mtl.errors import DamageError, DataError
from dist_mtl.terminal.wording import plural

OPEN_FILES = 16  # handles kept open per reader; a window's row groups come from about that many files
# Larger row groups are decoded in batches of so many rows: what keeps a part of one need not keep all of it. It takes
# 15 % more time, so smaller ones are decoded in one go.
BATCH_ROWS = 16_384
# Bytes of the columns of a row group that are read, decompressed or decoded. Writers make row groups of up to about
# 1 GB; some kB of a compressed file can hold far more, and memory would end before an error could be told.
MAX_UNPACKED = 1 << 32
# Bytes between two chunks that are read along rather than asked for twice: what passes in the time of a request.
LOCAL_GAP, FAR_GAP = 1 << 14, 1 << 20


@dataclass(frozen=True)
class Block:
    """One row group of a dataset: the unit of the block shuffle. `first_row`: its first row's number in the file."""

    path: str
    row_group: int
    rows: int
    first_row: int
    file: DataFile = field(repr=False)
    constants: dict[str, pa.Scalar] = field(repr=False, compare=False)  # columns that the path tells


def blocks_of(manifest: Manifest) -> tuple[Block, ...]:
    """Every non-empty row group, in the manifest's order."""
    blocks = []
    for file in manifest.files:
        first, constants = 0, manifest.constants(file)
        for index, rows in enumerate(file.row_groups):
            if rows:
                blocks.append(Block(file.path, index, rows, first, file, constants))
            first += rows
    return tuple(blocks)


@dataclass
class Reader:
    """Reads the columns of a schema, in its types. Holds open file handles; used by one thread at a time."""

    folder: AnyFolder
    blocks: tuple[Block, ...]
    schema: pa.Schema  # of the columns wanted, each name once; see `schema.subset`
    _open: OrderedDict[str, "_File"] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.folder = Folder.of(self.folder)

    def read(self, spans: Sequence[Span]) -> pa.Table:
        """The rows of `spans`, one after the other.

        Raises DamageError, naming the file and the row group, for bytes that are not those that were listed; DataError
        for a file that has gone, was exchanged, can not be reached, or holds values that the schema has no room for.
        """
        return pa.concat_tables([self._read(span) for span in spans])

    def locate(self, spans: Sequence[Span], row: int) -> str:
        """Where row `row` of `read(spans)` stands, for an error message."""
        for span in spans:
            if row < span.stop - span.start:
                block = self.blocks[span.block]
                return f"{self.folder.at(block.path)}, row {block.first_row + span.start + row}"
            row -= span.stop - span.start
        raise IndexError(row)

    def _read(self, span: Span) -> pa.Table:
        block = self.blocks[span.block]
        columns = [name for name in self.schema.names if name not in block.constants]
        constants = {n: pa.repeat(block.constants[n], block.rows) for n in self.schema.names if n in block.constants}
        table = self._row_group(span.block, columns) if columns else pa.table(constants)
        for name, values in constants.items() if columns else ():
            table = table.append_column(name, values)
        where = f"{self.folder.at(block.path)}, row group {block.row_group}"
        return cast(table, self.schema, where).slice(span.start, span.stop - span.start)

    def _row_group(self, number: int, columns: list[str]) -> pa.Table:
        block = self.blocks[number]
        where = f"{self.folder.at(block.path)}, row group {block.row_group}"
        try:
            file = self._file(block.file)
            _check_size(where, file.unpacked_bytes(block.row_group, columns))
            file.load(block.row_group, columns)
        except OSError as error:
            raise DataError(f"{where}: can not be read: {reason(error)}; start again once it can be reached") from None
        except _Damage as damage:
            raise _damaged(where, str(damage), number) from None
        try:
            table = _decoded(file.parquet, block, columns, where)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(where, reason(error), number) from None
        if table.num_rows != block.rows:
            raise _damaged(where, f"{plural(table.num_rows, 'row')}, the manifest says {block.rows}", number)
        return table

    def _file(self, file: DataFile) -> "_File":
        if file.path not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[file.path] = _File(self.folder, file)
        self._open.move_to_end(file.path)
        return self._open[file.path]


def _check_size(where: str, size: int) -> None:
    if size > MAX_UNPACKED:
        raise DataError(
            f"{where}: {size / 1e9:.1f} GB or more once unpacked; a row group may have {MAX_UNPACKED / 1e9:.1f} GB, "
            f"for it is held in memory. Write the file in smaller row groups, and list the folder again"
        )


def _decoded(file: pq.ParquetFile, block: Block, columns: list[str], where: str) -> pa.Table:
    # On one core, columns side by side only wait for each other: 12 % of the time (measured).
    options = {"columns": columns, "use_threads": pa.cpu_count() > 1}
    if block.rows <= BATCH_ROWS:
        return file.read_row_group(block.row_group, **options)
    batches, size = [], 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[block.row_group], **options):
        batches.append(batch)
        _check_size(where, size := size + batch.nbytes)  # few bytes can stand for many rows of one value
    return pa.Table.from_batches(batches) if batches else pa.table({})


class _Damage(Exception):
    """Bytes that are not those that were listed."""


def _damaged(where: str, what: str, block: int) -> DamageError:
    error = DamageError(
        f"{where}: damaged or unreadable ({what}); restore the file, or let training skip some with data.quarantine"
    )
    error.block = block
    return error


class _File:
    """An open file. Invariant: `parquet` decodes nothing but chunks that `load` has checked."""

    def __init__(self, folder: Folder, file: DataFile) -> None:
        self._file = file
        self._gap = LOCAL_GAP if folder.is_local else FAR_GAP
        self._stream = folder.open(file.path)
        self._footer: Footer = checked_footer(folder, file, self._stream)
        self._chunks = _Chunks(file.bytes)
        self.parquet = pq.ParquetFile(
            self._chunks,
            metadata=self._footer.parsed,
            pre_buffer=False,  # one read a chunk
            page_checksum_verification=file.checksums is None,  # else its bytes are in a CRC-32 that was compared
        )
        names = [self._footer.parsed.schema.column(i).path for i in range(self._footer.parsed.num_columns)]
        self._leaves = {name: [i for i, leaf in enumerate(names) if f"{leaf}.".startswith(f"{name}.")]
                        for name in self.parquet.schema_arrow.names}  # fmt: skip

    def unpacked_bytes(self, row_group: int, columns: Sequence[str]) -> int:
        """What these columns have once they are decompressed, as the footer says."""
        return self._footer.unpacked_bytes(row_group, self._leaves_of(columns))

    def load(self, row_group: int, columns: Sequence[str]) -> None:
        """Fetch and check the chunks of these columns. Raises _Damage, and OSError if the storage does not answer."""
        ranges = self._footer.chunks(row_group, self._leaves_of(columns))
        self._chunks.held = held = {}
        for run in _runs(ranges.values(), self._gap):
            data = memoryview(self._stream.read_at(len(run), run.start))
            for leaf, chunk in ranges.items():
                if run.start <= chunk.start and chunk.stop <= run.stop:
                    held[chunk.start] = view = data[chunk.start - run.start : chunk.stop - run.start]
                    self._check(row_group, leaf, view, len(chunk))

    def _leaves_of(self, columns: Sequence[str]) -> list[int]:
        return sorted({leaf for name in columns for leaf in self._leaves.get(name, ())})

    def _check(self, row_group: int, leaf: int, view: memoryview, size: int) -> None:
        crcs = self._file.checksums
        if len(view) == size and (crcs is None or zlib.crc32(view) == crcs[0][row_group, leaf]):
            return
        column = self._footer.parsed.schema.column(leaf).path
        what = f"the CRC-32 of column `{column}` differs" if len(view) == size else f"it ends within column `{column}`"
        raise _Damage(what)

    def close(self) -> None:
        self.parquet.close()
        self._stream.close()


def _runs(chunks: Iterable[range], gap: int) -> list[range]:
    """The chunks in few reads: those that lie close together go as one."""
    runs: list[range] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        if runs and chunk.start - runs[-1].stop <= gap:
            runs[-1] = range(runs[-1].start, max(runs[-1].stop, chunk.stop))
        else:
            runs.append(chunk)
    return runs


class _Chunks(io.RawIOBase):
    """The chunks at hand as a file, each at its place in it. Arrow reads a chunk at once; anything else is refused."""

    def __init__(self, size: int) -> None:
        self.held: dict[int, memoryview] = {}
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> memoryview:
        held = self.held.get(self._at)
        if held is None or size > len(held):
            raise OSError(f"{size} bytes from {self._at} on are no column chunk")
        self._at += size
        return held[:size]
