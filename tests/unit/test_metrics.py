"""R10: metrics from histograms against scikit-learn, at the base rates that conversions have."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.metrics.auc import auc
from dist_mtl.metrics.histogram import LARGEST, NUM_BINS, LogitHistogram, bins_of, centres
from dist_mtl.metrics.task import TaskMetrics, compute


def computed(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, parts: int = 1) -> TaskMetrics:
    """The metrics of one task, from `parts` histograms that are merged by addition."""
    weights = np.ones(len(logits)) if weights is None else weights
    merged = LogitHistogram(1, torch.device("cpu"))
    for place in np.array_split(np.arange(len(logits)), parts):
        one = LogitHistogram(1, torch.device("cpu"))
        columns = (torch.from_numpy(np.asarray(x[place], np.float32))[:, None] for x in (logits, labels, weights))
        one.update(*columns)
        merged.bins_M2K += one.bins_M2K
        merged.sums_MS += one.sums_MS
    return compute(merged)[0]


def impressions(count: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits around the base rate, and labels that follow them."""
    draw = np.random.default_rng(seed)
    logits = (math.log(rate / (1 - rate)) - 0.5 + draw.normal(0, 1, count)).astype(np.float32)
    return logits, (draw.random(count) < 1 / (1 + np.exp(-logits.astype(float)))).astype(int)


@pytest.mark.parametrize("rate", [0.1, 0.02, 0.005, 0.0005])
def test_auc_is_within_its_own_bound_of_the_exact_one(rate: float) -> None:
    logits, labels = impressions(400_000, rate)
    found, exact = computed(logits, labels), roc_auc_score(labels, logits)
    print(
        f"base rate {labels.mean():.4%}: AUC {found.auc.value:.6f}, exact {exact:.6f}, stated bound {found.auc.error:.1e}"
    )
    assert abs(found.auc.value - exact) <= found.auc.error + 1e-12
    assert found.auc.error < 1e-3
    assert 0.7 < exact < 0.8


def test_logloss_entropy_and_calibration() -> None:
    logits, labels = impressions(100_000, 0.02)
    found = computed(logits, labels)
    p, rate = 1 / (1 + np.exp(-logits.astype(float))), labels.mean()
    assert found.rows == 100_000 and found.positives == labels.sum()
    assert math.isclose(found.logloss, log_loss(labels, p), rel_tol=1e-9)
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert math.isclose(found.normalised_entropy, log_loss(labels, p) / base, rel_tol=1e-9)
    assert math.isclose(found.pcoc, p.sum() / labels.sum(), rel_tol=1e-9)


def test_predicting_the_base_rate_is_entropy_1_auc_half_pcoc_1() -> None:
    _, labels = impressions(10_000, 0.1)
    found = computed(np.full(10_000, math.log(labels.mean() / (1 - labels.mean()))), labels)
    assert found.auc.value == 0.5 and math.isclose(
        found.auc.error, 0.5
    )  # all ties: half of the pairs could go either way
    assert math.isclose(found.normalised_entropy, 1, rel_tol=1e-6) and math.isclose(found.pcoc, 1, rel_tol=1e-6)


def test_ties_count_half() -> None:
    logits, labels = np.array([0.0, 0, 0, 1, 1, -1]), np.array([1, 0, 0, 1, 0, 0])
    assert math.isclose(computed(logits, labels).auc.value, roc_auc_score(labels, logits))


def test_order_and_its_reverse() -> None:
    logits, labels = np.array([-3.0, -2, 2, 3]), np.array([0, 0, 1, 1])
    assert computed(logits, labels).auc.value == 1 and computed(-logits, labels).auc.value == 0


def test_weights_are_repetitions_and_0_leaves_out() -> None:
    logits, labels = impressions(5_000, 0.1)
    weights = np.random.default_rng(1).integers(0, 4, 5_000)
    weighted, repeated = (
        computed(logits, labels, weights),
        computed(np.repeat(logits, weights), np.repeat(labels, weights)),
    )
    assert weighted.rows == weights.sum()
    assert weighted.auc == repeated.auc
    for name in ("logloss", "normalised_entropy", "pcoc"):
        assert math.isclose(getattr(weighted, name), getattr(repeated, name), rel_tol=1e-8), name


def test_merged_parts_are_the_same_bits() -> None:
    logits, labels = impressions(20_000, 0.05)
    assert computed(logits, labels) == computed(logits, labels, parts=7)


