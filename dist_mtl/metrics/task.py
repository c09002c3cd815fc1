"""The metrics of one task, all from one histogram."""

import math
from dataclasses import dataclass

from torch import Tensor

from dist_mtl.metrics.auc import Auc, auc
from dist_mtl.metrics.calibration import ReliabilityPoint, expected_calibration_error, reliability
from dist_mtl.metrics.histogram import LogitHistogram


@dataclass(frozen=True)
class TaskMetrics:
    """The metrics of one task on its own space. NaN where they are not defined (no row, or one class only)."""

    rows: float  # total weight
    positives: float
    auc: Auc
    logloss: float
    normalised_entropy: float  # logloss over the entropy of the base rate (He et al., ADKDD 2014)
    pcoc: float  # predicted over observed positives
    calibration_error: float  # expected, over groups of equal weight
    reliability: tuple[ReliabilityPoint, ...]


def compute(histogram: LogitHistogram) -> list[TaskMetrics]:
    """The metrics of every task, from the sums as they are (merge over ranks first)."""
    counts_M2K, sums_MS = histogram.counts(), histogram.sums().tolist()
    return [_compute(bins_2K, *sums) for bins_2K, sums in zip(counts_M2K, sums_MS, strict=True)]


def _compute(bins_2K: Tensor, predicted: float, logloss: float) -> TaskMetrics:
    negatives, positives = (float(x) for x in bins_2K.sum(dim=1))
    weight = negatives + positives
    curve = reliability(bins_2K)
    entropy = math.nan
    if negatives and positives:
        entropy = -(positives * math.log(positives / weight) + negatives * math.log(negatives / weight)) / weight
    mean = logloss / weight if weight else math.nan
    return TaskMetrics(
        rows=weight,
        positives=positives,
        auc=auc(bins_2K),
        logloss=mean,
        normalised_entropy=mean / entropy,
        pcoc=predicted / positives if positives else math.nan,
        calibration_error=expected_calibration_error(curve),
        reliability=tuple(curve),
    )
