"""Metrics of groups of rows (a user's, a search's): AUC, NDCG@k and reciprocal rank, each group a sample of one.

A group's values are the same bits in any order of its rows, and the sums over groups are exact integers: added over
chunks and ranks in any order they give the same bits. A group must be whole, see dist_mtl.metrics.exchange.

Letters of shapes: N rows, T ties (the rows of one group with one score), P ties that hold a positive, G groups, K cuts.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from dist_mtl.errors import DataError
from dist_mtl.metrics.histogram import WEIGHT_UNIT

TERM_BITS = 60  # the terms of one group's value, which sum to at most 1, are rounded to 2**-60
VALUE_BITS = 48  # a group's value is rounded to 2**-48 (4e-15), so that a perfect one is 1 and not 1 - 2**-53
SUM_BITS = 2 * VALUE_BITS  # values, their squares and their products with whole numbers are multiples of 2**-96
LIMBS = 9  # of 32 bits: a squared sum of weights, below 2**124, in units of 2**-96 takes 220 bits
MOMENTS = 6
SLICE = 1 << 26  # so many 27-bit numbers add up exactly in float64


@dataclass(frozen=True)
class GroupValues:
    """The values of G groups, in ascending order of their keys. NaN where a value is not defined.

    `auc_G` needs both classes, `ndcg_KG` and `mrr_G` a positive. `weights_G` is in units of WEIGHT_UNIT.
    """

    keys_G: np.ndarray
    rows_G: np.ndarray
    weights_G: np.ndarray
    auc_G: np.ndarray
    ndcg_KG: np.ndarray
    mrr_G: np.ndarray


@dataclass(frozen=True)
class GroupMetrics:
    """Means over groups, each with its standard error over groups. NaN where they are not defined.

    `gauc` weighs a group's AUC by the group's weight (Zhu et al., KDD 2018); `gauc_unweighted` does not.
    """

    groups: int  # that hold both classes
    groups_with_positive: int
    groups_total: int
    rows: int  # of a weight above 0
    gauc: float
    gauc_error: float
    gauc_unweighted: float
    gauc_unweighted_error: float
    ndcg: dict[str, float]  # by the cut k, as text
    ndcg_error: dict[str, float]
    mrr: float
    mrr_error: float


def group_values(
    keys_N: np.ndarray, logits_N: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray, ks: tuple[int, ...]
) -> GroupValues:
    """The values of the groups that `keys_N` (int64) tells apart, from all their rows, for one task.

    Logits are float32 and finite, labels bool, weights int64 >= 0 in units of WEIGHT_UNIT (see `row_weights`). A row of
    weight 0 is left out. In the AUC a row counts as many times as its weight; in NDCG and reciprocal rank once.
    Rows with one score are in random order: the values are expectations over it, a tie counts one half in the AUC.
    NDCG has gain 1 for a positive, discount 1 / log2(1 + rank) (Jarvelin and Kekalainen 2002), and is 0 beyond rank k.
    """
    keys_G, group_N = np.unique(keys_N, return_inverse=True)
    return values_of_numbered(keys_G, group_N, logits_N, labels_N, weights_N, ks)


def values_of_numbered(
    keys_G: np.ndarray,
    group_N: np.ndarray,
    logits_N: np.ndarray,
    labels_N: np.ndarray,
    weights_N: np.ndarray,
    ks: tuple[int, ...],
) -> GroupValues:
    """`group_values` of rows whose groups are numbered: tasks that share their keys then sort them once.

    `group_N` indexes `keys_G` (ascending, fewer than 2**31); a group without a row of weight above 0 is left out.
    """
    ties = _ties(group_N, logits_N, labels_N, weights_N)
    rows_G, weights_G, positives_G, positive_weights_G = (
        np.add.reduceat(x_T, ties.first_G)
        for x_T in (ties.rows_T, ties.weights_T, ties.positives_T, ties.positive_weights_T)
    )
    keys_G = keys_G[ties.group_T[ties.first_G]]
    group_T = np.repeat(np.arange(len(keys_G)), np.diff(np.append(ties.first_G, len(ties.group_T))))
    place_P = np.flatnonzero(ties.positives_T)  # a negative is in no term of any value: at a low base rate most are
    group_P = group_T[place_P]
    above_P = (np.cumsum(rows_G)[group_T] - np.cumsum(ties.rows_T))[place_P]
    rows_P, positives_P = ties.rows_T[place_P], ties.positives_T[place_P]

    negative_weights_T = ties.weights_T - ties.positive_weights_T
    negative_weights_G = weights_G - positive_weights_G
    below_T = np.cumsum(negative_weights_T) - (np.cumsum(negative_weights_G) - negative_weights_G)[group_T]
    share_P = ties.positive_weights_T[place_P] / positive_weights_G[group_P]
    won_P = below_T[place_P] - negative_weights_T[place_P] / 2
    both_P = negative_weights_G[group_P] > 0
    auc_G = np.full(len(keys_G), np.nan)
    _put(auc_G, group_P[both_P], share_P[both_P] * (won_P[both_P] / negative_weights_G[group_P[both_P]]))

    ndcg_KG = np.full((len(ks), len(keys_G)), np.nan)
    for ndcg_G, k in zip(ndcg_KG, ks, strict=True):
        ndcg_G[positives_G > 0] = 0
        cut_P = above_P < k
        terms = _ndcg_terms(above_P[cut_P], rows_P[cut_P], positives_P[cut_P], positives_G[group_P[cut_P]], k)
        _put(ndcg_G, group_P[cut_P], terms)

    mrr_G = np.full(len(keys_G), np.nan)
    best_P = np.append(group_P[1:] != group_P[:-1], True)[: len(group_P)]  # a group's last tie has its highest score
    mrr_G[group_P[best_P]] = _reciprocal_ranks(above_P[best_P], rows_P[best_P], positives_P[best_P])
    return GroupValues(keys_G, rows_G, weights_G, auc_G, ndcg_KG, mrr_G)


@dataclass(frozen=True)
class _Ties:
    """Groups in ascending order, in each its scores in ascending order; group g begins at tie `first_G[g]`."""

    group_T: np.ndarray
    rows_T: np.ndarray
    positives_T: np.ndarray
    weights_T: np.ndarray
    positive_weights_T: np.ndarray
    first_G: np.ndarray


def _ties(group_N: np.ndarray, logits_N: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray) -> _Ties:
    """One sort by (group, logit) in a single int64: numpy's lexsort takes eight times as long."""
    if not (weights_N > 0).all():
        kept_N = weights_N > 0
        group_N, logits_N, labels_N, weights_N = (x_N[kept_N] for x_N in (group_N, logits_N, labels_N, weights_N))
    bits_N = (logits_N.astype(np.float32) + np.float32(0)).view(np.int32)  # -0.0 + 0.0 is 0.0
    bits_N = bits_N ^ ((bits_N >> 31) & np.int32(0x7FFFFFFF))  # ascending as the floats are
    place_N = (group_N.astype(np.int64) << 32) + bits_N
    order_N = np.argsort(place_N)  # in any order within a tie
    place_N, weights_N = place_N[order_N], weights_N[order_N].astype(np.int64)
    positive_N = labels_N[order_N].astype(np.int64)
    first_T = np.flatnonzero(np.append(True, place_N[1:] != place_N[:-1])[: len(place_N)])
    group_T = (place_N[first_T] + (1 << 31)) >> 32
    return _Ties(
        group_T,
        np.diff(np.append(first_T, len(place_N))),
        np.add.reduceat(positive_N, first_T),
        np.add.reduceat(weights_N, first_T),
        np.add.reduceat(weights_N * positive_N, first_T),
        np.flatnonzero(np.append(True, group_T[1:] != group_T[:-1])[: len(group_T)]),
    )


