"""Anyone's click / conversion CSV -> a dataset, streaming: memory holds a few blocks, whatever the size of the files.

Types are those of the first block of the first file; a value that does not fit later is an error that names it, never a
silent null. Nothing is dropped: rows that break the funnel stay, and are counted, because `data.violations` decides.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dist_mtl.data import draws, manifest
from dist_mtl.data.convert.profile import Profile, hash_column
from dist_mtl.data.hashing import key, mix
from dist_mtl.data.writer import write_dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.hints import nearest

BLOCK_BYTES = 8 << 20  # types are inferred from one block, so it must hold thousands of rows
NULLS = ["", "NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N"]

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Csv:
    """What the files are: which columns are labels, ids, and bags (column -> the separator inside its text)."""

    paths: tuple[str, ...]
    click: str
    conversion: str
    delimiter: str = ","
    ids: tuple[str, ...] = ()  # columns to read as text, whatever they look like
    bags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Where the test rows come from: files of their own, or a share of the values of a column (else ConfigError)."""

    test_paths: tuple[str, ...] = ()
    by: str | None = None  # all rows of one value go to one side: a user in both would leak
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"test share {self.share}: it must lie between 0 and 1, so that both sides have rows")


@dataclass(frozen=True)
class Converted:
    """The datasets that were written, and what was seen in the train rows."""

    train: manifest.Manifest
    test: manifest.Manifest | None
    profile: Profile


def convert(source: Csv, split: Split, out: str | Path, on_rows: OnRows | None = None) -> Converted:
    """Write OUT/train and, where `split` gives one, OUT/test: both or none.

    Raises DataError: a file is absent or not such a CSV; a column is missing (names the nearest) or its type changes;
    a label is not 0 or 1 (names file and row); OUT/train or OUT/test exists; a split has no row.
    """
    out = Path(out)
    types = column_types(source)
    seen = Profile(labels=(source.click, source.conversion))
    for folder in (out / "train", out / "test"):
        if folder.exists():
            raise DataError(f"{folder}: exists already; a dataset is never overwritten. Choose another OUT")
    if split.by is not None:
        _known(split.by, types, "--split-by", source.paths[0])

    def rows(paths: Sequence[str], test: bool) -> Iterator[pa.Table]:
        for path in paths:
            for table in read(source, types, path):
                if split.by is not None:
                    table = table.filter(pa.array(_is_test(table.column(split.by), split.share) == test))
                if not test:
                    seen.add(table)
                if on_rows is not None:
                    on_rows(table.num_rows)
                if table.num_rows:
                    yield table

    train = write_dataset(out / "train", rows(source.paths, test=False))
    if not (test_paths := split.test_paths or (source.paths if split.by is not None else ())):
        return Converted(train, None, seen)
    try:
        return Converted(train, write_dataset(out / "test", rows(test_paths, test=True)), seen)
    except BaseException:
        shutil.rmtree(out / "train")  # it is ours: it did not exist when we began
        raise


def column_types(source: Csv) -> dict[str, pa.DataType]:
    """The type of every column: int64, double or text, from the first block of the first file.

    Dates, times and booleans stay text: what they mean to a model is for the user to say.
    """
    path = source.paths[0]
    with _open(source, path, {}) as reader:
        names, inferred = reader.schema.names, reader.schema.types
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: the header names {', '.join(twice)} more than once")
    numeric = (pa.int64(), pa.float64())
    types = {name: kind if kind in numeric else pa.string() for name, kind in zip(names, inferred, strict=True)}
    for name in (source.click, source.conversion):
        _known(name, types, "the label", path)
        # Read as numbers, so that 2 or 0.5 is told as a bad label and not as a bad CSV.
        types[name] = pa.bool_() if pa.types.is_boolean(inferred[names.index(name)]) else pa.float64()
    for name in source.ids:
        _known(name, types, "--id", path)
        types[name] = pa.string()
    for name in source.bags:
        _known(name, types, "--bag", path)
        types[name] = pa.string()
    return types


def read(source: Csv, types: dict[str, pa.DataType], path: str) -> Iterator[pa.Table]:
    """The blocks of one file, with labels checked (int8) and bags split (list<string>, empty for an empty text)."""
    first_row = 1
    with _open(source, path, types) as reader:
        if (names := reader.schema.names) != list(types):
            absent, extra = [n for n in types if n not in names], [n for n in names if n not in types]
            detail = f"missing {absent}, extra {extra}" if absent or extra else "another order"
            raise DataError(f"{path}: its columns differ from those of {source.paths[0]}: {detail}")
        while True:
            try:
                table = pa.Table.from_batches([reader.read_next_batch()])
            except StopIteration:
                return
            except pa.ArrowException as error:
                raise _unreadable(path, error, list(types)) from None
            for label in (source.click, source.conversion):
                checked = _label(table.column(label), f"{path}: label `{label}`", first_row)
                table = table.set_column(table.schema.get_field_index(label), label, checked)
            for bag, separator in source.bags.items():
                table = table.set_column(table.schema.get_field_index(bag), bag, _split(table.column(bag), separator))
            first_row += table.num_rows
            yield table


def _open(source: Csv, path: str, types: dict[str, pa.DataType]) -> pa.csv.CSVStreamingReader:
    """A reader of one file; `types` empty: it infers them."""
    try:
        return pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),  # errors then name the row
            parse_options=pa.csv.ParseOptions(delimiter=source.delimiter),
            convert_options=pa.csv.ConvertOptions(column_types=types, null_values=NULLS, strings_can_be_null=True),
        )
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, list(types)) from None


def _unreadable(path: str, error: Exception, names: list[str]) -> DataError:
    """Arrow's message with the column's name instead of its number, and what to do."""
    text = str(error).splitlines()[0]
    if (match := re.search(r"CSV column #(\d+)", text)) and int(match[1]) < len(names):
        name = names[int(match[1])]
        text = text.replace(match[0], f"column `{name}`")
        return DataError(f"{path}: {text}. Its type was taken from the first rows; `--id {name}` reads it as text")
    return DataError(f"{path}: {text}")


def _label(values: pa.ChunkedArray, what: str, first_row: int) -> pa.Array:
    """0/1 as int8; DataError for anything else, with the number of its row."""
    numbers = values.cast(pa.float64()).fill_null(-1).to_numpy()
    bad = (numbers != 0) & (numbers != 1)
    if bad.any():
        row = int(np.argmax(bad))
        value = values[row].as_py()
        told = "empty" if value is None else value
        raise DataError(f"{what}: {told} in row {first_row + row}, not 0 or 1 (row 1 follows the header)")
    return pa.array(numbers.astype(np.int8))


def _split(texts: pa.ChunkedArray, separator: str) -> pa.Array:
    text = pc.fill_null(texts, "").combine_chunks()
    return pc.if_else(pc.equal(text, ""), pa.scalar([], pa.list_(pa.string())), pc.split_pattern(text, separator))


def _is_test(values: pa.ChunkedArray, share: float) -> np.ndarray:
    """Which rows are test rows: by the hash of the value, so that equal values stay together. Nulls are one value."""
    array = values.combine_chunks()
    hashes = np.where(array.is_null().to_numpy(zero_copy_only=False), np.uint64(0), hash_column(array))
    return draws.uniform(mix(hashes ^ np.uint64(key("split")))) < share


def _known(name: str, types: dict[str, pa.DataType], what: str, path: str) -> None:
    if name not in types:
        hint = nearest(name, types) or f"it has {', '.join(types)}"
        raise DataError(f"{path}: there is no column `{name}` ({what}); {hint}")
