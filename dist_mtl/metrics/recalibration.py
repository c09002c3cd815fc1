"""A monotone map on the logit that makes predictions mean what they say: fitted on held-out rows, AUC left as it is.

Fitted from the bins of one task, hence in fixed memory and over any number of ranks. Platt's line (two numbers) mends a
wrong base rate or a wrong scale and asks for few positives; the isotonic curve mends any monotone fault.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit, logit
from torch import Tensor

from dist_mtl.errors import DataError
from dist_mtl.metrics.histogram import bits_of, centres

FEWEST_POSITIVES = 50  # of an isotonic fit: with fewer its steps follow single rows
MOST_KNOTS = 200
ROWS_PER_KNOT = 10  # positives, or negatives if they are the rarer: a knot's logit has a standard error of 0.3 at most
FLATTEST = 0.01  # slope between knots, at least: in float32 a flatter one would turn near scores into ties


@dataclass(frozen=True)
class Platt:
    """logit -> slope * logit + intercept."""

    slope: float
    intercept: float
    kind: Literal["platt"] = "platt"

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise ValueError(f"a slope of {self.slope:g} and an intercept of {self.intercept:g} keep no order")

    def apply(self, logits: Tensor) -> Tensor:
        """float32 -> float32, computed in float64."""
        return (logits.double() * self.slope + self.intercept).float()


@dataclass(frozen=True)
class Isotonic:
    """Logit -> logit, straight between the knots and with slope 1 outside; strictly increasing."""

    knots_x: tuple[float, ...]
    knots_y: tuple[float, ...]
    kind: Literal["isotonic"] = "isotonic"

    def __post_init__(self) -> None:
        if not self.knots_x or len(self.knots_x) != len(self.knots_y):
            raise ValueError(f"{len(self.knots_x)} and {len(self.knots_y)} knots are no curve")
        for knots in (self.knots_x, self.knots_y):
            if not all(a < b for a, b in pairwise(knots)) or not all(math.isfinite(knot) for knot in knots):
                raise ValueError("the knots are not finite and strictly increasing")

    def apply(self, logits: Tensor) -> Tensor:
        """float32 -> float32, computed in float64."""
        x, y = (
            torch.tensor(knots, dtype=torch.float64, device=logits.device) for knots in (self.knots_x, self.knots_y)
        )
        one = x.new_ones(1)
        slopes = torch.cat([one, y.diff() / x.diff(), one])  # left of knot i: slopes[i]
        place = torch.searchsorted(x, logits.double())
        knot = (place - 1).clamp(min=0)
        return (y[knot] + (logits.double() - x[knot]) * slopes[place]).float()


Recalibration = Annotated[Platt | Isotonic, Field(discriminator="kind")]
Method = Literal["platt", "isotonic"]


@dataclass(frozen=True)
class Fit:
    """Maps by task, and the held-out rows that they were fitted to. A task without a map stays as it is."""

    method: Method
    data: str  # folder
    digest: str  # of its manifest
    positives: dict[str, float]  # weight, by task
    maps: dict[str, Recalibration]


def fit(method: Method, bins_2K: Tensor) -> Recalibration:
    """The map of one task. Raises DataError if its rows teach none, see below."""
    return fit_platt(bins_2K) if method == "platt" else fit_isotonic(bins_2K)


def fit_platt(bins_2K: Tensor) -> Platt:
    """Logistic regression on the logit, to Platt's targets (1999): no label is quite 0 or 1, so the slope is finite.

    Raises DataError if the rows are of one class, or if a higher score means fewer positives among them.
    """
    return _line(_Rows.of(bins_2K, "platt"), "platt")


def _line(rows: "_Rows", method: Method) -> Platt:
    negatives, positives = rows.weight_k.sum() - rows.positives_k.sum(), rows.positives_k.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets_k = low + (high - low) * rows.rates_k
    mean = float(np.average(rows.x_k, weights=rows.weight_k))
    spread = math.sqrt(np.average((rows.x_k - mean) ** 2, weights=rows.weight_k))
    if not spread:  # one score only: a shift
        return Platt(1.0, float(logit(targets_k[0]) - mean))
    slope, intercept = _logistic((rows.x_k - mean) / spread, targets_k, rows.weight_k, method)
    if not slope > 0:
        raise DataError(
            f"recalibration {method}: on the held-out rows ({positives:,.0f} of {positives + negatives:,.0f} positive) "
            f"a higher score means fewer positives; check their labels, or train longer"
        )
    return Platt(slope / spread, intercept - slope * mean / spread)


def fit_isotonic(bins_2K: Tensor) -> Isotonic:
    """The isotonic regression of the labels on the logit, as a curve through its steps' middles; right in the mean.

    A step is shrunk by one row of the base rate, so that no probability is 0 or 1. From the outermost steps to the
    outermost rows the curve goes on as Platt's line does. Raises DataError as `fit_platt` does, or if there are fewer
    than FEWEST_POSITIVES positives.
    """
    rows = _Rows.of(bins_2K, "isotonic")
    positives = rows.positives_k.sum()
    if positives < FEWEST_POSITIVES:
        raise DataError(
            f"recalibration isotonic: {positives:,.0f} positives in the held-out rows, {FEWEST_POSITIVES} are needed; "
            f"hold out more rows, or use platt"
        )
    base = positives / rows.weight_k.sum()
    steps = _steps(rows)
    steps = _steps(_Rows(steps.x_k, steps.positives_k + base, steps.weight_k + 1))  # shrunk, some are out of order
    steps = _fewer(steps)
    line = _line(rows, "isotonic")
    knots_x, knots_y = _with_ends(rows, steps.x_k, _steeper(steps.x_k, logit(steps.rates_k)), line.slope)
    curve, ends = _right_in_the_mean(rows, knots_x, knots_y), np.unique(rows.x_k[[0, -1]])
    straight = _right_in_the_mean(rows, ends, line.slope * ends + line.intercept)
    # Of scores that say next to nothing, the steps are noise, and a curve through them can be worse than none.
    return min(curve, straight, key=lambda one: _loss(rows, one))


def _right_in_the_mean(rows: "_Rows", knots_x: np.ndarray, knots_y: np.ndarray) -> Isotonic:
    """The curve through these knots, shifted until the sum of its probabilities is that of the positives."""
    curve = Isotonic(tuple(knots_x.tolist()), tuple(knots_y.tolist()))
    mapped_k = curve.apply(torch.from_numpy(rows.x_k)).double().numpy()
    excess = lambda shift: rows.weight_k @ expit(mapped_k + shift) - rows.positives_k.sum()  # noqa: E731
    shift = brentq(excess, -100, 100, xtol=1e-12)
    return Isotonic(curve.knots_x, tuple((knots_y + shift).tolist()))


def _loss(rows: "_Rows", curve: Isotonic) -> float:
    """The log loss of the rows, summed."""
    mapped_k = curve.apply(torch.from_numpy(rows.x_k)).double().numpy()
    return float(rows.weight_k @ np.logaddexp(0, mapped_k) - rows.positives_k @ mapped_k)


@dataclass(frozen=True)
class _Rows:
    """Rows of equal logit together, in order of it: the logit, the weight of positives, the weight of all."""

    x_k: np.ndarray
    positives_k: np.ndarray
    weight_k: np.ndarray

    @classmethod
    def of(cls, bins_2K: Tensor, method: Method) -> "_Rows":
        weight_K = bins_2K.sum(dim=0)
        if not (bins_2K.sum(dim=1) > 0).all():
            raise DataError(
                f"recalibration {method}: {float(bins_2K[1].sum()):,.0f} of {float(weight_K.sum()):,.0f} held-out rows "
                f"are positive, both classes are needed; hold out more rows"
            )
        used_k = weight_K.nonzero()[:, 0]
        columns = centres(bits_of(len(weight_K)))[used_k], bins_2K[1, used_k], weight_K[used_k]
        return cls(*(column.double().numpy() for column in columns))

    @property
    def rates_k(self) -> np.ndarray:
        return self.positives_k / self.weight_k

    def grouped(self, groups_k: np.ndarray) -> "_Rows":
        """Neighbours with the same group, which ascends without gaps, become one."""
        sums = [np.bincount(groups_k, column) for column in (self.x_k * self.weight_k, self.positives_k, self.weight_k)]
        return _Rows(sums[0] / sums[2], sums[1], sums[2])


def _steps(rows: _Rows) -> _Rows:
    """Pool adjacent violators: steps of ascending rates."""
    blocks = isotonic_regression(rows.rates_k, weights=rows.weight_k).blocks
    return rows.grouped(np.repeat(np.arange(len(blocks) - 1), np.diff(blocks)))


def _fewer(steps: _Rows) -> _Rows:
    """Neighbours pooled until each step holds its share of what is known, and ROWS_PER_KNOT rows of the rarer class."""
    rarer = min(steps.positives_k.sum(), (steps.weight_k - steps.positives_k).sum())
    most = min(MOST_KNOTS, max(1, int(rarer / ROWS_PER_KNOT)))
    known_k = steps.weight_k * steps.rates_k * (1 - steps.rates_k)
    groups_k = ((known_k.cumsum() - known_k / 2) / known_k.sum() * most).astype(int)
    return steps.grouped(np.unique(groups_k, return_inverse=True)[1])


def _steeper(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least curve above y that rises by FLATTEST at least."""
    return np.maximum.accumulate(y - FLATTEST * x) + FLATTEST * x


