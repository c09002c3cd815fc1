"""The report's drawing: few points, round ticks, honest intervals, and colours that every eye tells apart."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.tools.report import axes, charts, number_format, page, series
from tests.support.report_run import TASKS, diagnosis, evaluation, start_event, step_event, write

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------------------- long series
def test_a_long_run_stays_small(tmp_path: Path) -> None:
    """12,000 logged steps of 4 tasks' worth of curves, 200 slices, 64 ranks: below 1 MB."""
    rng = np.random.default_rng(3)
    steps = 600_000
    last = evaluation(steps, steps, rng, final=True)
    last["slices"]["item"] = {str(k): {t: last["slices"]["day"]["0"][t] for t in TASKS} for k in range(200)}
    events = [start_event(steps, world=64), *(step_event(s, steps, rng) for s in range(50, steps + 1, 50))]
    events += [diagnosis(s, steps, rng) for s in range(500, steps + 1, 500)]
    events += [evaluation(s, steps, rng) for s in range(5000, steps, 5000)] + [last]
    size = page.write(str(write(tmp_path, events))).stat().st_size
    print(f"{size:,} bytes")
    assert size < 1_000_000


def test_thinning_keeps_the_extremes_and_the_ends() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(100_000)
    y[[31_415, 92_653]] = 50.0, -50.0
    one = series.Series("a", np.arange(100_000.0), y, y - 1, y + 1)
    thinned = series.thin(one)
    assert len(thinned.y) <= series.MOST_POINTS
    assert thinned.x[0] == 0 and thinned.x[-1] == 99_999 and (np.diff(thinned.x) > 0).all()
    assert thinned.y.max() == 50.0 and thinned.y.min() == -50.0
    assert np.array_equal(
        thinned.high - thinned.y, np.full(len(thinned.y), thinned.high[0] - thinned.y[0])
    ) or np.allclose(thinned.high - thinned.y, 1.0)
    print(f"100,000 points thinned to {len(thinned.y)}")


def test_a_series_leaves_out_what_is_unknown() -> None:
    one = series.series("a", [(1, 0.5, 0.4, None), (2, None, None, None), (3, math.nan, 0, 1), (4, 0.7, 0.6, 0.8)])
    assert one.x.tolist() == [1, 4] and one.high.tolist() == [0.5, 0.8]
    assert series.series("a", [(1, None)]) is None and series.series("a", []) is None


def test_the_moving_mean_keeps_a_constant_and_lessens_noise() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(500.0)
    assert np.allclose(series.smooth(series.Series("a", x, np.full(500, 3.0))).y, 3.0)
    noise = series.smooth(series.Series("a", x, rng.standard_normal(500))).y
    assert noise.std() < 0.35, noise.std()


# ------------------------------------------------------------------------------------------------------- axes and words
@pytest.mark.parametrize(
    "low, high", [(0, 1), (0.7489, 0.7581), (-3, 7), (0, 48_715), (1e-7, 3e-7), (0.999, 1.001), (0, 2.4e9)]
)
@pytest.mark.parametrize("most", [3, 4, 5])
def test_ticks_are_round_few_and_told_apart(low: float, high: float, most: int) -> None:
    ticks = axes.linear_ticks(low, high, most)
    assert 2 <= len(ticks) <= most and low - 1e-12 <= ticks[0] and ticks[-1] <= high * (1 + 1e-12)
    labels = axes.tick_labels(ticks)
    assert len(set(labels)) == len(ticks), labels


@pytest.mark.parametrize("low, high", [(1e-5, 0.3), (0.02, 0.5), (0.2, 0.6), (1.01, 1.2), (1e-4, 1.1e-4)])
def test_ticks_of_a_logarithmic_axis(low: float, high: float) -> None:
    scale = axes.Scale(low, high, 0, 100, log=True)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 6 and len(set(scale.labels(ticks))) == len(ticks), scale.labels(ticks)
    assert (np.diff(scale(np.array(ticks))) > 0).all()


def test_numbers_in_words() -> None:
    space = number_format.NBSP
    assert [number_format.duration(s) for s in (0.12, 31.84, 252, 11_100, 187_000, 3600)] == [
        f"120{space}ms", f"31.8{space}s", f"4{space}min 12{space}s",
        f"3{space}h 5{space}min", f"2{space}d 3{space}h", f"1{space}h",
    ]  # fmt: skip
    assert [number_format.size(b) for b in (640, 1_631_040, 1.35e9)] == [
        f"640{space}B",
        f"1.63{space}MB",
        f"1.35{space}GB",
    ]
    assert [number_format.significant(x) for x in (0.00051234, 12.345, 4120.4, -0.02, 0, None, 1e-9)] == [
        "0.000512", "12.3", "4,120", "−0.0200", "0", "–", "1.00·10⁻⁹",
    ]  # fmt: skip
    assert (
        number_format.ranges([0, 1, 2, 3, 6]) == "0–3, 6"
        and number_format.listing(list("abcde")) == "a, b, c and 2 more"
    )
    assert (
        number_format.moment(1e30) == number_format.MISSING and number_format.fixed(math.nan) == number_format.MISSING
    )


def test_the_interval_of_a_share() -> None:
    """Against the textbook's example, and not below 0 for no positive at all."""
    low, high = charts.wilson(np.array([0.1, 0.0]), np.array([100.0, 500.0]))
    assert low[0] == pytest.approx(0.05523, abs=2e-5) and high[0] == pytest.approx(0.17437, abs=2e-5)
    assert low[1] == 0.0 and high[1] == pytest.approx(0.00762, abs=2e-5)
    print(f"10 of 100: {low[0]:.5f} to {high[0]:.5f}")


# -------------------------------------------------------------------------------------------------------------- colours
CSS = (ROOT / "dist_mtl/tools/report/style.css").read_text(encoding="utf-8")
# Machado, Oliveira and Fernandes 2009, full severity, over linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "no green cones": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}


def theme(number: int) -> dict[str, np.ndarray]:
    """The colours of a theme in linear RGB: 0 light, 1 dark."""
    block = CSS.split("@media screen and (prefers-color-scheme: dark)")[number].split("\n}")[0]
    found = {}
    for name, code in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block):
        c = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        found[name] = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return found


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson 2020: a space in which distances are as large as they look."""
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]) @ rgb
    mix = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return mix @ np.cbrt(cones)


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_colours_are_told_apart_by_every_eye(number: int) -> None:
    """The first six of the palette, without red or green cones too; and each against the card it is drawn on."""
    colours = theme(number)
    worst = {}
    for sight, matrix in SIGHT.items():
        seen = [oklab(np.clip(matrix @ colours[f"c{k}"], 0, 1)) for k in range(1, 7)]
        worst[sight] = min(float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i])
    luminance = {name: float(rgb @ [0.2126, 0.7152, 0.0722]) + 0.05 for name, rgb in colours.items()}
    contrast = [
        max(luminance[f"c{k}"], luminance["card"]) / min(luminance[f"c{k}"], luminance["card"]) for k in range(1, 9)
    ]
    print({sight: round(distance, 3) for sight, distance in worst.items()}, f"contrast from {min(contrast):.2f}")
    assert min(worst.values()) >= 0.08  # 0.02 is just noticeable
    assert min(contrast) >= 3  # WCAG 2.2, graphical objects
