"""Columns that say when their row happened, whatever they are called: later rows have values that no training row had.

By the type (a date, a time), the name of a day or a time, or the values: seconds to nanoseconds since 1970, dates
written as digits (20240131, 24013123) or as text, and numbers that rise from row to row.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.data.column_class import is_text
from dist_mtl.tools.describe.days import NAMES, UNITS
from dist_mtl.tools.describe.names import IDS, MEASURES

NEARLY_ALL = 0.98  # of the values that are there; some logs write a time that is not known as 0 or -1
FEWEST = 20  # rows that show a rise
STAMPS = re.compile(r"(.*_)?(timestamp|ts|datetime|unixtime|epoch)(_(s|ms|us|ns))?")
DATES = re.compile(r"(\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ,].*)?")
# Digits of a date and a time, the years with 2 or 4 digits: YYMMDDHH, YYYYMMDD, YYYYMMDDHH, YYYYMMDDHHMMSS.
FORMS = ((2, 2), (4, 0), (4, 2), (4, 6))  # (digits of the year, digits of the time)


def tells_the_time(name: str, kind: pa.DataType, sample: pa.Table) -> bool:
    """Whether a column says when its row happened, by its type, its name and a sample of its values."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    inner, plain = kind.value_type if pa.types.is_dictionary(kind) else kind, name.lower()
    if is_text(inner):
        return NAMES.fullmatch(plain) is not None or _are_dates(sample.column(name))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    if NAMES.fullmatch(plain) and pa.types.is_integer(kind):
        return True
    x = sample.column(name).drop_null().cast(pa.float64(), safe=False).to_numpy()
    x = x[np.isfinite(x)]
    if STAMPS.fullmatch(plain) and len(x) and np.unique(x).size > len(x) / 20:
        return True
    if MEASURES.fullmatch(plain):
        return False
    known = x[(x != 0) & (x != -1)]
    return len(known) > 0 and (_rises(x) or (not IDS.fullmatch(plain) and (_is_epoch(known) or _is_calendar(known))))


def _is_epoch(x: np.ndarray) -> bool:
    return any(np.mean((x >= low) & (x <= high)) >= NEARLY_ALL for low, high in UNITS.values())


def _is_calendar(x: np.ndarray) -> bool:
    if (x != np.floor(x)).any() or np.abs(x).max() >= 1e15:
        return False
    return any(np.mean(_written(x.astype(np.int64), *form)) >= NEARLY_ALL for form in FORMS)


def _written(x: np.ndarray, year_digits: int, time_digits: int) -> np.ndarray:
    """Which numbers are dates of this form. Two digits of a year count from 2010 on, else too many numbers would be."""
    date, time = np.divmod(x, 10**time_digits)
    year, month, day = date // 10_000, date // 100 % 100, date % 100
    low, high = (1990, 2100) if year_digits == 4 else (10, 40)
    hour = time // 10 ** max(0, time_digits - 2)
    fits = (year >= low) & (year <= high) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    return fits & (hour < 24)


def _are_dates(column: pa.ChunkedArray) -> bool:
    values = pc.unique(column.drop_null()).slice(0, 1_000).cast(pa.binary()).to_pylist()
    texts = [value.decode(errors="replace").strip() for value in values]  # bytes may be no text
    return bool(texts) and np.mean([DATES.fullmatch(text) is not None for text in texts]) >= NEARLY_ALL


def _rises(x: np.ndarray) -> bool:
    """Whether numbers never fall from row to row, and most rise: a clock, or a counter of rows."""
    steps = np.diff(x)
    return len(x) >= FEWEST and bool((steps >= 0).all() and (steps > 0).mean() > 0.5)
