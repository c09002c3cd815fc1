"""Everything that one pass counts, of any part of a dataset; parts are merged in the dataset's order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dist_mtl.data.hashing import random_bits
from dist_mtl.tools.describe.column_stats import DRIFT_BINS, Seen, Slice, row_hash, see
from dist_mtl.tools.describe.days import DayColumn, Key
from dist_mtl.tools.describe.duplicates import Duplicates
from dist_mtl.tools.describe.labels import LabelCounts, Outcomes, classify
from dist_mtl.tools.describe.sampling import Column

MOST_DAYS = 400  # beyond, it is not days that the column tells


@dataclass(frozen=True)
class Plan:
    """What is to be counted."""

    columns: tuple[Column, ...]
    outcomes: Outcomes
    day: DayColumn | None


@dataclass
class Counts:
    """The rows so far. `days`: rows by class; `drift`: (columns, DRIFT_BINS) rows, by day."""

    plan: Plan
    rows: int = 0
    columns: list[Seen] = field(default_factory=list)
    labels: list[LabelCounts] = field(default_factory=list)
    class_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    duplicates: Duplicates = field(default_factory=Duplicates)
    days: dict[Key, np.ndarray] = field(default_factory=dict)
    drift: dict[Key, np.ndarray] = field(default_factory=dict)
    no_day: int = 0
    too_many_days: bool = False

    def __post_init__(self) -> None:
        if not self.columns:
            classes = self.plan.outcomes.classes
            self.columns = [Seen(column, classes) for column in self.plan.columns]
            self.labels = [LabelCounts() for _ in self.plan.outcomes.labels]
            self.class_rows = np.zeros(classes, np.int64)

    def merge(self, other: "Counts") -> None:
        """Count what `other` has counted."""
        self.rows += other.rows
        self.class_rows = self.class_rows + other.class_rows
        for mine, theirs in zip((*self.columns, *self.labels), (*other.columns, *other.labels), strict=True):
            mine.merge(theirs)
        self.duplicates.merge(other.duplicates)
        self.no_day += other.no_day
        self.too_many_days |= other.too_many_days
        for key in other.days:
            self._day(key, other.days[key], other.drift[key])

    def add(self, table: pa.Table, first_row: int) -> None:
        """Count some rows. `first_row`: the number of the first one, which decides the halves."""
        classes = self.plan.outcomes.classes
        class_N = classify(table, self.plan.outcomes, self.labels)
        halves = (random_bits(table.num_rows, "halves", first_row) >> np.uint64(63)).astype(np.int64)
        of = Slice(table.num_rows, class_N, halves * classes + class_N)
        whole, drift = np.zeros(table.num_rows, np.uint64), []
        for seen in self.columns:
            hashes, bins = see(seen, table.column(seen.column.name).combine_chunks(), of)
            row_hash(whole, hashes)
            drift.append(bins)
        self.rows += table.num_rows
        self.class_rows += np.bincount(class_N, minlength=classes)
        self.duplicates.add(whole)
        if self.plan.day is not None and not self.too_many_days:
            self._add_days(table, class_N, drift)

    def _add_days(self, table: pa.Table, class_N: np.ndarray, drift: Sequence[np.ndarray]) -> None:
        keys, place = self.plan.day.keys(table)
        if len(keys) > MOST_DAYS:
            self.too_many_days = True
            return
        if (absent := place < 0).any():
            self.no_day += int(absent.sum())
            place, class_N = place[~absent], class_N[~absent]
            drift = [bins[~absent] for bins in drift]
        rows = _table(place, class_N, len(keys), self.plan.outcomes.classes)
        by_column = [_table(place, bins, len(keys), DRIFT_BINS) for bins in drift]
        by_day = np.stack(by_column, axis=1) if by_column else np.zeros((len(keys), 0, DRIFT_BINS), np.int64)
        for i, key in enumerate(keys):
            self._day(key, rows[i], by_day[i])

    def _day(self, key: Key, rows: np.ndarray, drift: np.ndarray) -> None:
        if key in self.days:
            self.days[key] = self.days[key] + rows
            self.drift[key] = self.drift[key] + drift
        elif len(self.days) < MOST_DAYS:
            self.days[key], self.drift[key] = rows, drift
        else:
            self.too_many_days = True


def _table(rows_N: np.ndarray, columns_N: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.bincount(rows_N * columns + columns_N, minlength=rows * columns).reshape(rows, columns)
