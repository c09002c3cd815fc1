"""Anyone's click / conversion CSV -> datasets, streaming: memory holds a few blocks, whatever the size of the files.

Types are those of the first block of the first file; a value that does not fit later is an error that names it, never a
silent null. Nothing is dropped: rows that break the funnel stay, and are counted, because `data.violations` decides.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dist_mtl.data.convert.delimited import Layout, binary, table_of
from dist_mtl.data.convert.lines import Block, Segment, blocks, first_line, segments
from dist_mtl.data.convert.parts import Conversion, OnProgress
from dist_mtl.data.convert.split import TEST, TRAIN, VALIDATION, Shares, entities
from dist_mtl.data.convert.tally import Tally
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.marks import marked
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.hints import nearest

NULLS = ("", "NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N")
ADVICE = "Its type was taken from the first rows; `--id {column}` reads it as text"


@dataclass(frozen=True)
class Csv:
    """What the files are: which columns are labels, ids, and bags (column -> the separator inside its text).

    `names`: of the columns, where the files have no header. `positive`: label -> the text that stands for 1; every
    other text is a 0.
    """

    paths: tuple[str, ...]
    click: str
    conversion: str
    delimiter: str = ","
    ids: tuple[str, ...] = ()  # columns to read as text, whatever they look like
    bags: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    positive: dict[str, str] = field(default_factory=dict)
    funnel: bool = True  # a conversion implies a click; false: neither label says anything of the other

    def __post_init__(self) -> None:
        labels = (self.click, self.conversion)
        if self.click == self.conversion:
            raise ConfigError(f"--click and --conversion both name `{self.click}`; name two columns")
        for name in (*self.ids, *self.bags):
            if name in labels:
                raise ConfigError(f"`{name}` is a label; it can not be an --id or a --bag as well")
        for name in self.ids:
            if name in self.bags:
                raise ConfigError(f"`{name}` is named as --id and as --bag; keep one of the two")


@dataclass(frozen=True)
class Split:
    """Where the test and validation rows come from: files of their own, or shares of the values of a column (else
    ConfigError)."""

    test_paths: tuple[str, ...] = ()
    by: str | None = None  # all rows of one value go to one side: a user in both would leak
    share: float = 0.2  # of the values of `by`, to test; 0 where there are test files
    validation: float = 0.0  # of the values of `by`, out of train

    def __post_init__(self) -> None:
        if self.by is not None and not self.test_paths and not 0 < self.share < 1:
            raise ConfigError(f"test share {self.share}: it must lie between 0 and 1, so that both sides have rows")

    @property
    def shares(self) -> Shares:
        """What is split off the train files."""
        if self.by is None:
            return Shares()
        return Shares(0.0 if self.test_paths else self.share, self.validation)


@dataclass(frozen=True)
class Converted:
    """The datasets that were written, by name, and what became of the rows."""

    datasets: dict[str, Manifest]
    tally: Tally

    @property
    def train(self) -> Manifest:
        return self.datasets[TRAIN]

    @property
    def test(self) -> Manifest | None:
        return self.datasets.get(TEST)

    @property
    def validation(self) -> Manifest | None:
        return self.datasets.get(VALIDATION)


@dataclass(frozen=True)
class Table:
    """`parts.Work`: the rows of CSV blocks. `by`, `shares`: which rows stand where; without `by` all in `name`."""

    source: Csv
    layout: Layout
    name: str
    by: str | None
    shares: Shares

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = _finish(table_of(block, self.layout), self.source, block)
        tally.read += table.num_rows
        parts = {self.name: table} if self.by is None else self.shares.split(table, entities(table.column(self.by)))
        if self.source.funnel:
            click, conversion = (table.column(n).to_numpy() for n in (self.source.click, self.source.conversion))
            note = f"rows have `{self.source.conversion}` without `{self.source.click}`; kept, data.violations decides"
            tally.note(note, conversion > click, block)
        return parts


def convert(
    source: Csv, split: Split, out: str | Path, jobs: int = 1, on_progress: OnProgress | None = None
) -> Converted:
    """Write OUT/train and, where `split` gives them, OUT/validation and OUT/test: all or none.

    The datasets do not depend on `jobs`, the number of processes. Raises DataError: a file is absent or not such a CSV;
    a column is missing (names the nearest) or its type changes; a label is not 0 or 1 (names file and line); a dataset
    exists; a split has no row.
    """
    layout = layout_of(source)
    if split.by is not None:
        _known(split.by, layout.types, "--split-by", source.paths[0])
        if split.by in source.bags:
            raise ConfigError(f"--split-by {split.by}: a --bag has many values a row; name a column of one value")
    for path in (*source.paths, *split.test_paths):
        _same_columns(path, source, layout)
    train = segments(source.paths, header=not source.names)
    test = segments(split.test_paths, first=len(train), header=not source.names)
    names = dict.fromkeys((*split.shares.names, *([TEST] if test else [])))
    with Conversion(out, tuple(names), jobs, on_progress) as conversion:
        conversion.run(Table(source, layout, TRAIN, split.by, split.shares), train)
        conversion.run(Table(source, layout, TEST, None, Shares()), test)
        return Converted(conversion.publish(), conversion.tally)


def layout_of(source: Csv) -> Layout:
    """The type of every column: int64, double or text, from the first block of the first file.

    Dates, times and booleans stay text: what they mean to a model is for the user to say.
    """
    path = source.paths[0]
    names = list(source.names) or _header(path, source.delimiter)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: the header names {', '.join(twice)} more than once")
    inferred = _inferred(source, names)
    numeric = (pa.int64(), pa.float64())
    types = {name: kind if kind in numeric else pa.string() for name, kind in zip(names, inferred, strict=True)}
    for name in (source.click, source.conversion):
        _known(name, types, "the label", path)
        # Read as numbers, so that 2 or 0.5 is told as a bad label and not as a bad CSV.
        types[name] = pa.bool_() if pa.types.is_boolean(inferred[names.index(name)]) else pa.float64()
    for option, columns in (("--id", source.ids), ("--bag", source.bags), ("the label", source.positive)):
        for name in columns:
            _known(name, types, option, path)
            types[name] = pa.string()
    return Layout(types, source.delimiter, NULLS, quoted=True, advice=ADVICE)


def _inferred(source: Csv, names: list[str]) -> list[pa.DataType]:
    """What Arrow takes the columns of the first file's first block for."""
    path = source.paths[0]
    text = Layout(dict.fromkeys(names, pa.string()), source.delimiter, NULLS, quoted=True)
    block = next(blocks(Segment(path, 0, header=not source.names)), None)
    if block is None or not table_of(block, text).num_rows:  # so that a line of another length is told as such
        raise DataError(f"{path}: there are no rows in it")
    table = pa.csv.read_csv(
        pa.BufferReader(block.data),
        read_options=pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block.data) + 1),
        parse_options=pa.csv.ParseOptions(delimiter=source.delimiter),
        convert_options=pa.csv.ConvertOptions(null_values=list(NULLS), strings_can_be_null=True),
    )
    return table.schema.types


