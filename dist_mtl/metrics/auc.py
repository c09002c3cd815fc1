"""AUC with its error bound and its DeLong confidence interval, from the bins of one task."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

NORMAL_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Auc:
    """`value` is within `error` of the AUC of the unrounded logits; [low, high] is its confidence interval."""

    value: float
    error: float
    standard_error: float
    low: float
    high: float


UNDEFINED = Auc(math.nan, math.nan, math.nan, math.nan, math.nan)


def auc(bins_2K: Tensor, confidence: float = 0.95) -> Auc:
    """AUC of negatives and positives in ordered bins; a tie counts one half. Undefined (NaN) with one class only.

    The error is a bound: bins keep the order of the logits, so that only pairs within a bin can be misjudged, each by
    one half at most. The variance is DeLong's (Biometrics 44, 1988) in Sun and Xu's form: a row's placement is the
    share of the other class below it, the same for all rows of a bin, so that sums over rows become sums over bins. A
    weight counts as so many rows. The interval is taken on the logit of the AUC, which keeps it inside (0, 1) when
    positives are few. With one row of a class there is no variance to estimate, and no interval (NaN).
    """
    negatives_K, positives_K = bins_2K
    num_negatives, num_positives = float(negatives_K.sum()), float(positives_K.sum())
    if not num_negatives or not num_positives:
        return UNDEFINED
    below_K = (negatives_K.cumsum(0) - negatives_K / 2) / num_negatives  # placement of a positive in bin k
    above_K = 1 - (positives_K.cumsum(0) - positives_K / 2) / num_positives  # placement of a negative in bin k
    value = min(float((positives_K * below_K).sum()) / num_positives, 1.0)
    ties = float((positives_K * negatives_K).sum()) / 2 / (num_positives * num_negatives)
    variance = (
        _variance(positives_K, below_K, value) / num_positives + _variance(negatives_K, above_K, value) / num_negatives
    )
    error = math.sqrt(variance)
    low, high = interval(value, error, min(num_positives, num_negatives), confidence)
    return Auc(value, ties, error, low, high)


def interval(value: float, standard_error: float, fewer: float, confidence: float) -> tuple[float, float]:
    """A normal interval on the logit scale, mapped back; `fewer`: rows of the rarer class.

    An AUC of 0 or 1 has no variance and yet is not certain: `fewer` pairs without a row in common were all won, or all
    lost, and the interval is Clopper and Pearson's for that.
    """
    if value in (0, 1):
        furthest = ((1 - confidence) / 2) ** (1 / fewer)
        return (furthest, 1.0) if value else (0.0, 1 - furthest)
    centre = math.log(value / (1 - value))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * standard_error / (value * (1 - value))
    return tuple(1 / (1 + math.exp(-(centre + side * reach))) for side in (-1, 1))


def _variance(weight_K: Tensor, placement_K: Tensor, mean: float) -> float:
    total = float(weight_K.sum())
    return float((weight_K * (placement_K - mean) ** 2).sum()) / (total - 1) if total > 1 else math.nan
