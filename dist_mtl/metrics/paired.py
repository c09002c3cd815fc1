"""Is B better than A? Two models on the same rows: differences with their intervals and p-values.

Most of the noise of a metric is the rows', which both models share; it cancels in the difference of the same rows. Rows
of one user or search are not independent of each other: give `clusters_N`, and the variance is that between clusters.
"""

import math
from dataclasses import dataclass

import numpy as np

from dist_mtl.metrics.auc import NORMAL_95


@dataclass(frozen=True)
class Paired:
    """A metric of two models and its difference b - a, with a 95 % interval and the p-value of "no difference".

    Both normal, two-sided. All NaN but a and b where there is nothing to estimate a variance from.
    """

    a: float
    b: float
    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float


def paired_delong(
    scores_a_N: np.ndarray, scores_b_N: np.ndarray, labels_N: np.ndarray, clusters_N: np.ndarray | None = None
) -> Paired:
    """AUC of two scores of the same rows; a tie counts one half. NaN with one class only.

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) in O(n log n); with clusters (any integers) Obuchowski
    (Biometrics 53, 1997), which is the same where every row is a cluster of its own. Two models that rank alike have a
    standard error of 0 and a p-value of 1.
    """
    positive_N = np.asarray(labels_N) > 0
    m, n = int(positive_N.sum()), int((~positive_N).sum())
    if not m or not n:
        return _undefined(math.nan, math.nan)
    wins_a, losses_a = _placements(np.asarray(scores_a_N), positive_N)
    wins_b, losses_b = _placements(np.asarray(scores_b_N), positive_N)
    a, b = float(wins_a.mean()), float(wins_b.mean())
    codes_N = np.arange(m + n) if clusters_N is None else codes(clusters_N)
    size = int(codes_N.max()) + 1
    centred_m, centred_n = wins_b - wins_a - (b - a), losses_b - losses_a - (b - a)
    sums_m = np.bincount(codes_N[positive_N], centred_m, size)
    sums_n = np.bincount(codes_N[~positive_N], centred_n, size)
    with_m = np.count_nonzero(np.bincount(codes_N[positive_N], minlength=size))
    with_n = np.count_nonzero(np.bincount(codes_N[~positive_N], minlength=size))
    if with_m < 2 or with_n < 2:
        return _undefined(a, b)
    variance = (
        with_m / (with_m - 1) * (sums_m @ sums_m) / m**2
        + with_n / (with_n - 1) * (sums_n @ sums_n) / n**2
        + 2 * size / (size - 1) * (sums_m @ sums_n) / (m * n)
    )
    return _paired(a, b, b - a, variance)


def paired_means(
    values_a_N: np.ndarray,
    values_b_N: np.ndarray,
    weights_N: np.ndarray | None = None,
    clusters_N: np.ndarray | None = None,
) -> Paired:
    """Weighted means of two values a row, or a group: logloss of rows, AUC or NDCG of users."""
    weights_N = np.ones(len(values_a_N)) if weights_N is None else np.asarray(weights_N, float)
    return paired_ratios(np.asarray(values_a_N) * weights_N, np.asarray(values_b_N) * weights_N, weights_N, clusters_N)


def paired_ratios(
    numerators_a_N: np.ndarray,
    numerators_b_N: np.ndarray,
    denominators_N: np.ndarray,
    clusters_N: np.ndarray | None = None,
) -> Paired:
    """Two ratios of sums with one denominator, as PCOC is (predictions over labels), by the delta method."""
    denominators_N = np.asarray(denominators_N, float)
    total = float(denominators_N.sum())
    if not total:
        return _undefined(math.nan, math.nan)
    a, b = float(np.sum(numerators_a_N)) / total, float(np.sum(numerators_b_N)) / total
    change_N = np.subtract(numerators_b_N, numerators_a_N, dtype=float)
    difference = float(change_N.sum()) / total  # not b - a: that would lose digits
    sums = change_N - difference * denominators_N
    if clusters_N is not None:
        sums = np.bincount(codes(clusters_N), sums)
    if len(sums) < 2:
        return _undefined(a, b)
    return _paired(a, b, difference, len(sums) / (len(sums) - 1) * float(sums @ sums) / total**2)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of several tests (Holm 1979): any below 5 % is a chance of 5 % to be wrong anywhere at all.

    A test that could not be made (NaN) does not count as one.
    """
    p_values = np.asarray(p_values, float)
    adjusted = p_values.copy()
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(p_values[order] * steps, 1.0))
    return adjusted


def codes(clusters_N: np.ndarray) -> np.ndarray:
    """Any integers -> 0, 1, 2, ... without gaps."""
    return np.unique(clusters_N, return_inverse=True)[1]


def _placements(scores_N: np.ndarray, positive_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    positives, negatives = scores_N[positive_N], scores_N[~positive_N]
    return _share_below(positives, np.sort(negatives)), 1 - _share_below(negatives, np.sort(positives))


def _share_below(scores: np.ndarray, others_sorted: np.ndarray) -> np.ndarray:
    below = np.searchsorted(others_sorted, scores, "left") + np.searchsorted(others_sorted, scores, "right")
    return below / (2 * len(others_sorted))


def _paired(a: float, b: float, difference: float, variance: float) -> Paired:
    """With no variance at all a difference is certain (p = 0), and so is none (p = 1)."""
    error = math.sqrt(max(variance, 0.0))
    if error:
        p_value = math.erfc(abs(difference) / error / math.sqrt(2))
    else:
        p_value = 1.0 if difference == 0 else 0.0
    reach = NORMAL_95 * error
    return Paired(a, b, difference, error, difference - reach, difference + reach, p_value)


def _undefined(a: float, b: float) -> Paired:
    return Paired(a, b, b - a, *[math.nan] * 4)
