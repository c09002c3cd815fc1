"""AUC with its error bound and its DeLong confidence interval, from the bins of one task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from scipy.special import expit, stdtrit
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


def auc(bins_2K: Tensor, squares_2K: Tensor | None = None, confidence: float = 0.95) -> Auc:
    """AUC of negatives and positives in ordered bins; a tie counts one half. Undefined (NaN) with one class only.

    `bins_2K`: weight of the rows; `squares_2K`: sum of their squared weights, which is the same (none) where a row
    weighs 0 or 1.

    The error is a bound: bins keep the order of the logits, so that only pairs within a bin can be misjudged, each by
    one half at most. The variance is DeLong's (Biometrics 44, 1988) in Sun and Xu's form: a row's placement is the
    share of the other class below it, the same for all rows of a bin, so that sums over rows become sums over bins. A
    row of weight w says w times as much, but is one draw: placements vary by the sum of w^2 (.)^2, and a class counts
    as (sum w)^2 / (sum w^2) rows (Kish). With one row of a class there is no variance to estimate, and no interval
    (NaN).
    """
    negatives_K, positives_K = bins_2K
    num_negatives, num_positives = float(negatives_K.sum()), float(positives_K.sum())
    if not num_negatives or not num_positives:
        return UNDEFINED
    below_K = (negatives_K.cumsum(0) - negatives_K / 2) / num_negatives  # placement of a positive in bin k
    above_K = 1 - (positives_K.cumsum(0) - positives_K / 2) / num_positives  # placement of a negative in bin k
    value = min(float((positives_K * below_K).sum()) / num_positives, 1.0)
    ties = float((positives_K * negatives_K).sum()) / 2 / (num_positives * num_negatives)
    squares = bins_2K if squares_2K is None else squares_2K
    rows = [effective_rows(float(weights.sum()), float(of.sum())) for weights, of in zip(bins_2K, squares, strict=True)]
    if min(rows) <= 1:
        return Auc(value, ties, math.nan, math.nan, math.nan)
    sides = zip(squares, (above_K, below_K), (num_negatives, num_positives), rows, strict=True)
    shares = [
        variance_of_mean(float((squares_K * (placement_K - value) ** 2).sum()), total, number)
        for squares_K, placement_K, total, number in sides
    ]
    low, high = interval(value, shares, rows, confidence)
    return Auc(value, ties, math.sqrt(sum(shares)), low, high)


def effective_rows(weight: float, squares: float) -> float:
    """How many rows of one weight tell as much as these: (sum w)^2 / (sum w^2), 0 without any."""
    return weight if weight == squares else weight**2 / squares


def variance_of_mean(squares: float, weight: float, rows: float) -> float:
    """Of a weighted mean, from the sum of w^2 (value - mean)^2 and the effective rows, which are more than 1."""
    return squares / (rows - 1) / weight * (rows / weight)


def interval(
    value: float, shares: Sequence[float], rows: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """On the logit of the AUC, which keeps it inside (0, 1); by Student's t, for the variance is an estimate, too.

    `shares`: what the negatives' and the positives' placements add to the variance; `rows`: how many of them there are.
    The degrees of freedom are Welch and Satterthwaite's. On 20 positives, AUC 0.76, the normal 95 % interval holds the
    truth in 92.6 % of cases, this one in 94.2 %. An AUC of 0 or 1 has no variance and yet is not certain: as many pairs
    as the rarer class has rows, no row in two of them, were all won or all lost; the interval is Clopper and Pearson's.
    """
    if value in (0, 1):
        furthest = ((1 - confidence) / 2) ** (1 / min(rows))
        return (furthest, 1.0) if value else (0.0, 1 - furthest)
    variance = sum(shares)
    if not variance:
        return value, value
    freedom = variance**2 / sum(share**2 / (number - 1) for share, number in zip(shares, rows, strict=True))
    centre = math.log(value / (1 - value))
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(variance) / (value * (1 - value))
    return expit(centre - reach).item(), expit(centre + reach).item()