def _ndcg_terms(
    above_P: np.ndarray, rows_P: np.ndarray, positives_P: np.ndarray, positives_of_group_P: np.ndarray, k: int
) -> np.ndarray:
    """Each row of a tie gets the mean discount of the tie's ranks, as McSherry and Najork (ECIR 2008) have it."""
    discounts = _discounts(k)
    of_tie_P = discounts[np.minimum(above_P + rows_P, k)] - discounts[above_P]
    return of_tie_P * (positives_P / rows_P) / discounts[np.minimum(positives_of_group_P, k)]


@cache
def _discounts(k: int) -> np.ndarray:
    """Discounts of the first 0, 1, ..., k ranks together; the whole table always, that no chunk has bits of its own."""
    return np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))


def _reciprocal_ranks(above_G: np.ndarray, rows_G: np.ndarray, positives_G: np.ndarray) -> np.ndarray:
    """Expectation of 1 / (rank of the first positive), whose tie holds `rows_G` rows and has `above_G` rows above it.

    The first positive is the (j+1)-th of the tie with probability S(j) p / (c - j), where S(j), that the first j of c
    rows are negatives, is the product of (c - p - i) / (c - i) over i < j.
    """
    terms_G = rows_G - positives_G + 1
    first_G = np.cumsum(terms_G) - terms_G
    j = np.arange(terms_G.sum()) - np.repeat(first_G, terms_G)
    left = np.repeat(rows_G, terms_G) - j  # c - j
    positives = np.repeat(positives_G, terms_G)
    before = np.where(j, (left + 1 - positives) / (left + 1), 1.0)
    terms = _running_products(before, j) * positives / left / (np.repeat(above_G, terms_G) + j + 1)
    return _rounded(np.add.reduceat(_fixed(terms), first_G))


