"""A type that holds the values of two: of one class, see `column_class`, and without a loss."""

import pyarrow as pa

from dist_mtl.data.column_class import class_of, is_odd_list, is_text, same_class, stored

MOST_DIGITS = 76  # of a decimal
UNITS = ("s", "ms", "us", "ns")


def readable_type(kind: pa.DataType, inside: bool = False) -> pa.DataType:
    """The type in which values of another are read, see `schema.readable`. `inside`: of a list or a struct."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return readable_type(kind.storage_type, inside)
    if types.is_dictionary(kind):
        # Of 32 bits: row groups have dictionaries of their own, and together they may have more than int8 counts.
        value = readable_type(kind.value_type, inside=True)
        return value if inside else pa.dictionary(pa.int32(), value)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return pa.large_string() if types.is_string_view(kind) else pa.large_binary()
    if types.is_list(kind) or is_odd_list(kind):
        inner = pa.field(kind.value_field.name, readable_type(kind.value_type, inside=True))
        if types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        is_large = types.is_large_list(kind) or types.is_large_list_view(kind)
        return pa.large_list(inner) if is_large else pa.list_(inner)
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, readable_type(field.type, inside=True)) for field in kind])
    if types.is_map(kind):
        return pa.map_(readable_type(kind.key_type, inside=True), readable_type(kind.item_type, inside=True))
    return kind


def joined_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """A type that holds every value of two; None: there is none, or they are of two classes."""
    types, (a, b) = pa.types, (readable_type(a), readable_type(b))
    if a == b or types.is_null(b):
        return a
    if types.is_null(a):
        return b
    if types.is_dictionary(a) and types.is_dictionary(b):
        value = joined_type(a.value_type, b.value_type)
        return None if value is None else pa.dictionary(pa.int32(), value)
    a, b = stored(a), stored(b)
    if not same_class(class_of(a), class_of(b)):
        return None
    if types.is_integer(a):
        return _integer(a, b)
    if types.is_decimal(a) or types.is_decimal(b):
        return _decimal(a, b) if types.is_decimal(a) and types.is_decimal(b) else None
    if types.is_floating(a):
        return max(a, b, key=lambda kind: kind.bit_width)
    if is_text(a):
        return _text(a, b)
    if types.is_temporal(a):
        return _time(a, b)
    return _nested(a, b)


def _integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Of two signs one that is wider than the unsigned; beyond uint64 there is none."""
    signed = [pa.types.is_signed_integer(kind) for kind in (a, b)]
    if signed[0] == signed[1]:
        return max(a, b, key=lambda kind: kind.bit_width)
    minus, plus = (a, b) if signed[0] else (b, a)
    bits = max(minus.bit_width, 2 * plus.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _decimal(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    if digits > MOST_DIGITS:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _text(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    types = pa.types
    is_large = any(types.is_large_string(kind) or types.is_large_binary(kind) for kind in (a, b))
    if all(types.is_string(kind) or types.is_large_string(kind) for kind in (a, b)):
        return pa.large_string() if is_large else pa.string()
    return pa.large_binary() if is_large else pa.binary()


def _time(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_date(a) and types.is_date(b):
        return pa.date64()
    unit = max((_unit(kind) for kind in (a, b)), key=UNITS.index)
    if types.is_duration(a):
        return pa.duration(unit)
    if types.is_time(a):
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    zones = {kind.tz for kind in (a, b) if types.is_timestamp(kind)}
    return pa.timestamp(unit, zones.pop() if len(zones) == 1 else "UTC")


def _unit(kind: pa.DataType) -> str:
    return "ms" if pa.types.is_date64(kind) else "s" if pa.types.is_date32(kind) else kind.unit


def _nested(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Lists of what holds both elements; structs of equal names, maps."""
    types = pa.types
    if types.is_struct(a) and types.is_struct(b):
        names = [[field.name for field in kind] for kind in (a, b)]
        fields = [joined_type(x.type, y.type) for x, y in zip(a, b, strict=False)]
        if names[0] != names[1] or None in fields:
            return None
        return pa.struct([pa.field(name, kind) for name, kind in zip(names[0], fields, strict=True)])
    if types.is_map(a) and types.is_map(b):
        key, item = joined_type(a.key_type, b.key_type), joined_type(a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if not all(types.is_list(kind) or is_odd_list(kind) for kind in (a, b)):
        return None
    inner = joined_type(a.value_type, b.value_type)
    if inner is None:
        return None
    field, sizes = pa.field(a.value_field.name, inner), {getattr(kind, "list_size", None) for kind in (a, b)}
    if len(sizes) == 1 and None not in sizes:
        return pa.list_(field, sizes.pop())
    return pa.large_list(field) if any(types.is_large_list(kind) for kind in (a, b)) else pa.list_(field)
