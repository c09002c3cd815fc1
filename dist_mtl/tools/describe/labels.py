"""What came of the rows: labels as classes, so that one count per class serves every task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from dist_mtl.data.features.numbers import is_number, numbers_of
from dist_mtl.data.funnel import broken, spaces
from dist_mtl.errors import DataError, nearest

MOST_LABELS = 6  # that are no funnel: 64 classes


@dataclass(frozen=True)
class Task:
    """A label on its space: which classes are its positives, and which its negatives."""

    label: str
    given: str | None  # the space: rows where this label is set; None: all rows
    positive_K: np.ndarray = field(repr=False)
    negative_K: np.ndarray = field(repr=False)

    @property
    def name(self) -> str:
        return self.label if self.given is None else f"{self.label} given {self.given}"

    def split(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., K) counts -> (positives, negatives), each (...)."""
        return counts @ self.positive_K, counts @ self.negative_K


@dataclass(frozen=True)
class Outcomes:
    """The labels. In a funnel, class k has the first k labels set; else class k has the labels of k's bits.

    The last class are the rows of which no task is told: a label is missing or not 0 or 1, or they break the funnel.
    """

    labels: tuple[str, ...]
    funnel: bool = True

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return (len(self.labels) + 1 if self.funnel else 2 ** len(self.labels)) + 1

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """As `Config.tasks`, in their order."""
        if not self.labels:
            return ()
        kinds_KT = self._kinds_KT()
        found = []
        for space in spaces(len(self.labels), self.funnel):
            inside = np.append(
                kinds_KT[:, space.given] if space.given is not None else np.ones(len(kinds_KT), bool), False
            )
            is_set = np.append(kinds_KT[:, space.label], False)
            given = None if space.given is None else self.labels[space.given]
            found.append(Task(self.labels[space.label], given, (inside & is_set) * 1, (inside & ~is_set) * 1))
        return tuple(found)

    def _kinds_KT(self) -> np.ndarray:
        """Which labels are set in each class but the last."""
        numbers = np.arange(self.classes - 1)[:, None]
        places = np.arange(len(self.labels))
        return numbers > places if self.funnel else (numbers >> places & 1).astype(bool)


@dataclass
class LabelCounts:
    """Rows of one label. `bad`: neither 0 nor 1."""

    positives: int = 0
    nulls: int = 0
    bad: int = 0
    broken: int = 0  # set where the label before it is not

    def merge(self, other: "LabelCounts") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def classify(table: pa.Table, outcomes: Outcomes, counts: Sequence[LabelCounts]) -> np.ndarray:
    """The class of each row, int64; adds to the labels' `counts`."""
    labels_NT = np.zeros((table.num_rows, len(outcomes.labels)), bool)
    known = np.ones(table.num_rows, bool)
    for t, (name, count) in enumerate(zip(outcomes.labels, counts, strict=True)):
        numbers = numbers_of(table.column(name))
        nulls, good = np.isnan(numbers), (numbers == 0) | (numbers == 1)
        labels_NT[:, t] = numbers == 1
        known &= good
        count.nulls += int(nulls.sum())
        count.bad += int((~good & ~nulls).sum())
        count.positives += int(labels_NT[:, t].sum())
    if outcomes.funnel:
        breaks_NT = broken(labels_NT) & known[:, None]
        for t, count in enumerate(counts[1:]):
            count.broken += int(breaks_NT[:, t].sum())
        known &= ~breaks_NT.any(axis=1)
        classes = labels_NT.sum(axis=1)
    else:
        classes = labels_NT @ (1 << np.arange(len(outcomes.labels)))
    return np.where(known, classes, outcomes.classes - 1)


def check_labels(labels: Sequence[str], funnel: bool, schema: pa.Schema, source: str) -> Outcomes:
    """The outcomes of these labels. Raises DataError for a column that is not there or holds no numbers."""
    for name in labels:
        if name not in schema.names:
            hint = nearest(name, schema.names) or f"it has {', '.join(schema.names)}"
            raise DataError(f"{source}: there is no column `{name}` (a label); {hint}")
        if not is_number(schema.field(name).type):
            raise DataError(
                f"{source}: label `{name}` is {schema.field(name).type}; labels are 0/1 numbers or booleans"
            )
    if not funnel and len(labels) > MOST_LABELS:
        raise DataError(f"{source}: {len(labels)} labels that are no funnel; name at most {MOST_LABELS} with --labels")
    return Outcomes(tuple(labels), funnel)
