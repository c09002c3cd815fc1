"""Calibration from the bins of one task: the reliability curve and the expected calibration error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_mtl.metrics.histogram import centres

GROUPS = 20  # of equal weight: at a base rate of 0.05 % groups of equal width would leave all rows in the first


@dataclass(frozen=True)
class ReliabilityPoint:
    """Rows of neighbouring scores: their weight, the mean predicted probability, the share of positives."""

    weight: float
    predicted: float
    observed: float


def reliability(bins_2K: Tensor, groups: int = GROUPS) -> list[ReliabilityPoint]:
    """The curve over at most `groups` groups of (nearly) equal weight; a bin is never split. Empty without rows.

    Predictions are those at the bins' centres: within 1e-4 of the rows' own, relatively.
    """
    weight_K = bins_2K.sum(dim=0)
    total = float(weight_K.sum())
    if not total:
        return []
    group_K = ((weight_K.cumsum(0) - weight_K / 2) / total * groups).long().clamp(max=groups - 1)
    predicted_K = weight_K * torch.sigmoid(centres())
    sums = [torch.bincount(group_K, values, groups).tolist() for values in (weight_K, predicted_K, bins_2K[1])]
    return [ReliabilityPoint(w, p / w, y / w) for w, p, y in zip(*sums, strict=True) if w]


def expected_calibration_error(curve: list[ReliabilityPoint]) -> float:
    """Mean over rows of |observed - predicted| of their group; NaN without rows."""
    total = sum(point.weight for point in curve)
    gaps = sum(point.weight * abs(point.observed - point.predicted) for point in curve)
    return gaps / total if total else math.nan