def _running_products(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Products of all values of a segment up to each; `place` counts within a segment. log2(longest) passes."""
    values, step = values.copy(), 1
    reached = np.flatnonzero(place >= step)
    while len(reached):
        values[reached] = values[reached] * values[reached - step]
        step *= 2
        reached = reached[place[reached] >= step]
    return values


def _fixed(terms: np.ndarray) -> np.ndarray:
    return np.rint(terms * 2.0**TERM_BITS).astype(np.int64)


def _rounded(sums: np.ndarray) -> np.ndarray:
    shift = TERM_BITS - VALUE_BITS
    return ((sums + (1 << (shift - 1))) >> shift) * 2.0**-VALUE_BITS


def _put(values_G: np.ndarray, group_P: np.ndarray, terms_P: np.ndarray) -> None:
    """Sum the terms of each group (ascending) into its place, in fixed point."""
    first = np.flatnonzero(np.append(True, group_P[1:] != group_P[:-1])[: len(group_P)])
    values_G[group_P[first]] = _rounded(np.add.reduceat(_fixed(terms_P), first))


@dataclass(frozen=True)
class GroupSums:
    """Exact sums over groups, to be added: rows, groups, and the moments of gauc, gauc_unweighted, mrr, ndcg at each k.

    Python's integers, of any length. A product of a weight and a value is rounded once, in its own group.
    """

    numbers: tuple[int, ...]

    @staticmethod
    def zero(cuts: int) -> "GroupSums":
        return GroupSums((0,) * (2 + MOMENTS * (3 + cuts)))

    def __add__(self, other: "GroupSums") -> "GroupSums":
        return GroupSums(tuple(a + b for a, b in zip(self.numbers, other.numbers, strict=True)))

    def limbs(self) -> np.ndarray:
        """int64 digits of 32 bits, which add up over 2**31 ranks."""
        data = b"".join(number.to_bytes(4 * LIMBS, "little") for number in self.numbers)
        return np.frombuffer(data, "<u4").astype(np.int64)

    @staticmethod
    def from_limbs(limbs: np.ndarray) -> "GroupSums":
        """The inverse of `limbs`, also of a sum of them."""
        rows = limbs.reshape(-1, LIMBS).tolist()
        return GroupSums(tuple(sum(digit << (32 * place) for place, digit in enumerate(row)) for row in rows))


def group_sums(values: GroupValues) -> GroupSums:
    """The sums of these groups."""
    numbers = [int(values.rows_G.sum()), len(values.keys_G)]
    numbers += _moments(values.auc_G, values.weights_G.astype(np.float64))
    for values_G in (values.auc_G, values.mrr_G, *values.ndcg_KG):
        numbers += _moments(values_G, np.ones(len(values_G)))
    return GroupSums(tuple(numbers))


def _moments(values_G: np.ndarray, weights_G: np.ndarray) -> list[int]:
    """Groups whose value is defined; sums of w, wv, w^2, w^2 v, w^2 v^2 over them, in units of 2**-SUM_BITS."""
    defined_G = ~np.isnan(values_G)
    v, w = values_G[defined_G], weights_G[defined_G]
    return [len(v), *(_exact_sum(x) for x in (w, w * v, w * w, w * w * v, (w * v) * (w * v)))]


def _exact_sum(values: np.ndarray) -> int:
    """The sum of non-negative float64 in units of 2**-SUM_BITS, without rounding: mantissas, added up by exponent."""
    total = 0
    for start in range(0, len(values), SLICE):
        mantissas, exponents = np.frexp(values[start : start + SLICE])
        whole = (mantissas * 2.0**53).astype(np.int64)
        lowest = int(exponents.min())
        high, low = (np.bincount(exponents - lowest, part) for part in (whole >> 27, whole & ((1 << 27) - 1)))
        for place, (upper, lower) in enumerate(zip(high.tolist(), low.tolist(), strict=True)):
            total += (((int(upper) << 27) + int(lower)) << (lowest + place + 2 * SUM_BITS)) >> (SUM_BITS + 53)
    return total


def group_metrics(sums: GroupSums, ks: tuple[int, ...]) -> GroupMetrics:
    """The metrics of the groups that were summed, all ranks' together."""
    rows, total, *numbers = sums.numbers
    moments = [numbers[start : start + MOMENTS] for start in range(0, len(numbers), MOMENTS)]
    (gauc, gauc_error), (plain, plain_error), (mrr, mrr_error), *ndcg = (_mean_and_error(*m) for m in moments)
    return GroupMetrics(
        groups=moments[0][0],
        groups_with_positive=moments[2][0],
        groups_total=total,
        rows=rows,
        gauc=gauc,
        gauc_error=gauc_error,
        gauc_unweighted=plain,
        gauc_unweighted_error=plain_error,
        ndcg={str(k): mean for k, (mean, _) in zip(ks, ndcg, strict=True)},
        ndcg_error={str(k): error for k, (_, error) in zip(ks, ndcg, strict=True)},
        mrr=mrr,
        mrr_error=mrr_error,
    )


def _mean_and_error(count: int, w: int, wv: int, ww: int, wwv: int, wwvv: int) -> tuple[float, float]:
    """The weighted mean and its standard error, that of a ratio of two sums over groups (Cochran 1977, 6.3).

    With equal weights it is the usual one, s / sqrt(n). No error from one group. In exact fractions: the differences of
    large sums cost no digits.
    """
    if not count:
        return math.nan, math.nan
    mean = Fraction(wv, w)
    if count == 1:
        return float(mean), math.nan
    spread = max(Fraction(0), wwvv - 2 * mean * wwv + mean * mean * ww)  # below 0 by the products' rounding only
    variance = spread / w / w * (1 << SUM_BITS) * Fraction(count, count - 1)
    return float(mean), math.sqrt(variance)


def row_weights(weights: np.ndarray) -> np.ndarray:
    """Weights of rows -> whole units of WEIGHT_UNIT, as the histogram rounds them. Raises DataError: they overflow."""
    units = np.rint(weights.astype(np.float64) / WEIGHT_UNIT)
    if units.sum() >= 2.0**62:
        raise DataError(f"{len(weights):,} rows weigh {weights.sum()} together, more than 2**42; scale them down")
    return units.astype(np.int64)