def _with_ends(rows: _Rows, x: np.ndarray, y: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """The knots, and one more at the lowest and at the highest row."""
    ends = rows.x_k[[0, -1]]
    beyond = ends - x[[0, -1]]
    first, last = y[[0, -1]] + slope * beyond
    kept = np.r_[beyond[0] < 0, np.ones(len(x), bool), beyond[1] > 0]
    return np.r_[ends[0], x, ends[1]][kept], np.r_[first, y, last][kept]


def _logistic(x_k: np.ndarray, targets_k: np.ndarray, weight_k: np.ndarray, method: Method) -> tuple[float, float]:
    """Slope and intercept by Newton's method from the base rate; a step that does not help is halved."""
    design_2k = np.stack([x_k, np.ones_like(x_k)])
    line = np.array([0.0, logit(np.average(targets_k, weights=weight_k))])

    def loss(line: np.ndarray) -> float:
        return float(weight_k @ (np.logaddexp(0, line @ design_2k) - targets_k * (line @ design_2k)))

    for _ in range(100):
        p_k = expit(line @ design_2k)
        gradient = design_2k @ (weight_k * (p_k - targets_k))
        step = np.linalg.solve((design_2k * (weight_k * p_k * (1 - p_k))) @ design_2k.T, gradient)
        before = loss(line)
        if gradient @ step <= 1e-12 * before:
            return float(line[0]), float(line[1])
        while loss(line - step) > before:
            step = step / 2
        line = line - step
    raise DataError(f"recalibration {method}: no line fits the held-out rows; look at the task's reliability curve")
