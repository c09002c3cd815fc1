"""Features that tell a label too well: an AUC more than LIMIT from one half, on the label's space.

number        the rank AUC of the number (of a list: of its length), ties counting half
value         an id's values are scored by their label rate on one half of the rows, and judged on the other half,
              both ways: what a value shows there it did not learn by heart, so ids that come once are not flagged
missing       being null, or an empty list
certain       a state (being there, being another number than the usual one, one of a few values) that comes in many
              rows, all of which have the label: made of it, however few of the label's rows have that state
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.labels import Outcomes, Task

LIMIT = 0.45  # of |AUC - 0.5|
FEWEST = 20  # rows of the rarer class that say something ...
EXACT = 5  # ... or so many, if a threshold parts the classes without an error: by chance 1 in 10**6 among 50 rows
FEW_VALUES = 10  # of a column, each of which is a state
CHANCE = 1e-9  # of as many rows with the label in a row, at its base rate
PRIOR = 1.0  # rows at the base rate that every value's label rate begins with


How = Literal["number", "value", "missing", "certain"]


@dataclass(frozen=True)
class Signal:
    """What a column says of a task."""

    column: str
    task: str
    how: How
    auc: float

    @property
    def strength(self) -> float:
        """|AUC - 0.5|."""
        return abs(self.auc - 0.5)

    @property
    def is_suspect(self) -> bool:
        return self.strength > LIMIT or self.how == "certain"


def signals(seen: Seen, outcomes: Outcomes) -> Iterator[Signal]:
    """What a column says of every task for which it has rows enough."""
    for task in outcomes.tasks:
        for how, value in _aucs(seen, task):
            if value is not None:
                yield Signal(seen.column.name, task.name, how, value)


def _aucs(seen: Seen, task: Task) -> Iterator[tuple[How, float | None]]:
    positives, negatives = task.split(seen.bins)
    yield "missing", auc(*(np.array([counts[:-1].sum(), counts[-1]]) for counts in (positives, negatives)))
    if seen.column.is_list:
        yield "missing", auc(*(np.array([c[0] + c[-1], c[1:-1].sum()]) for c in (positives, negatives)))
    if len(positives) > 2:
        yield "number", auc(positives[:-1], negatives[:-1])
    if seen.values is not None:
        yield "value", value_auc(*task.split(seen.values.counts))
    yield "certain", _certain(seen, task)


def auc(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """Of counts by ascending bins; None with fewer rows of either class than say something."""
    rarer = min(positives.sum(), negatives.sum())
    if rarer < EXACT:
        return None
    below = np.cumsum(negatives) - negatives / 2
    found = float((positives * below).sum() / (float(positives.sum()) * float(negatives.sum())))
    return found if rarer >= FEWEST or found in (0.0, 1.0) else None


def _certain(seen: Seen, task: Task) -> float | None:
    """The AUC of a state all of whose rows have the label; None: there is none, or chance may have made it."""
    positives, negatives = task.split(seen.bins)
    if not positives.sum() or not negatives.sum():
        return None
    states = [[positives[:-1].sum(), negatives[:-1].sum()]]  # being there
    if len(positives) > 2:
        usual = int(np.argmax((positives + negatives)[:-1]))
        states.append([np.delete(positives, usual)[:-1].sum(), np.delete(negatives, usual)[:-1].sum()])
    if seen.values is not None and seen.values.distinct.is_exact and seen.values.distinct.count <= FEW_VALUES:
        states += np.stack(task.split(seen.values.counts.sum(axis=1)), axis=1).tolist()
    rate = positives.sum() / (positives.sum() + negatives.sum())
    pure = [ones for ones, zeros in states if not zeros and ones >= FEWEST and rate**ones < CHANCE]
    return float(0.5 + max(pure) / positives.sum() / 2) if pure else None


def value_auc(positives_V2: np.ndarray, negatives_V2: np.ndarray) -> float | None:
    """Values' counts by half -> the mean of the two AUCs, each learned on one half and measured on the other."""
    found = []
    for learned in (0, 1):
        ones, zeros = positives_V2[:, learned], negatives_V2[:, learned]
        base = ones.sum() / max(1, ones.sum() + zeros.sum())
        rate = (ones + PRIOR * base) / (ones + zeros + PRIOR)
        _, place = np.unique(rate, return_inverse=True)
        measured = (np.bincount(place, counts[:, 1 - learned]) for counts in (positives_V2, negatives_V2))
        found.append(auc(*measured))
    return None if None in found else float(np.mean(found))
