"""Arrow types by family, and values of any of them at random."""

import random
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

# What is drawn of each family; the types of one are of one class and may differ between files.
WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
TEXT = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(3),
]
CODED = [
    pa.dictionary(index, value)
    for index in (pa.int8(), pa.int32(), pa.uint16())
    for value in (pa.string(), pa.large_string(), pa.binary())
]
FAMILIES: dict[str, list[pa.DataType]] = {
    "whole": [*WHOLE, pa.dictionary(pa.int8(), pa.int64())],
    "real": [pa.float16(), pa.float32(), pa.float64()],
    "decimal": [pa.decimal32(5, 2), pa.decimal64(12, 3), pa.decimal128(20, 2), pa.decimal256(50, 4)],
    "text": [*TEXT, *CODED],
    "uuid": [pa.uuid(), pa.binary(16)],
    "json": [pa.json_(), pa.string()],
    "bool": [pa.bool_()],
    "bool8": [pa.bool8()],
    "day": [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")],
    "zoned": [pa.timestamp(unit, zone) for unit in ("s", "us", "ns") for zone in ("UTC", "Europe/Berlin", "+02:00")],
    "time": [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")],
    "duration": [pa.duration(unit) for unit in ("s", "ms", "us", "ns")],
    "null": [pa.null()],
    "opaque": [pa.opaque(pa.int64(), "x", "y")],
    "tensor": [pa.fixed_shape_tensor(pa.float32(), [2])],
}
LISTS: list[Callable[[pa.Field], pa.DataType]] = [
    pa.list_,
    pa.large_list,
    pa.list_view,
    pa.large_list_view,
    lambda field: pa.list_(field, 2),
]


def scalar(draw: random.Random, kind: pa.DataType) -> Any:
    """A value of a type; small, and of few kinds, so that it fits its neighbours, too."""
    types, number = pa.types, draw.randrange(5)
    if isinstance(kind, pa.BaseExtensionType):
        return scalar(draw, kind.storage_type)
    if types.is_dictionary(kind):
        return scalar(draw, kind.value_type)
    if types.is_fixed_size_binary(kind):
        return bytes([65 + number]) * kind.byte_width
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return draw.choice(["", "a", "größe", "2024-01-01", str(number)])
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return draw.choice([b"", b"a", b"\xff\x00"])
    if types.is_boolean(kind):
        return number % 2 == 0
    if types.is_integer(kind):
        ends = [0, 1, 127, -1 if types.is_signed_integer(kind) else 7]
        if kind.bit_width == 64:
            ends += [2**63 - 1 if types.is_signed_integer(kind) else 2**64 - 1, 1_700_000_000]
        return draw.choice(ends)
    if types.is_floating(kind):
        return draw.choice([0.0, -0.0, 1.5, float("nan"), float("inf"), -2.25])
    if types.is_decimal(kind):
        return Decimal(number).scaleb(-1)
    if types.is_date(kind):
        return draw.choice([date(2024, 1, 1 + number), date(1969, 12, 31)])
    if types.is_timestamp(kind):
        return draw.choice([datetime(2024, 1, 1, number), datetime(1969, 12, 31, 23)])
    if types.is_time(kind):
        return time(number, 0, 1)
    if types.is_duration(kind):
        return timedelta(seconds=number - 1)
    return None


def value(draw: random.Random, kind: pa.DataType, nullable: bool = True) -> Any:
    types = pa.types
    if nullable and draw.random() < 0.15:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return value(draw, kind.storage_type, nullable=False)
    if types.is_struct(kind):
        return {field.name: value(draw, field.type, field.nullable) for field in kind}
    if types.is_map(kind):
        keys = {repr(key): key for key in (value(draw, kind.key_type, False) for _ in range(draw.randrange(3)))}
        return [(key, value(draw, kind.item_type)) for key in keys.values()]
    if hasattr(kind, "value_field"):
        size = getattr(kind, "list_size", draw.choice([0, 1, 3]))
        return [value(draw, kind.value_type, kind.value_field.nullable) for _ in range(size)]
    return scalar(draw, kind)


def array(draw: random.Random, field: pa.Field, rows: int) -> pa.Array:
    """Values of a field."""
    only = draw.random() < 0.05 and field.nullable
    return built([None if only else value(draw, field.type, field.nullable) for _ in range(rows)], field.type)


def built(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of any type, which `pa.array` does not make of them all."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, built(values, kind.storage_type))
    if types.is_dictionary(kind):
        codes = built(values, kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(codes.indices.cast(kind.index_type), codes.dictionary)
    mask = pa.array([one is None for one in values], pa.bool_())
    if types.is_struct(kind):
        of = [[None if one is None and field.nullable else _inside(one, field) for one in values] for field in kind]
        children = [built(column, field.type) for column, field in zip(of, kind, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if not (types.is_map(kind) or hasattr(kind, "value_field")):
        return scalars(values, kind)
    if types.is_fixed_size_list(kind):
        filled = [_blank(kind) if one is None else one for one in values]
        flat = built([x for one in filled for x in one], kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
    lists = [one or [] for one in values]
    ends = [sum(map(len, lists[:i])) for i in range(len(lists) + 1)]
    if types.is_map(kind):
        pairs = [pair for one in lists for pair in one]
        keys, items = built([k for k, _ in pairs], kind.key_type), built([v for _, v in pairs], kind.item_type)
        return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, items, type=kind, mask=mask)
    flat, is_large = built([x for one in lists for x in one], kind.value_type), "large" in str(kind)[:5]
    whole = pa.int64() if is_large else pa.int32()
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        of = pa.LargeListViewArray if is_large else pa.ListViewArray
        sizes = pa.array([len(one) for one in lists], whole)
        return of.from_arrays(pa.array(ends[:-1], whole), sizes, flat, type=kind, mask=mask)
    of = pa.LargeListArray if is_large else pa.ListArray
    return of.from_arrays(pa.array(ends, whole), flat, type=kind, mask=mask)


def scalars(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.date64():
        return pa.array(values, pa.date32()).cast(kind)
    return pa.array(values, kind)


def _inside(one: dict | None, field: pa.Field) -> Any:
    """A field of a struct; where that is null some value, if there must be one."""
    return one[field.name] if one is not None else value(random.Random(0), field.type, nullable=False)


def _blank(kind: pa.FixedSizeListType) -> list[Any]:
    draw, field = random.Random(0), kind.value_field
    return [None if field.nullable else value(draw, kind.value_type, nullable=False) for _ in range(kind.list_size)]


def _struct(inner: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field("x", inner)])
