"""Two models on the same rows under resampled clusters (users, searches): what no formula gives an interval for.

A replicate draws as many clusters as there are, with replacement; a cluster drawn twice counts twice. Nothing is sorted
or copied for it: every metric here is a function of one weight a cluster. A check of `paired`, too, which is faster.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dist_mtl.data.hashing import random_bits
from dist_mtl.metrics.paired import Paired, codes

NUMBERS_IN_MEMORY = 1 << 22  # weights of rows at once, 8 bytes each; one replicate at least


class WeightedMetric(Protocol):
    """A metric as a function of integer weights of G clusters; `size`: numbers that a replicate takes in memory."""

    size: int

    def __call__(self, weights_RG: np.ndarray) -> np.ndarray:
        """R replicates -> R values, NaN where the metric is not defined."""


@dataclass(frozen=True)
class ClusteredAuc:
    """AUC of rows in clusters, sorted once; O(rows) for each replicate. A tie counts one half.

    With weights of rows (none: all 1) a pair counts as the product of its two.
    """

    clusters_n: np.ndarray  # of the negatives, in order of their scores
    clusters_m: np.ndarray  # and of the positives
    first_m: np.ndarray  # negatives below each positive
    last_m: np.ndarray  # and those that are not above it
    weights_n: np.ndarray | None
    weights_m: np.ndarray | None
    size: int

    @classmethod
    def of(
        cls, scores_N: np.ndarray, labels_N: np.ndarray, clusters_N: np.ndarray, weights_N: np.ndarray | None = None
    ) -> "ClusteredAuc":
        positive_N, codes_N = np.asarray(labels_N) > 0, codes(clusters_N)
        order_N = np.argsort(scores_N, kind="stable")
        order_m, order_n = order_N[positive_N[order_N]], order_N[~positive_N[order_N]]
        first_m, last_m = (np.searchsorted(scores_N[order_n], scores_N[order_m], side) for side in ("left", "right"))
        weights_n, weights_m = (None if weights_N is None else weights_N[order] for order in (order_n, order_m))
        return cls(codes_N[order_n], codes_N[order_m], first_m, last_m, weights_n, weights_m, len(codes_N))

    def __call__(self, weights_RG: np.ndarray) -> np.ndarray:
        weights_Rn = _weights_of_rows(weights_RG, self.clusters_n, self.weights_n)
        weights_Rm = _weights_of_rows(weights_RG, self.clusters_m, self.weights_m)
        below_Rn = np.zeros((len(weights_RG), len(self.clusters_n) + 1), weights_Rn.dtype)
        np.cumsum(weights_Rn, axis=1, out=below_Rn[:, 1:])
        wins_R = (weights_Rm * (below_Rn.take(self.first_m, axis=1) + below_Rn.take(self.last_m, axis=1))).sum(axis=1)
        pairs_R = 2.0 * below_Rn[:, -1] * weights_Rm.sum(axis=1)
        return _divide(wins_R, pairs_R)


def bootstrap(
    metric_a: WeightedMetric, metric_b: WeightedMetric, num_clusters: int, replicates: int = 1000, seed: int = 0
) -> Paired:
    """The difference b - a over resampled clusters: percentile interval, and how often chance alone crosses zero.

    The same seed gives the same draws, whatever the metric and the memory. No p-value is below 2 / (replicates + 1).
    Replicates without one of the classes are left out; NaN where less than half of them remain.
    """
    once_1G = np.ones((1, num_clusters), np.int64)
    a, b = float(metric_a(once_1G)[0]), float(metric_b(once_1G)[0])
    chunk = max(1, NUMBERS_IN_MEMORY // max(metric_a.size, metric_b.size, num_clusters, 1))
    changes = [
        metric_b(weights_RG) - metric_a(weights_RG) for weights_RG in _weights(num_clusters, replicates, seed, chunk)
    ]
    change_R = np.concatenate(changes)
    change_R = change_R[~np.isnan(change_R)]
    if math.isnan(b - a) or len(change_R) < max(replicates / 2, 2):
        return Paired(a, b, b - a, *[math.nan] * 4)
    low, high = np.quantile(change_R, [0.025, 0.975]).tolist()
    crossing = min((change_R <= 0).sum(), (change_R >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(crossing)) / (1 + len(change_R)))
    return Paired(a, b, b - a, float(change_R.std(ddof=1)), low, high, p_value)


def _weights(num_clusters: int, replicates: int, seed: int, chunk: int) -> Iterator[np.ndarray]:
    """How often each cluster was drawn, `chunk` replicates at a time."""
    for first in range(0, replicates, chunk):
        drawn = [
            random_bits(num_clusters, "bootstrap", seed, replicate) % np.uint64(num_clusters)
            for replicate in range(first, min(first + chunk, replicates))
        ]
        yield np.stack([np.bincount(row.astype(np.int64), minlength=num_clusters) for row in drawn])


def _weights_of_rows(weights_RG: np.ndarray, clusters_n: np.ndarray, weights_n: np.ndarray | None) -> np.ndarray:
    drawn_Rn = weights_RG.take(clusters_n, axis=1)  # 6 times as fast as []
    return drawn_Rn if weights_n is None else drawn_Rn * weights_n


def _divide(numerators_R: np.ndarray, denominators_R: np.ndarray) -> np.ndarray:
    undefined = np.full(len(numerators_R), math.nan)
    return np.divide(numerators_R, denominators_R, out=undefined, where=denominators_R != 0)