def test_tasks_are_kept_apart() -> None:
    logits, labels = impressions(1_000, 0.3)
    histogram = LogitHistogram(2, torch.device("cpu"))
    columns = [torch.tensor(np.stack(pair, 1), dtype=torch.float32) for pair in
               [(logits, -logits), (labels, labels), (np.ones(1_000), labels)]]  # fmt: skip
    histogram.update(*columns)
    first, second = compute(histogram)
    assert math.isclose(first.auc.value, roc_auc_score(labels, logits), abs_tol=1e-4) and second.rows == labels.sum()
    assert math.isnan(second.auc.value)  # the second task's space holds positives only


@pytest.mark.parametrize(("labels", "weights"), [([], []), ([0, 0], [1, 1]), ([1, 1], [1, 1]), ([0, 1], [0, 0])])
def test_what_is_not_defined_is_nan(labels: list[int], weights: list[float]) -> None:
    found = computed(np.zeros(len(labels)), np.array(labels), np.array(weights))
    assert math.isnan(found.auc.value) and math.isnan(found.auc.error) and math.isnan(found.normalised_entropy)
    assert math.isnan(found.logloss) == (sum(weights) == 0)
    assert math.isnan(found.pcoc) == (found.positives == 0)


def test_logits_beyond_the_limit_share_the_outermost_bins() -> None:
    far = 2.0**LARGEST + 1
    found = computed(np.array([-far, -2 * far, far, 1e30, -1e30]), np.array([0, 0, 1, 1, 0]))
    assert found.auc.value == 1 and math.isfinite(found.logloss)
    assert computed(np.array([far, 2 * far]), np.array([0, 1])).auc.error == 0.5  # a tie, and it says so


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-20, 1), (6, 0.2), (-3, 8), (-100, 1)])
def test_shifted_and_badly_scaled_scores_keep_their_auc(shift: float, scale: float) -> None:
    logits, labels = impressions(200_000, 0.01)
    scores = (logits * scale + shift).astype(np.float32)
    found, exact = computed(scores, labels), roc_auc_score(labels, scores)
    assert abs(found.auc.value - exact) <= min(found.auc.error, 1e-4)


def test_bins_are_in_the_order_of_the_logits_and_know_their_centres() -> None:
    logits = torch.linspace(-140, 140, 100_001).float()
    assert (bins_of(logits).diff() >= 0).all() and 0 <= bins_of(logits).min() and bins_of(logits).max() < NUM_BINS
    assert torch.equal(bins_of(centres().float()), torch.arange(NUM_BINS))
    assert bins_of(torch.tensor([0.0])) == bins_of(torch.tensor([-0.0]))


def test_delong_variance_is_that_of_the_placements() -> None:
    logits, labels = impressions(3_000, 0.1)
    scores = np.round(logits, 1).astype(np.float32)  # ties
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)  # the definition, all pairs
    variance = wins.mean(1).var(ddof=1) / len(positives) + wins.mean(0).var(ddof=1) / len(negatives)
    found = computed(scores, labels).auc
    assert math.isclose(found.value, wins.mean(), rel_tol=1e-12)
    assert math.isclose(found.standard_error, math.sqrt(variance), rel_tol=1e-9)


def test_delong_intervals_cover_the_truth() -> None:
    """93-97 % of 95 % intervals hold the true AUC: here Phi(1 / sqrt 2) for scores N(0, 1) and N(1, 1)."""
    truth, draw, held, sets = 0.7602499, np.random.default_rng(1), 0, 1_000
    for _ in range(sets):
        scores = np.concatenate([draw.normal(0, 1, 4_000), draw.normal(1, 1, 200)])
        positive = np.argsort(scores) >= 4_000
        found = auc(torch.tensor(np.stack([~positive, positive]).astype(float)))  # every row a bin of its own
        held += found.low <= truth <= found.high
    print(f"coverage {held / sets:.1%}")
    assert 0.93 <= held / sets <= 0.97


def test_reliability_of_calibrated_and_of_doubled_probabilities() -> None:
    logits, labels = impressions(300_000, 0.05)
    found, doubled = computed(logits, labels), computed(logits + math.log(2), labels)
    assert len(found.reliability) == 20 and sum(p.weight for p in found.reliability) == 300_000
    assert math.isclose(sum(p.weight * p.observed for p in found.reliability), labels.sum())
    assert found.calibration_error < 0.002 < 0.03 < doubled.calibration_error
    weights = [p.weight for p in found.reliability]
    assert max(weights) < 1.1 * min(weights)


def test_memory_is_fixed() -> None:
    histogram = LogitHistogram(3, torch.device("cpu"))
    assert histogram.bins_M2K.shape == (3, 2, NUM_BINS) and histogram.bins_M2K.dtype == torch.int64
