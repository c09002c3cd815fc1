"""What a checkpoint holds besides tensors: progress, the best evaluation so far, those of a stream's partitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dist_mtl.config.training import SelectConfig
from dist_mtl.data.files.quarantine import Lost


@dataclass(frozen=True)
class Selection:
    """The best evaluation so far, and how many have come since without a gain. It is part of every commit.

    `validation` (the digest of the rows) and `metrics`: what the scores are of. Scores of anything else do not compare.
    """

    best_step: int | None = None
    best_score: float | None = None
    stale: int = 0
    validation: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, spec: SelectConfig | None, validation: str | None) -> "Selection":
        """Before the first evaluation."""
        return cls() if spec is None else cls(validation=validation, metrics=dict(spec.metrics))

    def compares_with(self, other: "Selection") -> bool:
        """Whether the scores of both are of the same metrics on the same rows."""
        return (self.validation, self.metrics) == (other.validation, other.metrics)

    def after(self, step: int, score: float, spec: SelectConfig) -> "Selection":
        """The selection once the evaluation at `step` has this score; more is better."""
        if self.best_score is None or score > self.best_score + spec.min_gain:
            return replace(self, best_step=step, best_score=score, stale=0)
        return replace(self, stale=self.stale + 1)

    def stops(self, spec: SelectConfig | None) -> bool:
        """Whether the run has gone on for long enough without a gain."""
        return spec is not None and spec.patience is not None and self.stale >= spec.patience


KNOWN = ("rows", "positives", "auc", "logloss", "normalised_entropy", "pcoc")


Found = dict[str, dict[str, float | None]]  # task -> KNOWN; None: not defined


@dataclass(frozen=True)
class Tested:
    """One evaluation: of which partition, by the weights of which step. It is part of every later commit."""

    partition: str
    step: int
    rows: int
    tasks: Found


def over_all(tested: Sequence[Tested]) -> dict[str, Any]:
    """All evaluations of a stream in one: logloss, NE and PCOC over all rows, of the AUC the mean and the lowest.

    NE is against each partition's own base rate. Partitions in which a metric is not defined are left out of it.
    """
    tasks = list(dict.fromkeys(task for one in tested for task in one.tasks))
    found = {task: _task([(one.partition, one.tasks[task]) for one in tested if task in one.tasks]) for task in tasks}
    return {"partitions": len(tested), "rows": sum(one.rows for one in tested), "tasks": found}


def _task(found: Sequence[tuple[str, dict[str, float | None]]]) -> dict[str, Any]:
    aucs = [(metrics["auc"], name) for name, metrics in found if metrics["auc"] is not None]
    losses = [(m["rows"], m["logloss"]) for _, m in found if m["logloss"] is not None]
    entropies = [
        (m["rows"], m["logloss"], m["logloss"] / ne) for _, m in found if (ne := m["normalised_entropy"]) is not None
    ]
    biases = [(m["positives"], m["pcoc"]) for _, m in found if m["pcoc"] is not None]
    lowest, where = min(aucs, default=(None, None))
    return {
        "auc": _over(sum(auc for auc, _ in aucs), len(aucs)),
        "lowest_auc": lowest,
        "lowest_partition": where,
        "logloss": _over(sum(rows * loss for rows, loss in losses), sum(rows for rows, _ in losses)),
        "normalised_entropy": _over(
            sum(rows * loss for rows, loss, _ in entropies), sum(rows * entropy for rows, _, entropy in entropies)
        ),
        "pcoc": _over(sum(n * bias for n, bias in biases), sum(n for n, _ in biases)),
    }


def _over(total: float, of: float) -> float | None:
    return total / of if of else None


def defined(value: float) -> float | None:
    """A metric as a commit can hold it."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Progress:
    """How far a run has come: the last trained step, what the data policies did, the best commit, what was skipped."""

    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    selection: Selection = Selection()
    lost: tuple[Lost, ...] = ()  # damaged row groups, which the run does without
    tested: tuple[Tested, ...] = ()  # of a stream: each partition before it was trained
    judged: bool = True  # whether an evaluation that is due at this step was made
