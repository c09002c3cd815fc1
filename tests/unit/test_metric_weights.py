"""Rows that weigh differently: sums of squared weights, the room for them, and intervals that cover the truth."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dist_mtl.data.features.labels import LEAST_WEIGHT, MOST_WEIGHT
from dist_mtl.errors import DataError
from dist_mtl.metrics.auc import auc
from dist_mtl.metrics.histogram import COARSE, FINE
from dist_mtl.metrics.task import compute
from tests.unit.test_metrics import computed, histogram_of, impressions


def test_squares_of_weights_are_exact() -> None:
    """From the least to the largest weight that data may have."""
    draw = np.random.default_rng(3)
    weights = np.exp2(draw.uniform(math.log2(LEAST_WEIGHT), math.log2(MOST_WEIGHT), 2_000)).astype(np.float32)
    weights[:2] = LEAST_WEIGHT, MOST_WEIGHT
    units = [round(float(w) / LEAST_WEIGHT) for w in weights]
    rows = histogram_of(np.full(2_000, -2.0), np.arange(2_000) % 2, weights, parts=3).occupied(0)
    expected = [[float(sum(u * u for u in units[label::2])) * LEAST_WEIGHT**2] for label in (0, 1)]
    assert rows.squares_2k.tolist() == expected


@pytest.mark.parametrize("bits", [FINE, COARSE])
def test_weights_of_0_and_1_are_no_weights(bits: int) -> None:
    logits, labels = impressions(5_000, 0.1)
    weights = np.random.default_rng(4).integers(0, 2, 5_000)
    kept = weights > 0
    assert computed(logits, labels, weights, bits=bits) == computed(logits[kept], labels[kept], bits=bits)


@pytest.mark.parametrize("weight", [LEAST_WEIGHT, 0.05, 20, MOST_WEIGHT])
def test_a_constant_weight_changes_no_interval(weight: float) -> None:
    logits, labels = impressions(3_000, 0.1)
    perfect = np.array([-3.0, -2, -1, 2, 3]), np.array([0, 0, 0, 1, 1])
    single = np.array([0.0, 1, 2]), np.array([0, 1, 0])
    for columns in ((logits, labels), perfect, single):
        one, other = computed(*columns), computed(*columns, np.full(len(columns[0]), weight))
        a, b = ([*vars(x.auc).values(), *x.logloss_interval, *x.pcoc_interval] for x in (one, other))
        assert a == pytest.approx(b, rel=1e-9, nan_ok=True)


def test_a_bin_without_room_is_refused_and_a_full_one_is_right() -> None:
    """COARSE, 2**21 rows of one score and the largest weight: the sums have wrapped around, the deviation has not."""
    rows, logit = 1 << 21, np.float32(-3.00143)
    columns = np.full(rows, logit), np.zeros(rows), np.full(rows, MOST_WEIGHT)
    full = histogram_of(*columns, bits=COARSE)
    loss = math.log1p(math.exp(float(logit)))
    print(f"logloss off by {compute(full)[0].logloss / loss - 1:.1e}; a sum of {int(full.sums_MS.sum())}")
    assert int(full.sums_MS.sum()) < 0 and math.isclose(compute(full)[0].logloss, loss, rel_tol=1e-6)
    full.update(torch.tensor([[logit]]), torch.zeros(1, 1), torch.ones(1, 1))
    with pytest.raises(DataError, match=r"weigh 2.1e\+09 together.*divide the weights"):
        compute(full)


def kept_by_score(scores: np.ndarray) -> np.ndarray:
    """The chance that a row was logged: high scores are kept less often, down to 5 %."""
    return 0.05 + 0.9 / (1 + np.exp(scores))


WEIGHTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "20": lambda scores, draw: np.full(len(scores), 20.0),
    "0.05": lambda scores, draw: np.full(len(scores), 0.05),
    "lognormal": lambda scores, draw: draw.lognormal(-0.5, 1, len(scores)),
    "inverse propensity": lambda scores, draw: (draw.random(len(scores)) < (p := kept_by_score(scores))) / p,
}


@pytest.mark.parametrize("positives", [200, 50])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_intervals_of_weighted_aucs_cover_the_truth(kind: str, positives: int) -> None:
    """Weighted by the inverse of what kept them, the rows that are left stand for all."""
    truth, draw, held, sets = 0.7602499, np.random.default_rng(1), 0, 1_000
    for _ in range(sets):
        scores = np.concatenate([draw.normal(0, 1, 4_000), draw.normal(1, 1, positives)])
        order = np.argsort(scores)
        weights, positive = WEIGHTS[kind](scores, draw)[order], order >= 4_000
        sides = np.stack([~positive, positive]) * weights
        found = auc(torch.from_numpy(sides), torch.from_numpy(sides * weights))
        held += found.low <= truth <= found.high
    print(f"weights {kind}, {positives} positives: coverage {held / sets:.1%}")
    assert 0.925 <= held / sets <= 0.975  # of 1,000 sets; lognormal weights leave 22 effective positives of 50


@pytest.mark.parametrize("kind", ["lognormal", "inverse propensity"])
def test_weighted_intervals_of_logloss_and_pcoc_cover_the_truth(kind: str) -> None:
    sets, held, draw = 400, np.zeros(3), np.random.default_rng(6)
    logits, _ = impressions(2_000_000, 0.05, seed=5)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    labels, weights = draw.random(len(p)) < p, WEIGHTS[kind](logits + 3, draw)
    truths = (-p * np.log(p) - (1 - p) * np.log1p(-p)).mean(), 1.0, roc_auc_score(labels, logits)
    for part in np.split(np.arange(len(p)), sets):
        found = computed(logits[part], labels[part], weights[part], bits=COARSE)
        intervals = found.logloss_interval, found.pcoc_interval, (found.auc.low, found.auc.high)
        held += [low <= truth <= high for truth, (low, high) in zip(truths, intervals, strict=True)]
    print(f"weights {kind}: coverage of logloss, PCOC and AUC " + ", ".join(f"{one:.1%}" for one in held / sets))
    assert (0.92 <= held / sets).all() and (held / sets <= 0.98).all()
