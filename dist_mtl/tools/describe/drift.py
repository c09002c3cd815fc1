"""From day to day: rows, label rates, and how far the values of a column have moved since the first day.

The population stability index of shares p (a day) and q (the first day) over a column's bins is
sum (p - q) ln(p / q); below 0.1 is taken for the same population, above 0.25 for another. Bins: of numbers 31 with
about equal numbers of rows, of ids the 15 most frequent values and 16 classes of the others by their hash, of lists
their length; and one for what is missing. Half a row is added to every bin, so that an empty one has a logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dist_mtl.tools.describe.counts import Counts
from dist_mtl.tools.describe.days import Key
from dist_mtl.tools.describe.labels import Task

MOVED, OTHER = 0.1, 0.25
FEWEST_ROWS = 1_000  # of a day, for an index
SAME_DAY = 0.999  # a column of which each day has one value tells the day, and does not drift
SIGMAS = 5.0  # by which a day's label rate must differ from the middle day's ...
RATIO = 1.2  # ... and this factor at least


@dataclass(frozen=True)
class Day:
    """One day. `rates`: positives over rows of each task's space; `psi`: of each column, NaN where not told."""

    key: Key
    rows: int
    rates: tuple[float, ...]
    odd: tuple[bool, ...]  # tasks whose rate is not that of the middle day
    psi: np.ndarray


def days_of(counts: Counts, tasks: Sequence[Task]) -> list[Day]:
    """The days in their order."""
    keys = sorted(counts.days)
    if not keys:
        return []
    usual = [middle([_rate(task, rows) for rows in counts.days.values()]) for task in tasks]
    first = counts.drift[keys[0]]
    calendar = tells_the_day(np.stack([counts.drift[key] for key in keys]))
    found = []
    for key in keys:
        rows = counts.days[key]
        rates = [_rate(task, rows) for task in tasks]
        odd = tuple(_is_odd(task, rows, rate) for task, rate in zip(tasks, usual, strict=True))
        enough = min(int(rows.sum()), int(counts.days[keys[0]].sum())) >= FEWEST_ROWS
        psi = np.where(calendar | (not enough), np.nan, stability(counts.drift[key], first))
        found.append(Day(key, int(rows.sum()), tuple(rates), odd, psi))
    return found


def middle(rates: Sequence[float]) -> float:
    """The rate of the middle day; the mean of all is far from every day where one is far from the others."""
    known = [rate for rate in rates if rate == rate]
    return float(np.median(known)) if known else float("nan")


def stability(day_CB: np.ndarray, first_CB: np.ndarray) -> np.ndarray:
    """The population stability index of each column, less what chance alone adds: (bins - 1) (1 / n + 1 / m)."""
    used_CB = (day_CB + first_CB) > 0
    p, q = (_shares(counts, used_CB) for counts in (day_CB, first_CB))
    ratio = np.log(p, out=np.zeros_like(p), where=used_CB) - np.log(q, out=np.zeros_like(q), where=used_CB)
    chance = (used_CB.sum(axis=1) - 1) * sum(1 / np.maximum(1, c.sum(axis=1)) for c in (day_CB, first_CB))
    return np.maximum(((p - q) * ratio).sum(axis=1) - chance, 0.0)


def tells_the_day(drift_DCB: np.ndarray) -> np.ndarray:
    """Which columns have one bin a day, and not the same one every day: a weekday, the date."""
    share_DC = drift_DCB.max(axis=2) / np.maximum(1, drift_DCB.sum(axis=2))
    same_C = (drift_DCB.argmax(axis=2) == drift_DCB[:1].argmax(axis=2)).all(axis=0)
    return (share_DC >= SAME_DAY).all(axis=0) & ~same_C


def _shares(counts_CB: np.ndarray, used_CB: np.ndarray) -> np.ndarray:
    smoothed = np.where(used_CB, counts_CB + 0.5, 0.0)
    return smoothed / np.maximum(smoothed.sum(axis=1, keepdims=True), 1e-300)


def _rate(task: Task, rows_K: np.ndarray) -> float:
    positives, negatives = task.split(rows_K)
    return float(positives / (positives + negatives)) if positives + negatives else float("nan")


def _is_odd(task: Task, rows_K: np.ndarray, usual: float) -> bool:
    positives, negatives = (float(x) for x in task.split(rows_K))
    rows = positives + negatives
    expected = rows * usual
    if not rows or not 0 < usual < 1:
        return False
    far = abs(positives - expected) > SIGMAS * (expected * (1 - usual)) ** 0.5
    return far and not 1 / RATIO < (positives + 0.5) / (expected + 0.5) < RATIO
