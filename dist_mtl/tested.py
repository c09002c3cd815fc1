"""What a stream's evaluations found: each partition by the model that was trained on those before it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
