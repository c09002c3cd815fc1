"""The class of a raw column: what its values are, whatever the width in which a file holds them.

An id is the one that training saw only if the class is the same: the number 7, the text "7" and the seventh microsecond
of 1970 are three ids. A run keeps the class of every column that it was trained on, and other rows are compared with
it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

WHOLE, REAL, TEXT, BOOLEAN, NULL = "whole number", "real number", "text", "boolean", "null"
TIME, ZONED = "date or timestamp without a zone", "timestamp with a zone"
OF_DAY, DURATION, OTHER = "time of day", "duration", "nested"


@dataclass(frozen=True)
class RawColumn:
    """A column of a dataset: its class, and its Arrow type as Arrow writes it."""

    kind: str
    type: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.type})"

    @property
    def arrow(self) -> pa.DataType | None:
        """The Arrow type; None for those that no feature reads: structs, maps, lists of lists."""
        return _parsed(self.type)


Columns = Mapping[str, RawColumn]  # by name; empty where they are not known


@dataclass(frozen=True)
class TrainedOn:
    """The columns of the training rows, and where that is known from: a dataset, or a run's checkpoint."""

    source: str
    columns: Columns


def columns_of(schema: pa.Schema) -> dict[str, RawColumn]:
    """Every column of a dataset."""
    return {field.name: RawColumn(class_of(field.type), str(field.type)) for field in schema}


def class_of(kind: pa.DataType) -> str:
    """The class of a type. Bytes are text, for both are hashed byte by byte; null is a class that fits every other."""
    types, kind = pa.types, stored(kind)
    if is_text(kind):
        return TEXT
    if types.is_list(kind) or is_odd_list(kind):
        return f"list of {class_of(kind.value_type)}"
    if types.is_timestamp(kind):
        return TIME if kind.tz is None else ZONED
    for is_so, name in (
        (types.is_integer, WHOLE),
        (types.is_floating, REAL),
        (types.is_decimal, REAL),
        (types.is_boolean, BOOLEAN),
        (types.is_null, NULL),
        (types.is_date, TIME),
        (types.is_time, OF_DAY),
        (types.is_duration, DURATION),
    ):
        if is_so(kind):
            return name
    return OTHER


def stored(kind: pa.DataType) -> pa.DataType:
    """What stands in the place of an extension's values and of a dictionary's: their storage, its values."""
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Text, or bytes, which some writers do not mark as text; UUIDs are 16 bytes."""
    types = pa.types
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    blobs = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return texts or blobs or types.is_fixed_size_binary(kind)


def is_odd_list(kind: pa.DataType) -> bool:
    """A list of another kind than `pa.list_`."""
    types = pa.types
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    return views or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def same_class(a: str, b: str) -> bool:
    """Whether two classes are one, where null, also within lists, fits every other."""
    lists = "list of "
    while a.startswith(lists) and b.startswith(lists):
        a, b = a.removeprefix(lists), b.removeprefix(lists)
    return a == b or NULL in (a, b)


LIST = re.compile(r"(?P<kind>large_list|list|fixed_size_list)(?:_view)?<\w+: (?P<inner>.+?)(?: not null)?>(?:\[\d+\])?")
DICTIONARY = re.compile(r"dictionary<values=(?P<inner>.+), indices=u?int\d+, ordered=[01]>")
ZONE = re.compile(r"timestamp\[(?P<unit>s|ms|us|ns), tz=(?P<zone>[\w/+:-]+)\]")
DECIMAL = re.compile(r"decimal(?P<bits>32|64|128|256)\((?P<digits>\d+), (?P<scale>-?\d+)\)")
BYTES = re.compile(r"fixed_size_binary\[(?P<width>\d+)\]")


def _parsed(text: str) -> pa.DataType | None:
    """An Arrow type from its name. None: structs and the like, or a name that Arrow does not give."""
    try:
        if match := LIST.fullmatch(text):
            inner = None if "list" in match["inner"] else _parsed(match["inner"])
            of = pa.large_list if match["kind"] == "large_list" else pa.list_
            return None if inner is None else of(inner)
        if match := DICTIONARY.fullmatch(text):
            return _parsed(match["inner"])
        if match := ZONE.fullmatch(text):
            return pa.timestamp(match["unit"], match["zone"])
        if match := DECIMAL.fullmatch(text):
            of = {"32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256}[match["bits"]]
            return of(int(match["digits"]), int(match["scale"]))
        if match := BYTES.fullmatch(text):
            return pa.binary(int(match["width"]))
        return pa.type_for_alias(text)
    except (ValueError, OverflowError, pa.ArrowException):
        return None
