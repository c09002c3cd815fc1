"""R10: metrics from histograms against scikit-learn, at the base rates that conversions have."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.metrics.histogram import LIMIT, NUM_BINS, LogitHistogram, TaskMetrics


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
    return merged.compute()[0]


def impressions(count: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits around the base rate, and labels that follow them."""
    draw = np.random.default_rng(seed)
    logits = (math.log(rate / (1 - rate)) - 0.5 + draw.normal(0, 1, count)).astype(np.float32)
    return logits, (draw.random(count) < 1 / (1 + np.exp(-logits.astype(float)))).astype(int)


@pytest.mark.parametrize("rate", [0.1, 0.02, 0.005, 0.0005])
def test_auc_is_within_its_own_bound_of_the_exact_one(rate: float) -> None:
    logits, labels = impressions(400_000, rate)
    found, exact = computed(logits, labels), roc_auc_score(labels, logits)
    print(f"base rate {labels.mean():.4%}: AUC {found.auc:.6f}, exact {exact:.6f}, stated bound {found.auc_error:.1e}")
    assert abs(found.auc - exact) <= found.auc_error + 1e-12
    assert found.auc_error < 1e-3
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
    assert found.auc == 0.5 and math.isclose(found.auc_error, 0.5)  # all ties: half of the pairs could go either way
    assert math.isclose(found.normalised_entropy, 1, rel_tol=1e-6) and math.isclose(found.pcoc, 1, rel_tol=1e-6)


def test_ties_count_half() -> None:
    logits, labels = np.array([0.0, 0, 0, 1, 1, -1]), np.array([1, 0, 0, 1, 0, 0])
    assert math.isclose(computed(logits, labels).auc, roc_auc_score(labels, logits))


def test_order_and_its_reverse() -> None:
    logits, labels = np.array([-3.0, -2, 2, 3]), np.array([0, 0, 1, 1])
    assert computed(logits, labels).auc == 1 and computed(-logits, labels).auc == 0


def test_weights_are_repetitions_and_0_leaves_out() -> None:
    logits, labels = impressions(5_000, 0.1)
    weights = np.random.default_rng(1).integers(0, 4, 5_000)
    weighted, repeated = computed(logits, labels, weights), computed(np.repeat(logits, weights), np.repeat(labels, weights))
    assert weighted.rows == weights.sum()
    for name in ("auc", "logloss", "normalised_entropy", "pcoc", "positives", "auc_error"):
        assert math.isclose(getattr(weighted, name), getattr(repeated, name), rel_tol=1e-9), name


def test_merging_parts_changes_nothing_but_sums() -> None:
    logits, labels = impressions(20_000, 0.05)
    one, many = computed(logits, labels), computed(logits, labels, parts=7)
    assert (one.auc, one.auc_error, one.rows, one.positives) == (many.auc, many.auc_error, many.rows, many.positives)
    assert math.isclose(one.logloss, many.logloss, rel_tol=1e-12)


def test_tasks_are_kept_apart() -> None:
    logits, labels = impressions(1_000, 0.3)
    histogram = LogitHistogram(2, torch.device("cpu"))
    columns = [torch.tensor(np.stack(pair, 1), dtype=torch.float32) for pair in
               [(logits, -logits), (labels, labels), (np.ones(1_000), labels)]]  # fmt: skip
    histogram.update(*columns)
    first, second = histogram.compute()
    assert math.isclose(first.auc, roc_auc_score(labels, logits), abs_tol=1e-4) and second.rows == labels.sum()
    assert math.isnan(second.auc)  # the second task's space holds positives only


@pytest.mark.parametrize(("labels", "weights"), [([], []), ([0, 0], [1, 1]), ([1, 1], [1, 1]), ([0, 1], [0, 0])])
def test_what_is_not_defined_is_nan(labels: list[int], weights: list[float]) -> None:
    found = computed(np.zeros(len(labels)), np.array(labels), np.array(weights))
    assert math.isnan(found.auc) and math.isnan(found.auc_error) and math.isnan(found.normalised_entropy)
    assert math.isnan(found.logloss) == (sum(weights) == 0)
    assert math.isnan(found.pcoc) == (found.positives == 0)


def test_logits_beyond_the_limit_share_the_outermost_bins() -> None:
    far = LIMIT + 1
    found = computed(np.array([-far, -2 * far, far, 1e30, -1e30]), np.array([0, 0, 1, 1, 0]))
    assert found.auc == 1 and math.isfinite(found.logloss)
    assert computed(np.array([far, 2 * far]), np.array([0, 1])).auc_error == 0.5  # a tie, and it says so


def test_memory_is_fixed() -> None:
    histogram = LogitHistogram(3, torch.device("cpu"))
    assert histogram.bins_M2K.shape == (3, 2, NUM_BINS) and histogram.bins_M2K.dtype == torch.float64
