"""A comparison in words: which run is better in which task, what could have been told, and when not to trust it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dist_mtl.metrics.auc import NORMAL_95
from dist_mtl.metrics.paired import Paired
from dist_mtl.terminal.wording import plural
from dist_mtl.tools.compare.statistics import FEWEST, FEWEST_CLUSTERS, SliceDifference, Slices, TaskDifference

LEVEL = 0.05
POWER_80 = 0.8416  # the normal quantile of 80 %
MOST_SLICES = 5  # told in the verdict; the table has them all

Better = Literal["A", "B"]


@dataclass(frozen=True)
class TaskVerdict:
    """`better` is None where no difference can be told; `detectable`: the smallest that could be, NaN if unknown."""

    better: Better | None
    detectable: float
    words: str


@dataclass(frozen=True)
class Verdict:
    """By task, for the slices if there are any, and overall; `warnings` say why it should not be trusted."""

    tasks: dict[str, TaskVerdict]
    slices: str | None
    overall: str
    warnings: tuple[str, ...]


def detectable(paired: Paired) -> float:
    """The smallest true difference that a test at 5 % finds in 80 of 100 samples like this one."""
    return (NORMAL_95 + POWER_80) * paired.standard_error


def task_verdict(task: str, found: TaskDifference, family: int) -> TaskVerdict:
    """The verdict on a task's AUC, one of `family` that were corrected together."""
    name, auc, reach = task.upper(), found.auc, detectable(found.auc)
    if math.isnan(auc.p_value):
        return TaskVerdict(None, math.nan, f"{name}: no verdict; {_why_not(found)}.")
    if found.identical:
        return TaskVerdict(None, reach, f"{name}: identical, every row has the same score in A and B.")
    after = f"{p_text(found.auc_adjusted)} after Holm over {_plural(family, 'task')}"
    better = _better(auc, found.auc_adjusted)
    if better is not None:
        size, low, high = _sided(auc, better)
        digits = digits_of(auc)
        words = (
            f"{name} AUC: {better} is better by {size:.{digits}f} "
            f"(95 % interval {low:.{digits}f} to {high:.{digits}f}, {after})."
        )
        return TaskVerdict(better, reach, words)
    if auc.standard_error == 0:
        return TaskVerdict(None, reach, f"{name}: A and B rank the rows alike, only their probabilities differ.")
    digits = digits_of(auc)
    alone = f", {p_text(auc.p_value)} alone" if auc.p_value < LEVEL else ""
    words = (
        f"{name}: no difference can be told ({auc.difference:+.{digits}f}, {after}{alone}); with these rows only "
        f"differences above {reach:.{digits}f} could be (80 % power)."
    )
    return TaskVerdict(None, reach, words)


def _why_not(found: TaskDifference) -> str:
    if not found.rows:
        return "no row counts for it"
    if found.positives in (0, found.rows):
        return f"its {found.rows:,} rows are all {'positive' if found.positives else 'negative'}"
    return f"{plural(found.positives, 'positive')} in too few groups are too few for an interval"


def _better(paired: Paired, adjusted: float) -> Better | None:
    if not adjusted < LEVEL:
        return None
    return "B" if paired.difference > 0 else "A"


def _sided(paired: Paired, better: Better) -> tuple[float, float, float]:
    """By how much, and its interval, as numbers of the better side."""
    if better == "B":
        return paired.difference, paired.low, paired.high
    return -paired.difference, -paired.high, -paired.low


def slices_verdict(slices: Slices) -> str | None:
    """The slices whose AUC differs, the surest first; None without slices."""
    tested = [
        (f"{column} {value}, {task.upper()}", one)
        for column, values in slices.items()
        for value, tasks in values.items()
        for task, one in tasks.items()
        if not math.isnan(one.auc_adjusted)
    ]
    if not slices:
        return None
    if not tested:
        return (
            f"Slices: none is large enough to be tested ({FEWEST} positives and negatives, {FEWEST_CLUSTERS} groups)."
        )
    after = f"after Holm over {_plural(len(tested), 'slice and task', 'slices and tasks')}"
    sure = sorted((s for s in tested if s[1].auc_adjusted < LEVEL), key=lambda s: s[1].auc_adjusted)
    if not sure:
        return f"Slices: no difference of AUC can be told in any, {after}."
    told = "; ".join(_slice_words(name, one) for name, one in sure[:MOST_SLICES])
    more = f"; and {len(sure) - MOST_SLICES} more" if len(sure) > MOST_SLICES else ""
    return f"Slices: AUC differs in {len(sure)} of {len(tested)} {after}: {told}{more}."


def _slice_words(name: str, one: SliceDifference) -> str:
    better = _better(one.auc, one.auc_adjusted) or "B"
    size, _, _ = _sided(one.auc, better)
    return f"{name}: {better} is better by {size:.{digits_of(one.auc)}f} ({p_text(one.auc_adjusted)})"


def overall(tasks: dict[str, TaskVerdict], found: dict[str, TaskDifference], warnings: Sequence[str]) -> str:
    """One sentence over all tasks, by AUC."""
    if all(one.identical for one in found.values()):
        return "Overall: identical; A and B give every row the same scores."
    wins = {side: [name.upper() for name, one in tasks.items() if one.better == side] for side in ("A", "B")}
    open_ = [name.upper() for name, one in tasks.items() if one.better is None]
    parts = [f"{side} is better in {_list(names)}" for side, names in wins.items() if names]
    if not parts:
        words = "Overall: no difference of AUC can be told in any task"
    else:
        rest = [f"no difference can be told in {_list(open_)}"] if open_ else []
        words = f"Overall: {'; '.join([*parts, *rest])}"
    return words + (". Do not rely on it before reading the warnings." if warnings else ".")


def sample_warnings(found: dict[str, TaskDifference], by: str | None) -> list[str]:
    """What the rows themselves say against the verdict."""
    warnings = []
    for name, one in found.items():
        fewer = min(one.positives, one.rows - one.positives)
        if 0 < fewer < FEWEST:
            kind = "positives" if fewer == one.positives else "negatives"
            warnings.append(
                f"{name.upper()}: {fewer} {kind} only; with fewer than {FEWEST} its intervals are rough. "
                f"Compare on more rows"
            )
        if by is not None and one.clusters is not None and 0 < one.clusters < FEWEST_CLUSTERS:
            warnings.append(
                f"{name.upper()}: {_plural(one.clusters, 'value')} of `{by}` only; with fewer than {FEWEST_CLUSTERS} "
                f"its intervals come out too narrow"
            )
    return warnings


def digits_of(paired: Paired) -> int:
    """Decimals worth showing of a difference: down to the first digit of its standard error, 4 at least."""
    error = paired.standard_error
    return 4 if not error > 0 else min(max(4, math.ceil(-math.log10(error))), 9)


def p_text(p_value: float) -> str:
    """`p = 0.008`, `p = 0.43`, `p < 0.001`."""
    if math.isnan(p_value):
        return "p unknown"
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
