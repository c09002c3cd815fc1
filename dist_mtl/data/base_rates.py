"""How often each label is set on the space of its tower: where a tower's last bias begins.

A pass over the columns of labels and weights alone. Counts are integers, so that their sum over ranks is the same
whoever reads which rows.
"""

import numpy as np

from dist_mtl.data.features.fit import first_rows
from dist_mtl.data.features.labels import LEAST_WEIGHT, labels_of, weights_of
from dist_mtl.data.loader import Dataset

MEASURES = 3  # of a tower: rows of its space, their weight, the weight of those with the label


def count_labels(dataset: Dataset, is_conditional: bool, part: int, parts: int) -> np.ndarray:
    """(T, MEASURES) int64, in every `parts`-th row group from `part` on; weights in units of LEAST_WEIGHT.

    `is_conditional`: the space of tower t is the rows whose label t-1 is set; else it is all rows. Rows without weight,
    such as those that break the funnel, are in none. Raises DataError for a bad label or weight, as training would.
    """
    data = dataset.encoder.config.data
    counts = np.zeros((len(data.labels), MEASURES), np.int64)
    for table, where in first_rows(dataset, dataset.encoder.answers, part, parts):
        labels_NT, dropped_N = labels_of(table, data, where)
        units_N = np.full(len(labels_NT), round(1 / LEAST_WEIGHT), np.int64)
        if data.weight:
            units_N = np.rint(weights_of(table, data.weight, where) / LEAST_WEIGHT).astype(np.int64)
        units_N[dropped_N] = 0
        for t, label_N in enumerate(labels_NT.T):
            space_N = units_N if t == 0 or not is_conditional else units_N * (labels_NT[:, t - 1] > 0)
            counts[t] += np.count_nonzero(space_N), space_N.sum(), space_N[label_N > 0].sum()
    return counts


def rates_of(counts: np.ndarray) -> list[float]:
    """The base rate of each tower, inside (0, 1): n rows without a positive, or without a negative, are half a row
    away from that, out of n + 1. A space without rows has 1/2."""
    rates = []
    for rows, weight, positive in counts.tolist():
        least = 0.5 / (rows + 1)
        rates.append(min(max(positive / weight if weight else 0.5, least), 1 - least))
    return rates
