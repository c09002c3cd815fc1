"""The day of a row: from a partition, a column that names days, or a column that tells the time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.data.column_class import is_text, stored
from dist_mtl.data.features.ids import is_time
from dist_mtl.errors import DataError, nearest

Key = int | str  # a day as it is counted by; ordered within a dataset
# Of columns and partitions that hold days; not of what comes again every week or month.
NAMES = re.compile(r"(?!.*(?:of|week)_day$)(.*_)?(day|date|dt|ds|event_date|pt)")
TIMES = re.compile(r"(.*_)?(time|timestamp|ts|datetime)")
# Numbers that are a time between 1990 and 2100: seconds, milli-, micro-, nanoseconds since 1970.
UNITS = {unit: (631_152_000 * unit, 4_102_444_800 * unit) for unit in (1, 10**3, 10**6, 10**9)}
DAY = 86_400
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31, since 1970-01-01


@dataclass(frozen=True)
class DayColumn:
    """Which column tells the day, and how. `unit`: of whole numbers since 1970 in a second."""

    name: str
    how: Literal["value", "moment", "number"]
    unit: int = 1

    def keys(self, table: pa.Table) -> tuple[list[Key], np.ndarray]:
        """(the days of a table's rows, ascending; which of them each row's is, -1: none)."""
        array = table.column(self.name).combine_chunks()
        if self.how == "moment":
            array = array.cast(pa.date32()) if not pa.types.is_date32(array.type) else array
            array = _days(array.view(pa.int32()))
        elif self.how == "number":
            days = pc.divide(array.cast(pa.float64(), safe=False), float(DAY * self.unit))
            array = _days(pc.floor(days)).cast(pa.int64())
        coded = array.cast(stored(array.type)).dictionary_encode()  # a category may have a null among its values
        keys = coded.dictionary.to_pylist()
        order = sorted(range(len(keys)), key=lambda i: keys[i])
        rank = np.empty(len(keys) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(keys)), -1
        return [keys[i] for i in order], rank[coded.indices.fill_null(len(keys)).to_numpy(zero_copy_only=False)]

    def word(self, key: Key) -> str:
        """A day for a reader."""
        if self.how == "value":
            return str(key)
        return f"{datetime.fromtimestamp(int(key) * DAY, UTC):%Y-%m-%d}"


def _days(array: pa.Array) -> pa.Array:
    """Days since 1970; null for what no calendar has: NaN, an infinity, the year 10,000."""
    told = pc.and_(pc.greater_equal(array, FIRST_DAY), pc.less_equal(array, LAST_DAY))
    return pc.if_else(told, array, pa.scalar(None, array.type))


def find_day(schema: pa.Schema, partitions: Sequence[str], sample: pa.Table) -> DayColumn | None:
    """The column that tells the day: a partition, then a name for days, then a time. None: there is none."""
    named = [name for name in (*partitions, *schema.names) if NAMES.fullmatch(name.lower())]
    for name in (*named, *(n for n in schema.names if TIMES.fullmatch(n.lower())), *schema.names):
        found = _as_day(name, schema.field(name).type, sample, is_named=name in named)
        if found is not None and (name in named or TIMES.fullmatch(name.lower()) or found.how == "moment"):
            return found
    return None


def day_of(name: str, schema: pa.Schema, sample: pa.Table, source: str) -> DayColumn:
    """The column `name` as one that tells the day. Raises DataError if it can not."""
    if name not in schema.names:
        raise DataError(f"{source}: there is no column `{name}` (--day); {nearest(name, schema.names) or schema.names}")
    found = _as_day(name, schema.field(name).type, sample, is_named=True)
    if found is None:
        raise DataError(
            f"{source}: column `{name}` is {schema.field(name).type}; --day needs dates, times or day names"
        )
    return found


def _as_day(name: str, kind: pa.DataType, sample: pa.Table, is_named: bool) -> DayColumn | None:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return DayColumn(name, "moment")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        column = sample.column(name)
        column = column.cast(pa.float32()) if pa.types.is_float16(kind) else column  # Arrow compares no other halves
        ends = pc.min_max(column).as_py()
        for unit, (low, high) in UNITS.items():
            if ends["min"] is not None and low <= ends["min"] and ends["max"] <= high:
                return DayColumn(name, "number", unit)
        return DayColumn(name, "value") if is_named and pa.types.is_integer(kind) else None
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return DayColumn(name, "value") if is_named and is_text(inner) and not is_time(inner) else None
