"""Spans of row groups -> Arrow, with every page's checksum verified and every error naming file and row group."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.data.manifest import Manifest
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError

OPEN_FILES = 16  # handles kept open per reader; a window's row groups come from about that many files


@dataclass(frozen=True)
class Block:
    """One row group of a dataset: the unit of the block shuffle. `first_row`: its first row's number in the file."""

    path: str
    row_group: int
    rows: int
    first_row: int


def blocks_of(manifest: Manifest) -> tuple[Block, ...]:
    """Every non-empty row group, in the manifest's order."""
    blocks = []
    for file in manifest.files:
        first = 0
        for index, rows in enumerate(file.row_groups):
            if rows:
                blocks.append(Block(file.path, index, rows, first))
            first += rows
    return tuple(blocks)


@dataclass
class Reader:
    """Reads columns of spans. Holds open file handles; used by one thread at a time."""

    folder: Path
    blocks: tuple[Block, ...]
    columns: tuple[str, ...]
    _open: OrderedDict[str, pq.ParquetFile] = field(default_factory=OrderedDict)

    def read(self, spans: Sequence[Span]) -> pa.Table:
        """The rows of `spans`, one after the other. Raises DataError naming the file and the row group."""
        return pa.concat_tables([self._read(span) for span in spans])

    def locate(self, spans: Sequence[Span], row: int) -> str:
        """Where row `row` of `read(spans)` stands, for an error message."""
        for span in spans:
            if row < span.stop - span.start:
                block = self.blocks[span.block]
                return f"{self.folder / block.path}, row {block.first_row + span.start + row}"
            row -= span.stop - span.start
        raise IndexError(row)

    def _read(self, span: Span) -> pa.Table:
        block = self.blocks[span.block]
        try:
            table = self._file(block.path).read_row_group(block.row_group, columns=list(self.columns))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.folder / block.path}, row group {block.row_group}: damaged or unreadable "
                f"({str(error).splitlines()[0]}); restore the file"
            ) from None
        if table.num_rows != block.rows:
            raise DataError(
                f"{self.folder / block.path}, row group {block.row_group}: {table.num_rows} rows, "
                f"the manifest says {block.rows}; restore the file"
            )
        return table.slice(span.start, span.stop - span.start)

    def _file(self, path: str) -> pq.ParquetFile:
        if path not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = pq.ParquetFile(self.folder / path, page_checksum_verification=True)
        self._open.move_to_end(path)
        return self._open[path]
