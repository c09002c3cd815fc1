"""Values of a column as int64 keys, for what compares rows by a column: slices and groups of metrics."""

import numpy as np
import pyarrow as pa

from dist_mtl.data.encode import decoded, ids_of
from dist_mtl.errors import DataError


def check_key(name: str, kind: pa.DataType, source: str) -> None:
    """Raise DataError if a column of this type has no keys: a list, or a number that is not whole."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    whole = pa.types.is_integer(inner) or pa.types.is_boolean(inner) or pa.types.is_temporal(inner)
    if not (whole or pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        raise DataError(
            f"{source}: column `{name}` is {kind}; metrics by its values need whole numbers, strings, booleans or "
            f'dates. For slices of a number, declare a feature of kind = "bucket" and name that; groups are users or '
            f"searches, and need their ids"
        )


def keys_of(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64, present bool) of N values: whole numbers are their own keys, strings are hashed to 64 bits."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = decoded(array)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    elif pa.types.is_temporal(array.type):
        array = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
    return ids_of(array, "hash"), present
