"""Recalibration: probabilities mean what they say afterwards, and the order of the rows stays."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.errors import DataError
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.recalibration import MOST_KNOTS, Isotonic, Platt, Recalibration, fit_isotonic, fit_platt

FAULTS = {
    "shifted": lambda logits: logits - 3,
    "far away": lambda logits: logits - 20,
    "overconfident": lambda logits: logits * 8,
    "timid": lambda logits: logits * 0.2,
    "bent": lambda logits: np.sinh(logits / 2) - 4,
}
FITS = {"platt": fit_platt, "isotonic": fit_isotonic}


def bins(logits: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    histogram = LogitHistogram(1, torch.device("cpu"))
    columns = (torch.from_numpy(np.asarray(x, np.float32))[:, None] for x in (logits, labels, np.ones(len(logits))))
    histogram.update(*columns)
    return histogram.counts()[0]


def impressions(count: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = math.log(rate / (1 - rate)) - 0.5 + draw.normal(0, 1, count)
    return logits, draw.random(count) < 1 / (1 + np.exp(-logits))


def probabilities(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(float)))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("rate", [0.1, 0.002])
def test_other_rows_are_calibrated_and_in_the_same_order(kind: str, fault: str, rate: float) -> None:
    logits, labels = impressions(400_000, rate)
    scores = FAULTS[fault](logits).astype(np.float32)
    fitted, others = slice(0, 200_000), slice(200_000, None)
    curve = FITS[kind](bins(scores[fitted], labels[fitted]))
    mapped = curve.apply(torch.from_numpy(scores[others])).numpy()
    positives = labels[others].sum()
    pcoc = probabilities(mapped).sum() / positives
    moved = roc_auc_score(labels[others], mapped) - roc_auc_score(labels[others], scores[others])
    best, reached = (log_loss(labels[others], probabilities(x[others])) for x in (logits, curve.apply(
        torch.from_numpy(scores)).numpy()))  # fmt: skip
    print(f"{fault}, {positives} positives: PCOC {pcoc:.3f}, AUC moved {moved:.1e}, logloss {reached / best - 1:+.2%}")
    assert abs(pcoc - 1) < 3 * math.sqrt(2 / positives)  # noise of two halves
    assert abs(moved) < 1e-6
    assert reached / best - 1 < (0.03 if (kind, fault) == ("platt", "bent") else 0.01)


def test_platt_is_logistic_regression() -> None:
    """But for the targets, which 5,000 positives hardly feel."""
    logits, labels = impressions(100_000, 0.05)
    plain = LogisticRegression(C=1e12, tol=1e-10).fit((logits * 3 - 2)[:, None], labels)
    found = fit_platt(bins(logits * 3 - 2, labels))
    assert math.isclose(found.slope, plain.coef_[0, 0], rel_tol=1e-3)
    assert math.isclose(found.intercept, plain.intercept_[0], abs_tol=2e-3)


def test_no_certainty_from_rows_that_a_score_separates() -> None:
    logits, labels = np.concatenate([np.full(100, -2.0), np.full(100, 2.0)]), np.arange(200) >= 100
    for fit in FITS.values():
        mapped = fit(bins(logits, labels)).apply(torch.tensor([-2.0, 2.0]))
        print(torch.sigmoid(mapped))
        assert 0.001 < torch.sigmoid(mapped)[0] < 0.02 and 0.98 < torch.sigmoid(mapped)[1] < 0.999


def test_one_score_for_all_becomes_the_base_rate() -> None:
    labels = np.arange(2_000) < 100
    for fit in FITS.values():
        mapped = fit(bins(np.full(2_000, 3.0), labels)).apply(torch.tensor([3.0, 4.0]))
        assert math.isclose(torch.sigmoid(mapped)[0], 0.05, rel_tol=0.02) and math.isclose(
            mapped.diff(), 1, rel_tol=1e-5
        )


@pytest.mark.parametrize("kind", FITS)
def test_merged_histograms_give_the_same_curve(kind: str) -> None:
    logits, labels = impressions(20_000, 0.05)
    parts = [bins(logits[i::3], labels[i::3]) for i in range(3)]
    assert FITS[kind](sum(parts)) == FITS[kind](bins(logits, labels))


def test_a_curve_is_strictly_increasing_and_has_few_knots() -> None:
    logits, labels = impressions(1_000_000, 0.3)
    curve = fit_isotonic(bins(logits, labels))
    x = torch.linspace(-100, 100, 200_001)
    mapped = curve.apply(x)
    print(f"{len(curve.knots_x)} knots")
    assert (mapped.diff() > 0).all() and mapped.dtype == torch.float32
    assert torch.allclose(mapped.diff()[[0, -1]], x.diff()[[0, -1]], rtol=1e-2)  # slope 1 outside
    assert 50 < len(curve.knots_x) <= MOST_KNOTS + 2
    assert torch.allclose(curve.apply(torch.tensor(curve.knots_x)).double(), torch.tensor(curve.knots_y).double())


@pytest.mark.parametrize(
    ("fit", "labels", "message"),
    [
        (
            fit_platt,
            np.zeros(100),
            "platt: 0 of 100 held-out rows are positive, both classes are needed; hold out more",
        ),
        (fit_isotonic, np.ones(100), "isotonic: 100 of 100 held-out rows are positive"),
        (fit_platt, np.zeros(0), "platt: 0 of 0 held-out rows"),
        (fit_platt, np.arange(100) < 50, "platt: .* a higher score means fewer positives"),
        (fit_isotonic, np.arange(1_000) < 500, "isotonic: .* a higher score means fewer positives"),
        (fit_isotonic, np.arange(1_000) >= 951, "49 positives in the held-out rows, 50 are needed; .* or use platt"),
    ],
)
def test_rows_that_teach_nothing_are_refused(fit: Callable, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(bins(np.linspace(-1, 1, len(labels)), labels))


def test_json_and_back() -> None:
    adapter = TypeAdapter(dict[str, Recalibration])
    logits, labels = impressions(20_000, 0.05)
    curves = {kind: fit(bins(logits, labels)) for kind, fit in FITS.items()}
    text = adapter.dump_json(curves)
    assert adapter.validate_json(text) == curves
    assert json.loads(text)["platt"]["kind"] == "platt"


@pytest.mark.parametrize(
    "stored",
    [
        {"kind": "platt", "slope": -1.0, "intercept": 0.0},
        {"kind": "platt", "slope": 1.0, "intercept": math.inf},
        {"kind": "isotonic", "knots_x": [0.0, 1.0], "knots_y": [1.0, 1.0]},
        {"kind": "isotonic", "knots_x": [0.0, 1.0], "knots_y": [1.0]},
        {"kind": "isotonic", "knots_x": [], "knots_y": []},
        {"kind": "other"},
    ],
)
def test_a_stored_curve_that_keeps_no_order_is_refused(stored: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Recalibration).validate_python(stored)


def test_apply_by_hand() -> None:
    curve = Isotonic((0.0, 1.0), (0.0, 3.0))
    assert curve.apply(torch.tensor([-2.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [-2, 0, 1.5, 3, 4]
    assert Platt(2.0, 1.0).apply(torch.tensor([[1.0], [-1.0]])).tolist() == [[3], [-1]]
