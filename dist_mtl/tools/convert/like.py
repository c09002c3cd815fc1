"""Types by name, and the columns of a dataset or a run as a pattern for other rows."""

import re
from dataclasses import dataclass

import pyarrow as pa

from dist_mtl.data.column_class import RawColumn
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.tools.convert.values import can_hold

WORDS = {
    "text": pa.string(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
}
COMMON = ("int64", "uint64", "double", "string", "bool", "date", "timestamp", "time", "decimal128(10, 2)")


@dataclass(frozen=True)
class Like:
    """The columns of a dataset or of a run. `needed`: those without which its rows are of no use.

    `labels`: empty where a dataset does not say which columns are labels.
    """

    name: str  # as the user wrote it
    types: dict[str, pa.DataType | None]  # none: a CSV cannot hold it
    needed: frozenset[str]
    labels: tuple[str, ...] = ()
    funnel: bool = True
    optional: frozenset[str] = frozenset()  # of use only where labels are: a weight
    is_run: bool = False


def wished(option: str) -> tuple[str, pa.DataType]:
    """`COL=TYPE` as (column, type). Raises ConfigError: no such type, or none that a text can become."""
    column, equals, word = option.rpartition("=")
    if "[" in word or "tz=" in option:  # timestamp[us, tz=UTC]
        column, equals, word = option.partition("=")
    if not equals or not column:
        raise ConfigError(f"--type {option!r}: write COL=TYPE, e.g. --type user=int64")
    kind = WORDS.get(word) or RawColumn("", re.sub(r", *", ", ", word)).arrow
    if kind is None or pa.types.is_null(kind) or not can_hold(kind):
        hint = nearest(word, (*WORDS, *COMMON, "int32", "float64", "date32")) or f"there are {', '.join(COMMON)} ..."
        raise ConfigError(f"--type {option!r}: no type that a text can become; {hint}")
    return column, kind


def simple(kind: pa.DataType) -> pa.DataType | None:
    """The type that a text column becomes to stand for `kind`: a dictionary is its values; None: a text cannot."""
    if pa.types.is_dictionary(kind):
        return simple(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        elements = simple(kind.value_type)
        return None if elements is None or pa.types.is_list(elements) else pa.list_(elements)
    return kind if can_hold(kind) or pa.types.is_null(kind) else None
