"""The funnel of labels, said once for numpy and torch: each task's space and label, and the rule for rows."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Space:
    """A task predicts label `label` on the rows whose label `given` is set; None: on all impressions."""

    label: int
    given: int | None


def spaces(num_labels: int, is_funnel: bool = True) -> tuple[Space, ...]:
    """One for each of `Config.tasks`, in their order: P(first label), then P(b|a) and P(b) for each later label b.

    Labels that are no funnel: P(label), each on all impressions.
    """
    if not is_funnel:
        return tuple(Space(label, None) for label in range(num_labels))
    return (Space(0, None), *(Space(b, given) for b in range(1, num_labels) for given in (b - 1, None)))


def broken(labels_NT: np.ndarray) -> np.ndarray:
    """(N, T - 1) bool: label t + 1 is set where label t is not. Each label implies the one before it."""
    return labels_NT[:, 1:] > labels_NT[:, :-1]
