"""Hive partitions: day=2024-01-01/part-0.parquet. What the folders above a file say holds for each of its rows.

A key is a column as any other, with one value a file: int64 if all its values are whole numbers, else text. A file that
has a column of that name keeps its own. Folders without `=` mean nothing.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from re import compile as pattern
from urllib.parse import unquote

import pyarrow as pa

from dist_mtl.config.dataset_uri import WHOLE, Range, compared
from dist_mtl.errors import DataError, nearest

NULL = "__HIVE_DEFAULT_PARTITION__"
DATE = pattern(r"\d{4}-\d{2}-\d{2}")
Values = dict[str, str | None]  # key -> value; None: null


@lru_cache(maxsize=1 << 16)
def _pairs(folder: str) -> tuple[tuple[str, str | None], ...]:
    found = (part.partition("=") for part in PurePosixPath(folder).parts)
    try:
        pairs = tuple((_text(key), _text(value)) for key, equals, value in found if key and equals)
    except UnicodeDecodeError:
        raise DataError(f"{folder}: what stands behind % in a partition is no UTF-8; rename the folder") from None
    if len({key for key, _ in pairs}) < len(pairs):
        raise DataError(f"{folder}: names a partition twice; let each key stand in the path once")
    return tuple((key, None if value == NULL else value) for key, value in pairs)


def _text(quoted: str) -> str:
    return unquote(quoted, errors="strict")  # else two folders of other bytes would be one value


def values_of(path: str) -> Values:
    """The partition of a file by its path below the dataset's folder. Raises DataError for a key that comes twice."""
    return dict(_pairs(path.rpartition("/")[0]))


def types_of(parts: Sequence[Values]) -> dict[str, str]:
    """Key -> Arrow type over all files. Raises DataError if one file has other keys than another."""
    keys = list(parts[0]) if parts else []
    for part in parts:
        if part.keys() != set(keys):
            lacking = set(keys) ^ part.keys()
            raise DataError(
                f"the partition `{min(lacking)}` is in the paths of some files and not of others; move the files into "
                f"folders of equal keys, or make two datasets"
            )
    return {key: _type([value for part in parts if (value := part[key]) is not None]) for key in keys}


def _type(values: list[str]) -> str:
    return "int64" if values and all(WHOLE.fullmatch(value) for value in values) else "string"


def scalars(part: Values, types: Mapping[str, str]) -> dict[str, pa.Scalar]:
    """A file's constant columns."""
    return {
        key: pa.scalar(int(part[key]), pa.int64())
        if kind == "int64" and part[key] is not None
        else pa.scalar(part[key], pa.type_for_alias(kind))
        for key, kind in types.items()
    }


def place_in_order(part: Values, types: Mapping[str, str]) -> tuple:
    """What files are sorted by: null first, whole numbers by their value (day=2 before day=10), dates as text."""
    return tuple(
        (part[key] is not None, int(part[key] or 0) if kind == "int64" else part[key] or "")
        for key, kind in types.items()
    )


def chosen(parts: Sequence[Values], types: Mapping[str, str], ranges: Mapping[str, Range], source: str) -> list[bool]:
    """Which files lie in every range. Raises DataError: no such key, a bound of another kind, or nothing in range."""
    keep = [True] * len(parts)
    for key, (first, last) in ranges.items():
        if key not in types:
            none = "no path has a KEY=VALUE in it"
            there = nearest(key, types) or (f"there are {', '.join(types)}" if types else none)
            raise DataError(f"{source}: the paths have no partition `{key}`; {there}")
        values = sorted({part[key] for part in parts if part[key] is not None})
        values = sorted(values, key=int) if types[key] == "int64" else values
        _check_bounds(key, (first, last), values, types[key], source)
        if types[key] == "int64":
            low, high = compared((first, last))
            inside = {value for value in values if low <= int(value) <= high}
        else:
            inside = {value for value in values if first <= value <= last}
        if not inside:
            raise DataError(f"{source}: no file with `{key}` from {first} to {last}; {_there(key, values)}")
        keep = [kept and part[key] in inside for kept, part in zip(keep, parts, strict=True)]
    if not any(keep):
        raise DataError(f"{source}: no file lies in all of these ranges; widen one of them")
    return keep


def _check_bounds(key: str, bounds: Range, values: Sequence[str], kind: str, source: str) -> None:
    """Text is compared as text, where `2024-01` comes before all its days and `2024-1-5` behind all of them."""
    dates = bool(values) and all(DATE.fullmatch(value) for value in values)
    for bound in bounds:
        if kind == "int64" and not WHOLE.fullmatch(bound):
            raise DataError(f"{source}: `{key}` = {bound}: its values are whole numbers; {_there(key, values)}")
        if dates and not DATE.fullmatch(bound):
            there = _there(key, values)
            raise DataError(f"{source}: `{key}` = {bound}: its values are dates, write YYYY-MM-DD; {there}")


def _there(key: str, values: Sequence[str]) -> str:
    if not values:
        return f"`{key}` has no value but null"
    shown = f"{values[0]} to {values[-1]}" if len(values) > 3 else ", ".join(values)
    return f"there {'is' if len(values) == 1 else 'are'} {len(values)} value{'s' * (len(values) > 1)}: {shown}"
