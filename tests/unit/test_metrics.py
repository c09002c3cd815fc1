"""R10: metrics from histograms against scikit-learn, at the base rates that conversions have."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.metrics.auc import auc
from dist_mtl.metrics.histogram import COARSE, FINE, LARGEST, LogitHistogram, bins_of, bits_of, centres, num_bins
from dist_mtl.metrics.task import TaskMetrics, compute


def histogram_of(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, parts: int = 1, bits: int = FINE
) -> LogitHistogram:
    """The histogram of one task, from `parts` histograms that are merged by addition."""
    weighted = weights is not None
    weights = np.ones(len(logits)) if weights is None else weights
    merged = LogitHistogram(1, torch.device("cpu"), bits, weighted)
    for place in np.array_split(np.arange(len(logits)), parts):
        one = LogitHistogram(1, torch.device("cpu"), bits, weighted)
        columns = (torch.from_numpy(np.asarray(x[place], np.float32))[:, None] for x in (logits, labels, weights))
        one.update(*columns)
        for whole, part in zip(merged.tensors, one.tensors, strict=True):
            whole += part
    return merged


def computed(*args: np.ndarray | None, parts: int = 1, bits: int = FINE) -> TaskMetrics:
    """The metrics of one task; see `histogram_of`."""
    return compute(histogram_of(*args, parts=parts, bits=bits))[0]


def impressions(count: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits around the base rate, and labels that follow them."""
    draw = np.random.default_rng(seed)
    logits = (math.log(rate / (1 - rate)) - 0.5 + draw.normal(0, 1, count)).astype(np.float32)
    return logits, (draw.random(count) < 1 / (1 + np.exp(-logits.astype(float)))).astype(int)


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-3, 1), (-20, 1), (0, 8), (0, 0.2)])
@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001, 0.0002])
def test_auc_is_within_its_own_bound_of_the_exact_one(rate: float, shift: float, scale: float) -> None:
    logits, labels = impressions(400_000, rate)
    scores = (logits * scale + shift).astype(np.float32)
    found, exact = computed(scores, labels).auc, roc_auc_score(labels, scores)
    print(
        f"base rate {labels.mean():.4%}: {found.value:.7f}, off by {found.value - exact:.1e}, bound {found.error:.1e}"
    )
    assert abs(found.value - exact) <= found.error + 1e-12
    assert found.error <= 1e-4
    assert 0.7 < exact < 0.85


def test_coarse_bins_state_a_larger_bound() -> None:
    logits, labels = impressions(400_000, 0.01)
    fine, coarse, exact = computed(logits, labels), computed(logits, labels, bits=COARSE), roc_auc_score(labels, logits)
    print(f"stated {fine.auc.error:.1e} and {coarse.auc.error:.1e}, true {abs(coarse.auc.value - exact):.1e}")
    assert abs(coarse.auc.value - exact) <= coarse.auc.error
    assert 20 * fine.auc.error < coarse.auc.error < 2e-3
    for name in ("logloss", "normalised_entropy", "pcoc"):
        assert math.isclose(getattr(coarse, name), getattr(fine, name), rel_tol=1e-5), name


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-3, 1), (-20, 1), (0, 8), (0, 0.2)])
@pytest.mark.parametrize("constant", [False, True])
def test_sums_are_exact_to_1e_6_for_any_scores(shift: float, scale: float, constant: bool) -> None:
    """Constant scores: all rows in one bin, and their probability is still theirs and not the bin's."""
    logits, labels = impressions(100_000, 0.0005)
    scores = (logits * scale + shift).astype(np.float32)
    scores = np.full_like(scores, scores[0]) if constant else scores
    found, x = computed(scores, labels), scores.astype(float)
    pcoc = (1 / (1 + np.exp(-x))).sum() / labels.sum()
    loss = (np.logaddexp(0, x) - labels * x).mean()
    print(
        f"PCOC {found.pcoc:.3e}, relatively off by {found.pcoc / pcoc - 1:.1e}, logloss {found.logloss / loss - 1:.1e}"
    )
    assert math.isclose(found.pcoc, pcoc, rel_tol=1e-6) and math.isclose(found.logloss, loss, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("shift", "scale", "fine", "coarse"), [(0, 40, 1e-4, 1e-3), (-150, 1, 1e-3, 3e-2), (-5, 0.01, 3e-3, 1e-1)]
)
def test_scores_far_off_or_in_a_narrow_band_say_what_they_cost(
    shift: float, scale: float, fine: float, coarse: float
) -> None:
    """Scaled up they cost nothing. A band of the width of a few bins is told by the bound, and the sums are exact."""
    logits, labels = impressions(200_000, 0.01)
    centre = logits.mean() if shift == -5 else 0
    scores = ((logits - centre) * scale + shift).astype(np.float32)
    exact = roc_auc_score(labels, scores)
    loss = np.logaddexp(0, np.where(labels, -1, 1) * scores.astype(float)).mean()
    for bits, most in ((FINE, fine), (COARSE, coarse)):
        found = computed(scores, labels, bits=bits)
        print(f"{bits} bits: {found.auc.value:.6f}, off by {found.auc.value - exact:.1e}, bound {found.auc.error:.1e}")
        assert abs(found.auc.value - exact) <= found.auc.error <= most
        assert math.isclose(found.logloss, loss, rel_tol=1e-6 if bits == COARSE else 1e-9)


