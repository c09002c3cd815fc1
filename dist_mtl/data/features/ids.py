"""Ids: the values of a column as int64, and int64 as rows of a table by the policy of a feature.

After `Lookup` an id is a row of its table, whatever the sharding plan: FBGEMM itself would map an id beyond the table
to row 0, and a row-wise plan a negative one to a row of another shard, both silently (measured).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.data.column_class import is_text
from dist_mtl.data.features.reject import Where, refuse, shown
from dist_mtl.data.hashing import GOLDEN, hash_ids, hash_keys, hash_strings, key, mix
from dist_mtl.terminal.wording import plural

NO_ID = -1
NAMES = ("hash", "dynamic")  # policies to which an id is a name: any 64 bits, or a string


def is_time(kind: pa.DataType) -> bool:
    """A date, a time of the day, a timestamp, a duration."""
    return pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind)


def is_id(kind: pa.DataType, policy: str = "hash") -> bool:
    """Whether values of this type can be ids under a policy. A column of null alone has none, which is no fault."""
    if pa.types.is_dictionary(kind):
        return is_id(kind.value_type, policy)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return True
    return policy in NAMES and (is_text(kind) or is_time(kind))


def wanted(policy: str) -> str:
    """The same in words."""
    return "integers, strings, booleans, dates or times" if policy in NAMES else "integers or booleans"


def ids_of(column: pa.Array | pa.ChunkedArray, policy: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(ids int64, missing bool or None: there is no null). A missing id is in every table.

    Strings are hashed to 64 bits; a time counts microseconds since 1970, so that a day is the same id as a date and as
    a timestamp of any unit. uint64 wraps if an id is a name, else it saturates: an id beyond int64 is in no table.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        return _decoded(array, policy)
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64), np.ones(len(array), bool)
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if is_text(array.type):
        return _hashed(array), missing
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    elif is_time(array.type):
        array = _microseconds(array)
    if missing is not None:
        array = array.fill_null(0)
    ids = array.to_numpy(zero_copy_only=False)
    if ids.dtype == np.uint64 and policy not in NAMES:
        ids = np.minimum(ids, np.uint64(2**63 - 1))
    return ids.astype(np.int64, copy=False), missing


def _decoded(array: pa.DictionaryArray, policy: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Each distinct value is looked at once. A null may also be among the values, where Arrow does not count it."""
    places, missing = ids_of(array.indices, "hash")
    values, none = ids_of(array.dictionary, policy)
    if not len(values):
        return np.zeros(len(array), np.int64), missing
    if none is not None:
        missing = none[places] if missing is None else missing | none[places]
    ids = values[places]
    if missing is not None:
        ids[missing] = 0
    return ids, missing


def _hashed(array: pa.Array) -> np.ndarray:
    array = array.cast(pa.large_binary())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return hash_strings(np.frombuffer(data or b"", np.uint8), bounds)


def _microseconds(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_time(kind):
        target = pa.time64("us")
    elif pa.types.is_duration(kind):
        target = pa.duration("us")
    else:
        target = pa.timestamp("us", kind.tz if pa.types.is_timestamp(kind) else None)
    return array.cast(target, safe=False).view(pa.int64())


def cross(parts: Sequence[np.ndarray]) -> np.ndarray:
    """N ids of each part -> N ids int64 of their combinations, in their order; two collide by chance only, 2**-64."""
    words = np.zeros(len(parts[0]), np.uint64)
    for ids in parts:
        words += ids.astype(np.uint64)
        words += np.uint64(GOLDEN)
        words = mix(words)
    return words.astype(np.int64)


@dataclass(frozen=True)
class Lookup:
    """How the ids of a feature become rows of its table."""

    feature: str
    table: str
    rows: int
    policy: str

    def rows_of(
        self, ids: np.ndarray, where: Where, column: pa.Array | pa.ChunkedArray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(rows int64, which of them `clamp` moved). Under `dynamic` keys in [0, 2**63), whose rows are given later.

        Raises DataError under `reject` for an id outside the table, as it stands in the `column` of the ids. Features
        of one table that share an id share its row.
        """
        match self.policy:
            case "hash":
                return hash_ids(ids, self.rows, key("table", self.table)), None
            case "dynamic":
                return hash_keys(ids, key("table", self.table)), None
            case "clamp":
                mapped = np.clip(ids, 0, self.rows - 1)
                return mapped, mapped != ids
            case _:
                bad = (ids < 0) | (ids >= self.rows)
                if bad.any():
                    value = shown(column[int(np.argmax(bad))])
                    told = f"id {value} is outside table `{self.table}` of {plural(self.rows, 'row')} (policy reject)"
                    refuse(bad, where, f"features.{self.feature}: {told}")
                return ids, None
