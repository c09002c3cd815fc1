"""Charts over steps or time: lines with intervals, dots and marks; stacked areas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dist_mtl.tools.report.axes import Scale, extent
from dist_mtl.tools.report.blocks import Figure, Key
from dist_mtl.tools.report.number_format import count, fixed, interval, percent
from dist_mtl.tools.report.series import Series, kept, smooth, thin
from dist_mtl.tools.report.svg import (
    CHAR,
    HEIGHT,
    WIDTH,
    Frame,
    clipped,
    hits,
    join,
    left_margin,
    path,
    ring,
    svg,
    tone,
)

TOP, BOTTOM, RIGHT = 10, 24, 8
MANY = 80  # points from which on a line is noise enough to need a moving mean
WARM_UP = 0.1  # of the run; the first steps are far off and would flatten all that comes after


@dataclass(frozen=True)
class Dot:
    """A measurement with its interval, drawn over the lines."""

    x: float
    y: float
    low: float | None
    high: float | None
    words: str
    colour: int = 1


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a name."""

    y: float
    name: str


@dataclass(frozen=True)
class Mark:
    """A vertical line: something happened here."""

    x: float
    words: str


Words = Callable[[float], str]


def lines(
    title: str,
    lines_: Sequence[Series],
    say: Words = fixed,
    dots: Sequence[Dot] = (),
    rules: Sequence[Rule] = (),
    marks: Sequence[Mark] = (),
    log: bool = False,
    zero: bool = False,
    smoothed: bool = False,
    x_label: str = "step",
    note: str = "",
    warm_up: float = 0.0,
) -> Figure:
    """Lines over a common axis. `say` words a value; `zero` makes the axis begin at 0; `smoothed` adds moving means.

    The vertical axis fits what follows the first tenth of the run and `warm_up` steps more.
    """
    drawn = [thin(one) for one in lines_]
    means = [thin(smooth(one)) for one in lines_ if smoothed and len(one.y) >= MANY]
    x_low = min([*(float(one.x[0]) for one in drawn), *(d.x for d in dots)])
    x_high = max([*(float(one.x[-1]) for one in drawn), *(d.x for d in dots)])
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    settled = x_low + WARM_UP * (x_high - x_low) + warm_up
    low, high = _domain(lines_, dots, rules, min(settled, (x_low + x_high) / 2), log, zero)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP, log)
    frame = Frame(Scale(x_low, x_high, left_margin(y), WIDTH - RIGHT), y)
    inside = [_band(frame, one) for one in drawn if one.low is not None]
    inside += [_mark(frame, mark) for mark in marks if x_low <= mark.x <= x_high]
    inside += [_line(frame, one, "faint" if means else "") for one in drawn]
    inside += [_line(frame, one) for one in means]
    tips = hits(frame, frame.x(drawn[0].x), lambda k: _tip(drawn, k, say, x_label)) if drawn else Markup("")
    parts = [frame.grid(_end(x_label, x_high)), clipped(frame, join(inside)), *_rules(frame, rules, drawn), tips]
    parts += [_dot(frame, dot) for dot in dots]
    keys = [Key(one.name, tone(one.colour), say(_last(one, means))) for one in lines_]
    alone = len(keys) == 1 and not dots
    shown = [] if alone else keys
    shown += [Key("evaluation", dots[0].colour, say(dots[-1].y), "dot")] if dots else []
    return Figure(title, svg(title, parts), tuple(shown), keys[0].value if alone else "", note)


def _end(x_label: str, x: float) -> str:
    """The right end of an axis in words: step 1,464; 5.6 minutes."""
    return f"step {count(x)}" if x_label == "step" else f"{fixed(x, 1)} {x_label}"


def _last(one: Series, means: list[Series]) -> float:
    return float(next((mean.y[-1] for mean in means if mean.name == one.name), one.y[-1]))


def _domain(
    lines_: Sequence[Series], dots: Sequence[Dot], rules: Sequence[Rule], settled: float, log: bool, zero: bool
) -> tuple[float, float]:
    """What the vertical axis spans: what comes after the warm-up; of a line's interval the end only."""
    values = []
    for one in lines_:
        late = one.x >= settled
        values.append(one.y[late] if late.sum() >= 3 else one.y)
        values += [bound[-1:] for bound in (one.low, one.high) if bound is not None]
    for dot in dots:
        values += [dot.y] if dot.x < settled else [dot.y, dot.low, dot.high]
    values += [rule.y for rule in rules]
    low, high = extent([*values, 0.0] if zero else values, log)
    return (0.0 if zero and low < 0 <= low + 0.1 * (high - low) else low), high


