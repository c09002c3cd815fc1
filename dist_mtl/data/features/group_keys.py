"""Values of a column as int64 keys, for what compares rows by a column: slices and groups of metrics."""

import numpy as np
import pyarrow as pa

from dist_mtl.data.features.ids import ids_of, is_id
from dist_mtl.errors import DataError


def check_key(name: str, kind: pa.DataType, source: str) -> None:
    """Raise DataError if a column of this type has no keys: a list, or a number that is not whole."""
    if not is_id(kind):
        raise DataError(
            f"{source}: column `{name}` is {kind}; metrics by its values need whole numbers, strings, booleans or "
            f'dates. For slices of a number, declare a feature of kind = "bucket" and name that; groups are users or '
            f"searches, and need their ids"
        )


def keys_of(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64, present bool) of N values: the ids that a feature of kind id would have."""
    keys, missing = ids_of(column, "hash")
    return keys, np.ones(len(keys), bool) if missing is None else ~missing
