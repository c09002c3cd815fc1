"""What was counted of one column: mergeable, in a memory that does not depend on the number of rows."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dist_mtl.data.cardinality import Distinct, hashes_of, list_hashes
from dist_mtl.data.features.bags import lists
from dist_mtl.data.features.ids import ids_of
from dist_mtl.data.features.numbers import numbers_of
from dist_mtl.data.hashing import GOLDEN
from dist_mtl.tools.describe.bins import Bins
from dist_mtl.tools.describe.label_rates import Values
from dist_mtl.tools.describe.sampling import LONGEST, Column

DRIFT_BINS = 32  # of a column's values, for comparing days; the last is for what is missing
COMMON = 15  # the first of them, of an id: its most frequent values; the others share the rest by their hash
SLOTS = 1 << 12  # of the table that finds a watched value by some bits of its hash
NULL = np.uint64(0x5BD1E9959E3779B9)  # stands for a null in the hash of a row


@dataclass(frozen=True)
class Slice:
    """Some rows: their classes, and half * classes + class (the halves are drawn by a row's number)."""

    rows: int
    class_N: np.ndarray
    half_class_N: np.ndarray


@dataclass
class Seen:
    """A column so far. Counts are exact; `values` and `distinct` say themselves what they are."""

    column: Column
    classes: int
    rows: int = 0
    nulls: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    outside: int = 0  # ids beyond the table of the configuration
    elements: int = 0  # of lists
    null_elements: int = 0
    lowest: float | int | None = None  # of numbers; of lists, their length
    highest: float | int | None = None
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))  # x, x**2, f(x), f(x)**2; f = sign(x) log(1 + |x|)
    bins: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (bins, classes)
    watched: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # rows (lists: elements) of each
    values: Values | None = None  # of an id
    distinct: Distinct | None = None  # of the ids in lists
    _slots: tuple[int, np.ndarray] | None = None  # which bits, and the watched value in each slot
    _bins: Bins | None = None

    def __post_init__(self) -> None:
        if not self.bins.size:
            self.bins = np.zeros((self.column.bins, self.classes), np.int64)
            self.watched = np.zeros(len(self.column.watched), np.int64)
            self.values = Values(self.classes) if self.column.is_id else None
            self.distinct = Distinct() if self.column.kind == "bag" else None

    def __getstate__(self) -> dict:
        return vars(self) | {"_slots": None, "_bins": None}  # made anew where they are needed

    @property
    def cardinality(self) -> Distinct | None:
        """Of the values, or of the ids in the lists."""
        return self.distinct if self.values is None else self.values.distinct

    @property
    def finite(self) -> int:
        """Rows with a number that is neither NaN nor infinite."""
        return self.rows - self.nulls - self.nan - self.infinite

    def reach(self, low: float | int, high: float | int) -> None:
        """There are values from `low` to `high`."""
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)

    def merge(self, other: "Seen") -> None:
        """Count what `other` has counted."""
        for name in ("rows", "nulls", "nan", "infinite", "zeros", "outside", "elements", "null_elements"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.lowest is not None:
            self.reach(other.lowest, other.highest)
        self.sums, self.bins, self.watched = (
            self.sums + other.sums,
            self.bins + other.bins,
            self.watched + other.watched,
        )
        for mine, theirs in ((self.values, other.values), (self.distinct, other.distinct)):
            if mine is not None:
                mine.merge(theirs)


def see(seen: Seen, array: pa.Array, of: Slice) -> tuple[np.ndarray, np.ndarray]:
    """Count the rows of a slice. (A hash of each row's value, its bin for comparing days); nulls are equal."""
    seen.rows += of.rows
    seen.nulls += array.null_count
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if seen.column.is_list:
        hashes, bins = _see_lists(seen, array)
        coarse = np.minimum(np.log2(bins + 1.0) * 2, DRIFT_BINS - 2).astype(np.int64)
    elif seen.column.kind == "name":
        hashes, bins = hashes_of(array), np.zeros(of.rows, np.int64)
        coarse = _see_ids(seen, hashes, missing, of)
    elif seen.column.kind == "other":
        hashes, bins = np.zeros(of.rows, np.uint64), np.zeros(of.rows, np.int64)
        coarse = bins.copy()
    else:
        hashes, bins, missing, coarse = _see_numbers(seen, array, missing, of)
    if missing is not None:
        hashes = np.where(missing, NULL, hashes)
        bins[missing], coarse[missing] = seen.column.bins - 1, DRIFT_BINS - 1
    seen.bins += np.bincount(bins * seen.classes + of.class_N, minlength=seen.bins.size).reshape(seen.bins.shape)
    return hashes, coarse


def row_hash(so_far: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The hash of whole rows, one column more."""
    so_far *= np.uint64(GOLDEN)  # odd, so nothing is lost; the order of the columns counts
    so_far += hashes
    return so_far


def _see_numbers(
    seen: Seen, array: pa.Array, missing: np.ndarray | None, of: Slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """(hashes, bins, which are missing or NaN, bins for comparing days)."""
    column, x = seen.column, numbers_of(array)
    hashes = hashes_of(array)
    if column.kind != "whole":
        absent = np.isnan(x)
        empty = int(absent.sum())
        seen.nan += empty - array.null_count
        missing = absent if empty else None
    _see_moments(seen, array, x, missing)
    if seen._bins is None:
        seen._bins = Bins(column.edges)
    bins = seen._bins.of(x)
    if column.kind == "whole":
        return hashes, bins, missing, _see_ids(seen, hashes, missing, of, array)
    return hashes, bins, missing, bins * (DRIFT_BINS - 1) // (len(column.edges) + 1)


def _see_moments(seen: Seen, array: pa.Array, x: np.ndarray, missing: np.ndarray | None) -> None:
    finite = x if missing is None else x[~missing]
    if seen.column.kind != "whole" and not (inside := np.isfinite(finite)).all():
        seen.infinite += int((~inside).sum())
        finite = finite[inside]
    if not len(finite):
        return
    if seen.column.kind != "whole":
        low, high = float(finite.min()), float(finite.max())
        fx = np.copysign(np.log1p(np.abs(finite)), finite)
        seen.sums[2:] += [fx.sum(), (fx * fx).sum()]
    else:  # whole numbers beyond 2**53 are not exact as floats
        ids = ids_of(array.drop_null(), "hash")[0]
        low, high = int(ids.min()), int(ids.max())
    seen.reach(low, high)
    seen.zeros += len(finite) - int(np.count_nonzero(finite))
    with np.errstate(over="ignore"):  # told as a standard deviation that is infinite
        seen.sums[:2] += [finite.sum(), (finite * finite).sum()]  # not `@`: BLAS would start threads


def _see_ids(
    seen: Seen, hashes: np.ndarray, missing: np.ndarray | None, of: Slice, array: pa.Array | None = None
) -> np.ndarray:
    """Count the values; their bins for comparing days."""
    place, hit = _watched(seen, hashes)
    if missing is not None:
        hit &= ~missing
        present = np.flatnonzero(~missing)
        seen.values.add(hashes[present], of.half_class_N[present])
    else:
        seen.values.add(hashes, of.half_class_N)
    _count_watched(seen, place, hit)
    if seen.column.table_rows is not None and array is not None:
        ids = ids_of(array.drop_null(), "clamp")[0]
        seen.outside += int(((ids < 0) | (ids >= seen.column.table_rows)).sum())
    rest = COMMON + (hashes >> np.uint64(60)).astype(np.int64)  # 15 ... 30
    return np.where(hit & (place < COMMON), place, rest)


def _see_lists(seen: Seen, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the lists, bins by length); a null list is as long as an empty one."""
    values, offsets = lists(pa.table([array], ["x"]), "x")
    lengths = np.diff(offsets)
    seen.elements += len(values)
    seen.null_elements += values.null_count
    seen.reach(int(lengths.min()), int(lengths.max()))
    seen.sums[:2] += [lengths.sum(), (lengths.astype(np.float64) ** 2).sum()]
    hashes = hashes_of(values)
    if values.null_count:
        hashes = np.where(values.is_null().to_numpy(zero_copy_only=False), NULL, hashes)
    if seen.distinct is not None:
        present = hashes if not values.null_count else hashes_of(values.drop_null())
        seen.distinct.add(present)
        _count_watched(seen, *_watched(seen, present))
        if seen.column.table_rows is not None:
            ids = ids_of(values.drop_null(), "clamp")[0]
            seen.outside += int(((ids < 0) | (ids >= seen.column.table_rows)).sum())
    return list_hashes(hashes, offsets), np.minimum(lengths, LONGEST)


def _count_watched(seen: Seen, place: np.ndarray, hit: np.ndarray) -> None:
    if len(seen.watched):
        seen.watched += np.bincount(place[hit], minlength=len(seen.watched))


def _watched(seen: Seen, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which watched value, whether it is one)."""
    watched = seen.column.watched
    if not len(watched):
        return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
    if seen._slots is None:
        seen._slots = _slots_of(watched)
    shift, slots = seen._slots
    place = slots[(hashes >> np.uint64(shift)) & np.uint64(SLOTS - 1)]
    return place, watched[place] == hashes


def _slots_of(watched: np.ndarray) -> tuple[int, np.ndarray]:
    """Bits by which no two of the hashes are alike, and which of them is in each slot."""
    shifts = range(0, 52, 4)
    slot_of = {shift: (watched >> np.uint64(shift)) & np.uint64(SLOTS - 1) for shift in shifts}
    shift = max(shifts, key=lambda shift: len(np.unique(slot_of[shift])))  # nearly always the first: all are apart
    slots = np.zeros(SLOTS, np.int64)
    slots[slot_of[shift]] = np.arange(len(watched))
    return shift, slots