def _header(path: str, delimiter: str) -> list[str]:
    """The names in the first line."""
    line = first_line(path).encode() + b"\n"
    parse = pa.csv.ParseOptions(delimiter=delimiter)
    return pa.csv.read_csv(pa.BufferReader(line), parse_options=parse).schema.names


def _same_columns(path: str, source: Csv, layout: Layout) -> None:
    if source.names or (names := _header(path, source.delimiter)) == list(layout.types):
        return
    absent, extra = [n for n in layout.types if n not in names], [n for n in names if n not in layout.types]
    detail = f"missing {absent}, extra {extra}" if absent or extra else "another order"
    raise DataError(f"{path}: its columns differ from those of {source.paths[0]}: {detail}")


def _finish(table: pa.Table, source: Csv, block: Block) -> pa.Table:
    """Labels checked (int8) and marked, bags split (list<string>; nothing between two separators is no id)."""
    for number, label in enumerate((source.click, source.conversion)):
        place = table.schema.get_field_index(label)
        if (text := source.positive.get(label)) is not None:
            is_text = pc.equal(pc.utf8_trim_whitespace(table.column(label)), text)
            table = table.set_column(place, label, is_text.cast(pa.int8()))  # null stays null, and is refused below
        checked = pa.array(binary(table, label, block, "label"))
        table = table.set_column(place, marked(pa.field(label, checked.type), number, source.funnel), checked)
    for bag, separator in source.bags.items():
        table = table.set_column(table.schema.get_field_index(bag), bag, _split(table.column(bag), separator))
    return table


def _split(texts: pa.ChunkedArray, separator: str) -> pa.Array:
    parts = pc.split_pattern(pc.fill_null(texts, "").combine_chunks(), separator)
    values, lengths = parts.flatten(), pc.list_value_length(parts).to_numpy()
    there = pc.not_equal(values, "").to_numpy(zero_copy_only=False)
    before = np.append(0, np.cumsum(there))  # ids among the first so many parts
    offsets = before[np.append(0, np.cumsum(lengths))].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.filter(pa.array(there)))


def _known(name: str, types: dict[str, pa.DataType], what: str, path: str) -> None:
    if name not in types:
        hint = nearest(name, types) or f"it has {', '.join(types)}"
        raise DataError(f"{path}: there is no column `{name}` ({what}); {hint}")