def test_logloss_entropy_and_calibration() -> None:
    logits, labels = impressions(100_000, 0.02)
    found = computed(logits, labels)
    p, rate = 1 / (1 + np.exp(-logits.astype(float))), labels.mean()
    assert found.rows == 100_000 and found.positives == labels.sum()
    assert math.isclose(found.logloss, log_loss(labels, p), rel_tol=1e-7)
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert math.isclose(found.normalised_entropy, log_loss(labels, p) / base, rel_tol=1e-7)
    assert math.isclose(found.pcoc, p.sum() / labels.sum(), rel_tol=1e-7)


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
    assert (weighted.auc.value, weighted.auc.error) == (repeated.auc.value, repeated.auc.error)
    assert weighted.auc.standard_error > 1.1 * repeated.auc.standard_error  # but a row is one draw, whatever it weighs
    for name in ("logloss", "normalised_entropy", "pcoc"):
        assert math.isclose(getattr(weighted, name), getattr(repeated, name), rel_tol=1e-8), name


def test_merged_parts_are_the_same_bits() -> None:
    logits, labels = impressions(20_000, 0.05)
    weights = np.random.default_rng(2).lognormal(-0.5, 1, 20_000)
    for column in (None, weights):
        assert computed(logits, labels, column) == computed(logits, labels, column, parts=7)


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
    assert found.auc.value == 1 and found.logloss == 0
    wrong = computed(np.array([-700.0, -900, 900, 1000]), np.array([1, 1, 0, 0]), bits=COARSE)
    assert math.isclose(wrong.logloss, 875, rel_tol=1e-12)
    assert computed(np.array([far, 2 * far]), np.array([0, 1])).auc.error == 0.5  # a tie, and it says so


@pytest.mark.parametrize("bits", [FINE, COARSE])
def test_bins_are_in_the_order_of_the_logits_and_know_their_centres(bits: int) -> None:
    logits = torch.linspace(-1_100, 1_100, 100_001).float()
    bins = bins_of(logits, bits)
    assert (bins.diff() >= 0).all() and 0 <= bins.min() and bins.max() < num_bins(bits)
    assert torch.equal(bins_of(centres(bits).float(), bits), torch.arange(num_bins(bits)))
    assert bins_of(torch.tensor([0.0])) == bins_of(torch.tensor([-0.0]))
    assert bits_of(num_bins(bits)) == bits


def test_delong_variance_is_that_of_the_placements() -> None:
    logits, labels = impressions(3_000, 0.1)
    scores = np.round(logits, 1).astype(np.float32)  # ties
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)  # the definition, all pairs
    variance = wins.mean(1).var(ddof=1) / len(positives) + wins.mean(0).var(ddof=1) / len(negatives)
    found = computed(scores, labels).auc
    assert math.isclose(found.value, wins.mean(), rel_tol=1e-12)
    assert math.isclose(found.standard_error, math.sqrt(variance), rel_tol=1e-9)


