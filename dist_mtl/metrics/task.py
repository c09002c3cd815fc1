"""The metrics of one task, all from one histogram."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.metrics.auc import NORMAL_95, Auc, auc, effective_rows, variance_of_mean
from dist_mtl.metrics.calibration import ReliabilityPoint, expected_calibration_error, reliability
from dist_mtl.metrics.histogram import LogitHistogram, Occupied

UNKNOWN = (math.nan, math.nan)


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
    logloss_interval: tuple[float, float] = UNKNOWN  # 95 %, normal
    pcoc_interval: tuple[float, float] = UNKNOWN  # 95 %, normal on the logarithm, by the delta method


def compute(histogram: LogitHistogram) -> list[TaskMetrics]:
    """The metrics of every task, from the sums as they are (merge over ranks first)."""
    return [_compute(histogram.occupied(task)) for task in range(len(histogram.bins_M2K))]


def _compute(rows: Occupied) -> TaskMetrics:
    negatives, positives = (float(x) for x in rows.bins_2k.sum(dim=1))
    weight = negatives + positives
    curve = reliability(rows)
    predicted, loss = _sums(rows)
    entropy = math.nan
    if negatives and positives:
        entropy = -(positives * math.log(positives / weight) + negatives * math.log(negatives / weight)) / weight
    logloss = loss / weight if weight else math.nan
    pcoc = predicted / positives if positives else math.nan
    return TaskMetrics(
        rows=weight,
        positives=positives,
        auc=auc(rows.bins_2k, rows.squares_2k),
        logloss=logloss,
        normalised_entropy=logloss / entropy,
        pcoc=pcoc,
        calibration_error=expected_calibration_error(curve),
        reliability=tuple(curve),
        logloss_interval=_logloss_interval(rows, logloss, weight),
        pcoc_interval=_pcoc_interval(rows, pcoc, positives),
    )


def _losses(middles_k: Tensor) -> Tensor:
    """(2, k): the logloss of a negative and of a positive."""
    return torch.stack([functional.softplus(sign * middles_k, threshold=700) for sign in (1, -1)])  # e709 is the last


def _sums(rows: Occupied) -> tuple[float, float]:
    """Sums over rows of p and of the logloss, to first order in the rows' distance from the middle of their bin.

    A bin reaches |logit| / 2**(bits + 1) to each side; the second order is half the square of that, relatively: for
    FINE 1e-8 at a logit of -8 and 2e-6 at -128 (where p is 1e-56), for COARSE 8e-6 at -8. The logloss of a logit
    that is far off grows along a straight line, and is exact.
    """
    p_k, q_k = torch.sigmoid(rows.middles_k), torch.sigmoid(-rows.middles_k)
    predicted = (rows.bins_2k * p_k + rows.deviations_2k * (p_k * q_k)).sum()
    loss = (rows.bins_2k * _losses(rows.middles_k) + rows.deviations_2k * torch.stack([p_k, -q_k])).sum()
    return float(predicted), float(loss)


def _logloss_interval(rows: Occupied, mean: float, weight: float) -> tuple[float, float]:
    number = effective_rows(weight, float(rows.squares_2k.sum()))
    if not number > 1:
        return UNKNOWN
    squares = float((rows.squares_2k * (_losses(rows.middles_k) - mean) ** 2).sum())
    reach = NORMAL_95 * math.sqrt(variance_of_mean(squares, weight, number))
    return mean - reach, mean + reach


def _pcoc_interval(rows: Occupied, pcoc: float, positives: float) -> tuple[float, float]:
    """Of a ratio of sums over the same rows; on the logarithm, which keeps it above 0 when positives are few."""
    if not pcoc > 0:
        return UNKNOWN
    p_k = torch.sigmoid(rows.middles_k)
    squares = float((rows.squares_2k * torch.stack([p_k, p_k - pcoc]) ** 2).sum())
    reach = NORMAL_95 * math.sqrt(squares) / positives / pcoc
    return pcoc * math.exp(-reach), pcoc * math.exp(reach)
