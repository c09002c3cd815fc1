"""One pass over a dataset on all cores. What comes out depends neither on their number nor on who was first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.reader import Block, Reader, blocks_of
from dist_mtl.data.order import Span
from dist_mtl.data.workers import Workers
from dist_mtl.tools.describe.counts import Counts, Plan

PART_ROWS = 1 << 20  # of a process at once: a second or more of work
SLICE_ROWS, FEWEST_ROWS = 65_536, 4_096  # counted at once: the temporary arrays stay small, and numpy's overhead, too
SLICE_BYTES = 32 << 20  # of a file, for rows with long lists
OnRows = Callable[[int], None]  # told how many rows came last


@dataclass(frozen=True)
class Part:
    """Consecutive row groups; `first_row` is the number of their first row in the dataset."""

    blocks: tuple[Block, ...]
    first_row: int
    slice_rows: int  # that are counted at once

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)


def gather(
    folder: Folder, manifest: Manifest, schema: pa.Schema, plan: Plan, ranks: int, on_rows: OnRows | None = None
) -> Counts:
    """Count all rows, on `ranks` processes; `schema`: of the columns of the plan.

    Raises DataError for a row group that can not be read.
    """
    parts, whole = list(_parts(manifest)), Counts(plan)
    ranks = min(ranks, len(parts))
    with Workers(ranks, f"take fewer --ranks than {ranks}") as workers:
        for part, counts in zip(parts, workers.each(partial(count, folder, schema, plan), parts), strict=True):
            whole.merge(counts)
            if on_rows is not None:
                on_rows(part.rows)
    return whole


def count(folder: Folder, schema: pa.Schema, plan: Plan, part: Part) -> Counts:
    """Count the rows of one part. Memory holds a row group, or as many as make a slice."""
    counts, row = Counts(plan), part.first_row
    reader = Reader(folder, part.blocks, schema)
    for table in _slices(reader, part.blocks, part.slice_rows):
        counts.add(table, row)
        row += table.num_rows
    return counts


def _slices(reader: Reader, blocks: tuple[Block, ...], slice_rows: int) -> Iterator[pa.Table]:
    spans, rows = [], 0
    for number, block in enumerate(blocks):
        spans.append(Span(number, 0, block.rows))
        rows += block.rows
        if rows >= slice_rows or number == len(blocks) - 1:
            table = reader.read(spans)
            for first in range(0, rows, slice_rows):
                yield table.slice(first, slice_rows)
            spans, rows = [], 0


def _parts(manifest: Manifest) -> Iterator[Part]:
    """The dataset in parts of about PART_ROWS rows; where they end depends on the dataset alone."""
    a_row = max(1, sum(file.bytes for file in manifest.files) // manifest.num_rows)
    slice_rows = min(SLICE_ROWS, max(FEWEST_ROWS, SLICE_BYTES // a_row))
    blocks: list[Block] = []
    first = rows = 0
    for block in blocks_of(manifest):
        blocks.append(block)
        rows += block.rows
        if rows >= PART_ROWS:
            yield Part(tuple(blocks), first, slice_rows)
            blocks, first, rows = [], first + rows, 0
    if blocks:
        yield Part(tuple(blocks), first, slice_rows)