def _line(frame: Frame, one: Series, kind: str = "") -> Markup:
    xs, ys = frame.x(one.x), frame.y(one.y)
    if len(xs) == 1:
        return Markup('<circle class="f{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(tone(one.colour), xs[0], ys[0])
    return Markup('<path class="line s{} {}" d="{}"/>').format(tone(one.colour), kind, path(xs, ys))


def _band(frame: Frame, one: Series) -> Markup:
    shape = ring(frame.x(one.x), frame.y(one.low), frame.y(one.high))
    return Markup('<path class="band f{}" d="{}"/>').format(tone(one.colour), shape)


def _mark(frame: Frame, mark: Mark) -> Markup:
    shape = Markup('<path class="mark" d="M{:.1f} {:.1f}V{:.1f}"><title>{}</title></path>')
    return shape.format(frame.x(mark.x), frame.y.start, frame.y.end, mark.words)


def _rules(frame: Frame, rules: Sequence[Rule], lines_: Sequence[Series]) -> list[Markup]:
    """Each with its name at that end, above or below, where fewest points are in its way."""
    xs = np.concatenate([frame.x(one.x) for one in lines_] or [np.empty(0)])
    ys = np.concatenate([frame.y(one.y) for one in lines_] or [np.empty(0)])
    shape = Markup(
        '<path class="rule" d="M{:.1f} {:.1f}H{:.1f}"/><text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>'
    )
    parts = []
    for rule in rules:
        y, width = float(frame.y(rule.y)), CHAR * len(rule.name) + 6

        def crowd(place: tuple[str, bool], y: float = y, width: float = width) -> int:
            end, above = place
            beside = xs > frame.x.end - width if end == "e" else xs < frame.x.start + width
            return int((beside & (ys > y - (16 if above else 0)) & (ys < y + (0 if above else 16))).sum())

        places = [(end, above) for end in ("e", "s") for above in (True, False)]
        fits = [(end, above) for end, above in places if (y > TOP + 2 if above else y + 16 < frame.y.start)]
        end, above = min(fits or places, key=crowd)
        x = frame.x.end if end == "e" else frame.x.start + 4
        parts.append(shape.format(frame.x.start, y, frame.x.end, end, x, y - 5 if above else y + 12, rule.name))
    return parts


def _dot(frame: Frame, dot: Dot) -> Markup:
    x, y = float(frame.x(dot.x)), float(frame.y(dot.y))
    whisker = Markup("")
    if dot.low is not None and dot.high is not None:
        ends = np.clip(frame.y(np.array([dot.low, dot.high])), frame.y.end, frame.y.start)
        whisker = Markup('<path class="whisker s{}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(dot.colour, x, *ends)
    shape = Markup('<g>{}<circle class="dot f{}" cx="{:.1f}" cy="{:.1f}" r="4"/><title>{}</title></g>')
    return shape.format(whisker, dot.colour, x, y, dot.words)


def _tip(lines_: Sequence[Series], k: int, say: Words, x_label: str) -> str:
    at = lines_[0].x[k]
    words = [_end(x_label, float(at))]
    for one in lines_:
        i = min(int(np.searchsorted(one.x, at)), len(one.x) - 1)
        between = "" if one.low is None else f" ({interval(one.low[i], one.high[i])})"
        words.append(f"{one.name} {say(float(one.y[i]))}{between}")
    return "\n".join(words)


def areas(
    title: str,
    names: Sequence[str],
    x: np.ndarray,
    parts_KN: np.ndarray,
    say: Words,
    marks: Sequence[Mark] = (),
    share: bool = False,
    note: str = "",
) -> Figure:
    """K parts stacked over N steps; with `share` each step's parts are scaled to sum to 100 %."""
    if share:
        parts_KN = 100 * parts_KN / np.maximum(parts_KN.sum(axis=0), 1e-30)
    if len(x) >= MANY:
        parts_KN = np.stack([smooth(Series("", x, part)).y for part in parts_KN])
    keep = kept(parts_KN[0] if share else parts_KN.sum(axis=0))
    x, parts_KN = x[keep], parts_KN[:, keep]
    tops_KN = np.cumsum(parts_KN, axis=0)
    late = x >= x[0] + WARM_UP * (x[-1] - x[0])
    high, suffix = (100.0 if share else float(tops_KN[-1, late].max()) * 1.06 or 1.0), "%" * share
    y = Scale(0.0, high, HEIGHT - BOTTOM, TOP)
    x_low, x_high = (float(x[0]), float(x[-1])) if len(x) > 1 else (float(x[0]) - 1, float(x[0]) + 1)
    if len(x) == 1:
        x, parts_KN, tops_KN = np.array([x_low, x_high]), parts_KN.repeat(2, axis=1), tops_KN.repeat(2, axis=1)
    frame = Frame(Scale(x_low, x_high, left_margin(y, suffix=suffix), WIDTH - RIGHT), y)
    below, layers = np.zeros(len(x)), []
    for k, top in enumerate(tops_KN):
        shape = ring(frame.x(x), frame.y(below), frame.y(top))
        layers.append(Markup('<path class="area f{}" d="{}"/>').format(tone(k + 1), shape))
        below = top
    layers += [_mark(frame, mark) for mark in marks if x_low <= mark.x <= x_high]

    def words(i: int) -> str:
        each = [f"{name} {say(float(v))}" for name, v in zip(names, parts_KN[:, i], strict=True)]
        return "\n".join([f"step {count(x[i])}", *each])

    mean_K = parts_KN.mean(axis=1)
    whole = mean_K.sum() or 1.0
    keys = [Key(n, tone(k + 1), percent(mean_K[k] / whole, 0), "area") for k, n in enumerate(names)]
    drawing = [
        frame.grid(f"step {count(x_high)}", suffix=suffix),
        clipped(frame, join(layers)),
        hits(frame, frame.x(x), words),
    ]
    value = "" if share else say(float(parts_KN.sum(axis=0).mean()))
    return Figure(title, svg(title, drawing), tuple(keys), value, note)
