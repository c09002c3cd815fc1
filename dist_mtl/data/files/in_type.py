"""An array in another type that holds its values, see `joined_type`.

Arrow casts the leaves. It does not cast what is nested, for Arrow 26 makes arrays with buffers that are too short of
list views, and of lists of null (measured, tests/unit/test_schemas.py).
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
        offsets = array.offsets.to_numpy()
        inside = slice(offsets[0], offsets[-1])
        keys, items = in_type(array.keys[inside], kind.key_type), in_type(array.items[inside], kind.item_type)
        starts = pa.array(offsets - offsets[0], pa.int32())
        return pa.MapArray.from_arrays(starts, keys, items, type=kind, mask=array.is_null())
    if types.is_fixed_size_list(kind):
        values = array.values[array.offset * kind.list_size : (array.offset + len(array)) * kind.list_size]
        return pa.FixedSizeListArray.from_arrays(in_type(values, kind.value_type), type=kind, mask=array.is_null())
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        of, width = (pa.ListArray, pa.int32()) if types.is_list(kind) else (pa.LargeListArray, pa.int64())
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), width)
        return of.from_arrays(offsets, in_type(array.flatten(), kind.value_type), type=kind, mask=array.is_null())
    return array.cast(kind)
