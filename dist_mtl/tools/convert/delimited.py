"""Blocks of lines -> Arrow tables, by Arrow's own CSV parser; what does not fit is told by file, line and column."""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dist_mtl.errors import DataError
from dist_mtl.tools.convert.lines import Block

SHOWN = 200  # characters of a bad line that a message shows


@dataclass(frozen=True)
class Layout:
    """The columns of a file, in its order, and how they are written."""

    types: dict[str, pa.DataType]
    delimiter: str = ","
    nulls: tuple[str, ...] = ("",)
    quoted: bool = False
    quoted_nulls: bool = True  # a null token in quotes is null, too
    advice: str = ""  # what to do where a value has another type; `{column}` is its name


def table_of(block: Block, layout: Layout, data: bytes | None = None) -> pa.Table:
    """The rows of a block, by `layout`. `data`: parsed in place of its lines, row for row.

    Raises DataError for the first line that does not fit.
    """
    text = block.data if data is None else data
    if not text.strip():
        return pa.schema(list(layout.types.items())).empty_table()
    try:
        table = parse(text, layout)
    except pa.ArrowInvalid as error:
        row, reason = reason_of(error, layout)
        cut = "" if block.complete else ". The file ends in the middle of a line: download it again"
        raise DataError(f"{block.place(row)}: {reason}{cut}") from None
    if layout.quoted and b'"' in text:
        _refuse_line_ends(table, block)
    return table


def _refuse_line_ends(table: pa.Table, block: Block) -> None:
    """Arrow takes a line end in quotes for a part of the value; where a block ends there, its rows would be others."""
    for name in table.column_names:
        if pa.types.is_string(table.schema.field(name).type):
            broken = pc.match_substring(table.column(name), "\n").fill_null(False)
            if pc.any(broken).as_py():
                told = f"column `{name}`: a quote opens, and the line ends within it; remove line ends from values"
                refuse(broken.to_numpy(), block, told)


def parse(data: bytes | pa.Buffer, layout: Layout) -> pa.Table:
    """The same of plain bytes. Raises pa.ArrowInvalid; `reason_of` explains it."""
    return pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(
            column_names=list(layout.types), use_threads=False, block_size=min(len(data) + 1, 2**31 - 1)
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=layout.delimiter, quote_char='"' if layout.quoted else False, ignore_empty_lines=True
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=layout.types,
            null_values=list(layout.nulls),
            strings_can_be_null=layout.quoted,
            quoted_strings_can_be_null=layout.quoted_nulls,
        ),
    )


def reason_of(error: pa.ArrowInvalid, layout: Layout) -> tuple[int, str]:
    """(row from 0, Arrow's reason in our words, with the layout's advice)."""
    text, names = str(error).splitlines()[0], list(layout.types)
    number = re.search(r"Row #(\d+)", text)
    row = int(number[1]) - 1 if number else 0
    column = re.search(r"CSV column #(\d+)", text)
    value = re.search(r"CSV conversion error to (.*)", text)
    if column and value and int(column[1]) < len(names):
        name = names[int(column[1])]
        advice = f". {layout.advice.format(column=name)}" if layout.advice else ""
        return row, f"column `{name}`: no {value[1].replace(': invalid value', '')[:SHOWN]}{advice}"
    plain = re.sub(r"^CSV parse error: Row #\d+: ", "", text)
    return row, "".join(c if c.isprintable() else " " for c in plain[:SHOWN])


def refuse(bad: np.ndarray, block: Block, message: str) -> None:
    """Raise DataError for the first row where `bad` is set, with its file and line."""
    if bad.any():
        raise DataError(f"{block.place(int(np.argmax(bad)))}: {message}")


def binary(table: pa.Table, name: str, block: Block, what: str) -> np.ndarray:
    """A label as int8; DataError for anything but 0 and 1, an empty one too."""
    column = table.column(name)
    numbers = column.cast(pa.float64()).fill_null(-1).to_numpy()
    bad = (numbers != 0) & (numbers != 1)
    if bad.any():
        value = column[int(np.argmax(bad))].as_py()
        refuse(bad, block, f"{what} `{name}` is {'empty' if value is None else value}, not 0 or 1")
    return numbers.astype(np.int8)
