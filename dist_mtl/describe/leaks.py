"""Features that tell a label too well: an AUC more than LIMIT from one half, on the label's space.

number        the rank AUC of the number (of a list: of its length), ties counting half
value         an id's values are scored by their label rate on one half of the rows, and judged on the other half,
              both ways: what a value shows there it did not learn by heart, so ids that come once are not flagged
missing       being null, or an empty list
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dist_mtl.describe.outcomes import Outcomes, Task
from dist_mtl.describe.seen import Seen

LIMIT = 0.45  # of |AUC - 0.5|
FEWEST = 20  # rows of the rarer class that say something
PRIOR = 1.0  # rows at the base rate that every value's label rate begins with


@dataclass(frozen=True)
class Signal:
    """What a column says of a task."""

    column: str
    task: str
    how: Literal["number", "value", "missing"]
    auc: float

    @property
    def strength(self) -> float:
        """|AUC - 0.5|."""
        return abs(self.auc - 0.5)

    @property
    def is_suspect(self) -> bool:
        return self.strength > LIMIT


def signals(seen: Seen, outcomes: Outcomes) -> Iterator[Signal]:
    """What a column says of every task for which it has rows enough."""
    for task in outcomes.tasks:
        for how, value in _aucs(seen, task):
            if value is not None:
                yield Signal(seen.column.name, task.name, how, value)


def _aucs(seen: Seen, task: Task) -> Iterator[tuple[Literal["number", "value", "missing"], float | None]]:
    positives, negatives = task.split(seen.bins)
    yield "missing", auc(*(np.array([counts[:-1].sum(), counts[-1]]) for counts in (positives, negatives)))
    if seen.column.is_list:
        yield "missing", auc(*(np.array([c[0] + c[-1], c[1:-1].sum()]) for c in (positives, negatives)))
    if len(positives) > 2:
        yield "number", auc(positives[:-1], negatives[:-1])
    if seen.values is not None:
        yield "value", value_auc(*task.split(seen.values.counts))


def auc(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """Of counts by ascending bins; None with fewer than FEWEST of either class."""
    if min(positives.sum(), negatives.sum()) < FEWEST:
        return None
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (float(positives.sum()) * float(negatives.sum())))


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
