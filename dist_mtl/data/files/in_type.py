"""An array in another type that holds its values, see `joined_type`.

Arrow casts the leaves. It does not cast what is nested, for Arrow 26 makes arrays with buffers that are too short of
list views, and of lists of null (measured, tests/unit/test_joined_types.py).
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def in_type(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values. Raises ArrowInvalid for one that the type has no room for, such as a year in nanoseconds."""
    types, here = pa.types, array.type
    if here == kind:
        return array
    if types.is_null(here):
        return pa.nulls(len(array), kind)
    if isinstance(array, pa.ExtensionArray):
        return in_type(array.storage, kind)
    if types.is_dictionary(here) and not types.is_dictionary(kind):
        return in_type(array.dictionary_decode(), kind)
    if types.is_struct(kind):
        fields = [in_type(array.field(i), field.type) for i, field in enumerate(kind)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    if types.is_map(kind):
        offsets, inside = _offsets(array)
        keys, items = in_type(array.keys[inside], kind.key_type), in_type(array.items[inside], kind.item_type)
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=kind, mask=array.is_null())
    if types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(
            in_type(_fixed(array), kind.value_type), type=kind, mask=array.is_null()
        )
    if types.is_list(kind) or types.is_large_list(kind):
        offsets, values = _spread(array)
        of, width = (pa.ListArray, pa.int32()) if types.is_list(kind) else (pa.LargeListArray, pa.int64())
        values = in_type(values, kind.value_type)
        return of.from_arrays(pa.array(offsets, width), values, type=kind, mask=array.is_null())
    return array.cast(kind)


def _spread(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Any kind of list as (offsets int64, N + 1; values). What stands in the place of a null may be anything."""
    types = pa.types
    if types.is_fixed_size_list(array.type):
        return np.arange(len(array) + 1) * array.type.list_size, _fixed(array)
    if types.is_list(array.type) or types.is_large_list(array.type):
        offsets, inside = _offsets(array)
        return offsets, array.values[inside]
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return offsets, array.flatten() if offsets[-1] else array.values[:0]  # Arrow flattens not every empty array


def _offsets(array: pa.Array) -> tuple[np.ndarray, slice]:
    """(offsets from 0 on, the values that they are of)."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], slice(offsets[0], offsets[-1])


def _fixed(array: pa.Array) -> pa.Array:
    size = array.type.list_size
    return array.values[array.offset * size : (array.offset + len(array)) * size]