@pytest.mark.parametrize(("negatives", "positives"), [(4_000, 200), (20_000, 20)])
def test_delong_intervals_cover_the_truth(negatives: int, positives: int) -> None:
    """93-97 % of 95 % intervals hold the true AUC: here Phi(1 / sqrt 2) for scores N(0, 1) and N(1, 1)."""
    truth, draw, held, sets = 0.7602499, np.random.default_rng(1), 0, 1_000
    for _ in range(sets):
        scores = np.concatenate([draw.normal(0, 1, negatives), draw.normal(1, 1, positives)])
        positive = np.argsort(scores) >= negatives
        found = auc(torch.tensor(np.stack([~positive, positive]).astype(float)))  # every row a bin of its own
        held += found.low <= truth <= found.high
    print(f"coverage {held / sets:.1%}")
    assert 0.93 <= held / sets <= 0.97


def test_a_perfect_auc_is_not_certain_and_one_positive_says_nothing_of_its_spread() -> None:
    perfect = computed(np.array([-3.0, -2, -1, 2, 3]), np.array([0, 0, 0, 1, 1])).auc
    assert (perfect.value, perfect.high) == (1, 1) and math.isclose(perfect.low, 0.025 ** (1 / 2))
    reversed_ = computed(np.array([3.0, 2, 1, -2, -3]), np.array([0, 0, 0, 1, 1])).auc
    assert (reversed_.value, reversed_.low) == (0, 0) and math.isclose(reversed_.high, 1 - perfect.low)
    single = computed(np.array([0.0, 1, 2]), np.array([0, 1, 0])).auc
    assert single.value == 0.5 and math.isnan(single.standard_error) and math.isnan(single.low)


def test_intervals_of_logloss_and_pcoc_cover_the_truth() -> None:
    rate, sets, held = 0.02, 400, np.zeros(2)
    logits, _ = impressions(2_000_000, rate, seed=5)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    labels = np.random.default_rng(6).random(len(p)) < p
    truth_loss, truth_pcoc = (-p * np.log(p) - (1 - p) * np.log1p(-p)).mean(), 1.0
    for part in np.split(np.arange(len(p)), sets):
        found = computed(logits[part], labels[part], bits=COARSE)
        for i, (truth, interval) in enumerate(
            [(truth_loss, found.logloss_interval), (truth_pcoc, found.pcoc_interval)]
        ):
            held[i] += interval[0] <= truth <= interval[1]
    print(f"coverage of logloss {held[0] / sets:.1%}, of PCOC {held[1] / sets:.1%}")
    assert (0.92 <= held / sets).all() and (held / sets <= 0.98).all()


def test_rows_go_to_the_task_that_they_name() -> None:
    logits, labels = impressions(1_000, 0.3)
    columns = [torch.tensor(np.stack([x, x], 1), dtype=torch.float32) for x in (logits, labels, np.ones(1_000))]
    slices = torch.from_numpy(np.arange(1_000) % 3)
    histogram = LogitHistogram(6, torch.device("cpu"), COARSE)
    histogram.update(*columns, first_task_B=slices * 2)
    for place, found in enumerate(compute(histogram)):
        rows = (slices == place // 2).numpy()
        assert found == computed(logits[rows], labels[rows], bits=COARSE)


def test_reliability_of_calibrated_and_of_doubled_probabilities() -> None:
    logits, labels = impressions(300_000, 0.05)
    found, doubled = computed(logits, labels), computed(logits + math.log(2), labels)
    assert len(found.reliability) == 20 and sum(p.weight for p in found.reliability) == 300_000
    assert math.isclose(sum(p.weight * p.observed for p in found.reliability), labels.sum())
    assert found.calibration_error < 0.002 < 0.03 < doubled.calibration_error
    weights = [p.weight for p in found.reliability]
    assert max(weights) < 1.1 * min(weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [FINE, COARSE])
def test_memory_is_fixed(bits: int, weighted: bool) -> None:
    histogram = LogitHistogram(3, torch.device("cpu"), bits, weighted)
    megabytes = sum(t.numel() * t.element_size() for t in histogram.tensors) / 3e6
    print(f"{megabytes:.2f} MB a task")
    assert megabytes == (1 + weighted) * {FINE: 27.262976, COARSE: 0.851968}[bits]
    assert all(t.dtype == torch.int64 for t in histogram.tensors)
