"""Scales, their ticks, and the words on them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dist_mtl.tools.report.number_format import superscript

THOUSANDS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """Values low..high onto pixels start..end, linear or logarithmic. Without a range, `high` is some way above."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:  # all values are one, or an edited file has negative ones
            object.__setattr__(self, "high", 2 * self.low if self.log else self.low + max(1.0, 1e-6 * abs(self.low)))

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        """Pixels; values that a logarithm has no place for lie at the low end."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        values = np.asarray(values, dtype=np.float64)
        values = np.log(np.maximum(values, self.low * 1e-3)) if self.log else values
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round numbers within the scale, at most `most` or so."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)

    def labels(self, ticks: list[float]) -> list[str]:
        """The words of ticks: each for itself on a logarithmic axis, else with the digits that tell them apart."""
        return [_short(t) for t in ticks] if self.log else tick_labels(ticks)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten: as many as there may be."""
    power = 10.0 ** math.floor(math.log10((high - low) / most) - 1)
    for m in (1, 2, 2.5, 5, 10, 20, 25, 50, 100, 200):
        step = m * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, or 1-2-5 of them where those are too few; round numbers of a linear scale where those are, too."""
    decades = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5)):
        ticks = [m * 10.0**k for k in decades for m in mantissas]
        ticks = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / most)]
    return linear_ticks(low, high, most)


def tick_labels(ticks: list[float]) -> list[str]:
    """The words of a linear axis, all with as many digits as tell its ticks apart: 0.00, 0.25; 0, 20k, 40k."""
    largest = max(map(abs, ticks), default=0.0)
    divisor, unit = next(((d, u) for d, u in THOUSANDS if largest >= 10 * d), (1.0, ""))
    return [label + unit * (label != "0") for label in _plain([t / divisor for t in ticks])]


def _plain(ticks: list[float]) -> list[str]:
    near = 1e-6 * max(map(abs, ticks), default=0.0)
    digits = next((d for d in range(9) if all(abs(round(t, d) - t) <= near for t in ticks)), 9)
    return [f"{t + 0.0:,.{digits}f}".replace("-", "−") for t in ticks]


def _short(x: float) -> str:
    """0.03, 10⁻⁵, 3·10⁻⁵, 20k."""
    if x >= 1e-4:
        divisor, unit = next(((d, u) for d, u in THOUSANDS if x >= 10 * d), (1.0, ""))
        return f"{x / divisor:g}{unit}"
    exponent = math.floor(math.log10(x) + 1e-9)
    mantissa = x / 10.0**exponent
    power = f"10{superscript(exponent)}"
    return power if math.isclose(mantissa, 1, rel_tol=1e-6) else f"{mantissa:g}·{power}"


def extent(values: Iterable[np.ndarray | float | None], log: bool = False, pad: float = 0.06) -> tuple[float, float]:
    """The range that holds all finite `values` (positive ones, for a logarithm), with some air; (0, 1) for none."""
    flat = np.concatenate([np.ravel(np.asarray(v, dtype=np.float64)) for v in values if v is not None] or [np.empty(0)])
    flat = flat[np.isfinite(flat) & ((flat > 0) | (not log))]
    if not len(flat):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(flat.min()), float(flat.max())
    if log:
        factor = max(high / low, 1.05) ** pad
        return low / factor, high * factor
    air = pad * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air
