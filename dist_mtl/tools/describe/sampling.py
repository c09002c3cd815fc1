"""A first look at a dataset: some row groups from all over it say what is to be counted, column by column.

It decides where to cut and which values to watch; what is told of them is counted over all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from dist_mtl.data.cardinality import hashes_of
from dist_mtl.data.features.bags import is_list, lists
from dist_mtl.data.features.ids import is_id
from dist_mtl.data.features.numbers import is_number, numbers_of
from dist_mtl.data.features.quantile_sketch import Sketch
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.reader import Reader, blocks_of
from dist_mtl.data.order import Span
from dist_mtl.tools.describe.clocks import tells_the_time

# label; number: float; whole: integer or boolean, as an id and as a number; name: text or a time, as an id; bag: a list
# of ids; vector: a list of floats; other: only its nulls are counted
Kind = Literal["label", "number", "whole", "name", "bag", "vector", "other"]
LOOKED_AT = 1 << 17  # rows, of up to GROUPS row groups
GROUPS = 32
LOOKED_AT_BYTES = 64 << 20  # of files, where rows have long lists
BUCKETS = 256  # of equal numbers of rows, of a number
LONGEST = 4_096  # lengths of lists are told apart up to here
WATCHED = 32  # values of a column whose rows are counted


@dataclass(frozen=True)
class Column:
    """What is to be counted of a column."""

    name: str
    type: str
    kind: Kind
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)  # of numbers, ascending
    watched: np.ndarray = field(
        default_factory=lambda: np.zeros(0, np.uint64), repr=False
    )  # hashes, the most frequent first
    words: tuple[str, ...] = field(default=(), repr=False)  # those values as text
    table_rows: int | None = None  # ids outside [0, table_rows) are counted
    is_time: bool = False  # it tells when the row happened

    @property
    def is_id(self) -> bool:
        return self.kind in ("whole", "name")

    @property
    def is_list(self) -> bool:
        return self.kind in ("bag", "vector")

    @property
    def has_numbers(self) -> bool:
        return self.kind in ("number", "whole", "label")

    @property
    def bins(self) -> int:
        """Of numbers or lengths, and a last one for what is missing."""
        return (LONGEST + 1 if self.is_list else len(self.edges) + 1) + 1


def kind_of(kind: pa.DataType) -> Kind:
    """What a column of this type is."""
    if pa.types.is_null(kind):
        return "other"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if is_number(kind):
        return "whole"
    if is_id(kind):
        return "name"
    if is_list(kind, is_id):
        return "bag"
    return "vector" if is_list(kind, is_number) else "other"


def sample_of(folder: Folder, manifest: Manifest, schema: pa.Schema) -> pa.Table:
    """Rows from all over a dataset. Raises DataError for a row group that can not be read."""
    blocks = blocks_of(manifest)
    a_row = max(1, sum(file.bytes for file in manifest.files) // manifest.num_rows)
    wanted = min(LOOKED_AT, LOOKED_AT_BYTES // a_row)
    count = min(len(blocks), GROUPS, max(4, wanted * len(blocks) // manifest.num_rows))
    each = max(1, wanted // count)
    chosen = np.unique(np.linspace(0, len(blocks) - 1, count).round().astype(int))
    reader = Reader(folder, blocks, schema)
    return pa.concat_tables([reader.read([Span(int(i), 0, min(blocks[i].rows, each))]) for i in chosen])


def columns_of(sample: pa.Table, labels: Sequence[str], tables: dict[str, int]) -> tuple[Column, ...]:
    """What is to be counted of each column. `tables`: column -> rows of a table; ids outside are counted."""
    schema = sample.schema
    return tuple(_column(name, schema.field(name).type, sample, labels, tables.get(name)) for name in schema.names)


def _column(name: str, kind: pa.DataType, sample: pa.Table, labels: Sequence[str], table_rows: int | None) -> Column:
    told = "label" if name in labels else kind_of(kind)
    is_time = told != "label" and tells_the_time(name, kind, sample)
    edges = np.zeros(0)
    if told in ("number", "whole", "label"):
        sketch = Sketch()
        sketch.add(numbers_of(sample.column(name)))
        edges = np.array(sketch.quantiles(BUCKETS)) if sketch.total else edges
    if told in ("number", "vector", "other"):
        return Column(name, str(kind), told, edges, is_time=is_time)
    array = lists(sample, name)[0] if told == "bag" else sample.column(name).combine_chunks()
    return Column(name, str(kind), told, edges, *_frequent(array.drop_null()), table_rows, is_time)


def _frequent(array: pa.Array) -> tuple[np.ndarray, tuple[str, ...]]:
    """(hashes of the most frequent values, those as text)."""
    hashes = hashes_of(array)
    found, counts = np.unique(hashes, return_counts=True)
    watched = found[np.argsort(-counts, kind="stable")[:WATCHED]]
    words = array.take(pa.array([int(np.argmax(hashes == one)) for one in watched], pa.int64())).to_pylist()
    return watched, tuple(map(_word, words))


def _word(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
