"""Is B better than A? Paired tests: against published figures, their errors under the null, and their power."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dist_mtl.metrics.bootstrap import ClusteredAuc, bootstrap
from dist_mtl.metrics.paired import Paired, holm, paired_delong, paired_means, paired_ratios

# 43 patients with ovarian cancer: albumin, total protein, K-G score, benefit of surgery. DeLong, DeLong and
# Clarke-Pearson's own example (Biometrics 44, 1988), as the SAS/STAT manual of PROC LOGISTIC prints it.
OVARIAN = np.array(
    """3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1""".split(),
    dtype=float,
).reshape(-1, 4)
ALBUMIN, PROTEIN, KG, BENEFIT = OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2], OVARIAN[:, 3]


def two_models(draw: np.random.Generator, rows: int, positives: int, better: float = 0.0) -> list[np.ndarray]:
    """Two noisy copies of one score, the second with `better` less noise, and the labels."""
    labels = np.arange(rows) < positives
    score = draw.normal(0, 1, rows) + labels
    return [score + draw.normal(0, 0.5, rows), score + draw.normal(0, 0.5 - better, rows), labels]


@pytest.mark.parametrize(
    ("score", "area", "error", "p_value"),
    [(PROTEIN, 0.64784946, 0.10460959, 0.45613971), (ALBUMIN, 0.73655914, 0.09534362, 0.91020635)],
)
def test_delong_and_others_own_example(score: np.ndarray, area: float, error: float, p_value: float) -> None:
    """Expected: areas and p-values as the published code of yandexdataschool/roc_comparison gives them (Sun and Xu's
    algorithm); the standard errors are those of the O(n^2) definition.

    pROC's own data set may not be copied here. Run on it apart from this repository, `paired_delong` gave the Z, p and
    interval that pROC's tests expect to 13 digits: Z = 2.20898359144091, p = 0.0271757822291882 for wfns and s100b.
    """
    found = paired_delong(KG, score, BENEFIT)
    print(f"AUC {found.a:.4f} and {found.b:.4f}, difference {found.difference:.4f}, p = {found.p_value:.4f}")
    assert math.isclose(found.a, 0.72580645, abs_tol=1e-8) and math.isclose(found.b, area, abs_tol=1e-8)
    assert math.isclose(found.standard_error, error, abs_tol=1e-8)
    assert math.isclose(found.p_value, p_value, abs_tol=1e-8)
    assert math.isclose(found.high - found.difference, 1.959964 * error, rel_tol=1e-6)


def test_delong_is_its_definition_over_all_pairs_ties_included() -> None:
    a, b, labels = two_models(np.random.default_rng(1), 500, 60)
    a, b = np.round(a, 1), np.round(b, 1)
    placements = []
    for score in (a, b):
        mine, others = score[labels][:, None], score[~labels]
        wins = (mine > others) + 0.5 * (mine == others)
        placements.append((wins.mean(), wins.mean(1), wins.mean(0)))
    change = [y - x for x, y in zip(*placements, strict=True)]
    variance = change[1].var(ddof=1) / 60 + change[2].var(ddof=1) / 440
    found = paired_delong(a, b, labels)
    assert math.isclose(found.difference, change[0], rel_tol=1e-12)
    assert math.isclose(found.standard_error, math.sqrt(variance), rel_tol=1e-12)
    assert math.isclose(found.a, roc_auc_score(labels, a), rel_tol=1e-12)


def test_every_row_its_own_cluster_is_no_cluster() -> None:
    a, b, labels = two_models(np.random.default_rng(2), 400, 50)
    alone = paired_delong(a, b, labels, np.random.default_rng(3).permutation(400) * 7 - 50)
    for x, y in zip(vars(alone).values(), vars(paired_delong(a, b, labels)).values(), strict=True):
        assert math.isclose(x, y, rel_tol=1e-12)


def test_what_can_not_be_tested() -> None:
    a, b, labels = two_models(np.random.default_rng(4), 100, 20)
    same = paired_delong(a, np.exp(a), labels)
    assert (same.difference, same.standard_error, same.p_value, same.low, same.high) == (0, 0, 1, 0, 0)
    for one_class in (np.zeros(100), np.ones(100)):
        assert all(math.isnan(x) for x in vars(paired_delong(a, b, one_class)).values())
    single = paired_delong(a, b, np.arange(100) == 3)
    assert not math.isnan(single.difference) and math.isnan(single.p_value)
    assert math.isnan(paired_delong(a, b, labels, np.zeros(100, int)).p_value)  # one user: nothing varies
    assert math.isnan(paired_means(np.ones(1), np.zeros(1)).p_value)
    certain = paired_means(np.zeros(9), np.ones(9))
    assert (certain.difference, certain.p_value) == (1, 0)


@pytest.mark.parametrize(("rows", "positives"), [(2_000, 200), (10_000, 30)])
def test_false_positives_of_delong_under_the_null(rows: int, positives: int) -> None:
    draw, sets = np.random.default_rng(5), 1_000
    wrong = sum(paired_delong(*two_models(draw, rows, positives)).p_value < 0.05 for _ in range(sets))
    print(f"{wrong / sets:.1%} false positives at 5 %, {positives} positives in {rows} rows")
    assert 0.03 <= wrong / sets <= 0.07


def test_power_of_delong() -> None:
    draw, sets = np.random.default_rng(6), 200
    found = [paired_delong(*two_models(draw, 10_000, 1_000, better=0.2)) for _ in range(sets)]
    seen = sum(f.p_value < 0.05 and f.difference > 0 for f in found)
    print(f"power {seen / sets:.1%} for a difference of {np.mean([f.difference for f in found]):.4f}")
    assert seen / sets > 0.8


def test_rows_of_one_user_are_not_independent() -> None:
    """Errors and base rates belong to users: row by row the test is wrong far too often, by users it is right."""
    draw, sets, wrong = np.random.default_rng(7), 1_000, np.zeros(2)
    users = np.repeat(np.arange(150), 10)
    for _ in range(sets):
        labels = draw.random(1_500) < draw.beta(0.4, 1.6, 150)[users]
        score = draw.normal(0, 1, 1_500) + labels
        a, b = score + draw.normal(0, 0.7, 150)[users], score + draw.normal(0, 0.7, 150)[users]
        wrong += [paired_delong(a, b, labels, clusters).p_value < 0.05 for clusters in (None, users)]
    print(f"false positives at 5 %: {wrong[0] / sets:.1%} by rows, {wrong[1] / sets:.1%} by users")
    assert wrong[0] / sets > 0.1 and 0.03 <= wrong[1] / sets <= 0.07


def test_means_are_a_paired_t_test_without_its_t() -> None:
    draw = np.random.default_rng(8)
    a, b = draw.normal(0, 1, 300), draw.normal(0.1, 1, 300)
    found = paired_means(a, b)
    assert math.isclose(found.difference, b.mean() - a.mean()) and math.isclose(
        found.standard_error, (b - a).std(ddof=1) / math.sqrt(300)
    )
    weights, users = draw.random(300), draw.integers(0, 40, 300)
    weighted = paired_means(a, b, weights, users)
    assert math.isclose(weighted.b, np.average(b, weights=weights))
    sums = np.bincount(users, weights * (b - a - weighted.difference))
    assert math.isclose(weighted.standard_error, math.sqrt(40 / 39 * (sums**2).sum()) / weights.sum(), rel_tol=1e-9)


def test_ratios_cover_the_truth() -> None:
    """PCOC of two models whose predictions differ by 2 %: the interval of the difference holds the truth."""
    draw, sets, held = np.random.default_rng(9), 1_000, 0
    for _ in range(sets):
        p = draw.beta(1, 30, 5_000)
        labels = draw.random(5_000) < p
        found = paired_ratios(p, 1.02 * p * np.exp(draw.normal(0, 0.3, 5_000) - 0.045), labels)
        held += found.low <= 0.02 <= found.high
    print(f"coverage {held / sets:.1%}")
    assert 0.93 <= held / sets <= 0.97


def agrees(resampled: Paired, formula: Paired) -> None:
    print(f"bootstrap {resampled}\nformula   {formula}")
    assert (resampled.a, resampled.b) == pytest.approx((formula.a, formula.b), rel=1e-12)
    assert resampled.standard_error == pytest.approx(formula.standard_error, rel=0.1)
    ends = [resampled.low, resampled.high] - np.array([formula.low, formula.high])
    assert np.abs(ends).max() < 0.3 * formula.standard_error
    assert abs(resampled.p_value - formula.p_value) < 0.05


def test_bootstrap_agrees_with_the_formula() -> None:
    draw = np.random.default_rng(10)
    users = draw.integers(0, 400, 4_000) * 3
    a, b, labels = two_models(draw, 4_000, 500, better=0.05)
    a, b = np.round(a, 1), np.round(b, 1) + draw.normal(0, 0.5, 1_200)[users]
    aucs = [ClusteredAuc.of(score, labels, users) for score in (a, b)]
    agrees(bootstrap(*aucs, len(np.unique(users)), 2_000), paired_delong(a, b, labels, users))


def test_weights_of_rows_in_a_bootstrap() -> None:
    a, _, labels = two_models(np.random.default_rng(12), 400, 60)
    a, users = np.round(a, 1), np.random.default_rng(13).integers(0, 50, 400)
    draws = np.random.default_rng(14).multinomial(50, np.full(50, 1 / 50), size=5)
    plain = ClusteredAuc.of(a, labels, users)(draws)
    assert np.array_equal(ClusteredAuc.of(a, labels, users, np.ones(400))(draws), plain)
    assert np.allclose(ClusteredAuc.of(a, labels, users, np.full(400, 0.1))(draws), plain, rtol=0, atol=1e-14)
    weights = np.random.default_rng(15).lognormal(size=400)
    expected = [roc_auc_score(labels, a, sample_weight=weights * draw[users]) for draw in draws]
    assert np.allclose(ClusteredAuc.of(a, labels, users, weights)(draws), expected, rtol=0, atol=1e-12)


def test_bootstrap_draws_the_same_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, labels = two_models(np.random.default_rng(11), 500, 60)
    metrics = [ClusteredAuc.of(score, labels, np.arange(500)) for score in (a, b)]
    whole, other = bootstrap(*metrics, 500, 100), bootstrap(*metrics, 500, 100, seed=1)
    monkeypatch.setattr("dist_mtl.metrics.bootstrap.NUMBERS_IN_MEMORY", 1)
    assert bootstrap(*metrics, 500, 100) == whole != other
    same = bootstrap(metrics[0], metrics[0], 500, 100)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    nobody = ClusteredAuc.of(a, np.zeros(500), np.arange(500))
    assert math.isnan(bootstrap(nobody, nobody, 500, 100).p_value)


def test_holm() -> None:
    """Three tests: 0.01 * 3, 0.02 * 2 and 0.04 * 1, never below one before."""
    assert holm(np.array([0.04, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.04])
    assert holm(np.array([0.6, 0.01, math.nan])) == pytest.approx([0.6, 0.02, math.nan], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1] and holm(np.array([])).tolist() == []
