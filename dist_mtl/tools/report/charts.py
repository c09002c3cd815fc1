"""Charts of one moment: reliability, histograms, bars, and values with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dist_mtl.tools.report.axes import Scale, extent
from dist_mtl.tools.report.blocks import Figure, Key
from dist_mtl.tools.report.event_schema import Bin
from dist_mtl.tools.report.number_format import count, fixed, interval, known, plural, significant
from dist_mtl.tools.report.svg import CHAR, WIDTH, Frame, clipped, hits, join, left_margin, shortened, svg, tone

Z = 1.959964  # 95 %
SPAN_FOR_LOG = 20.0  # from this ratio of the largest to the smallest probability on, both axes are logarithmic


# -------------------------------------------------------------------------------------------------------- reliability
def reliability(title: str, bins: Sequence[Bin], colour: int, value: str, note: str) -> Figure | None:
    """Observed over predicted share, a dot a bin with its 95 % Wilson interval; on the diagonal is right."""
    rows = [
        (b.weight, b.predicted, b.observed) for b in bins if known(b.predicted) and known(b.observed) and b.weight > 0
    ]
    if len(rows) < 2:
        return None
    weight, predicted, observed = np.array(rows).T
    low, high = wilson(observed, weight)
    positive = predicted[predicted > 0]
    log = len(positive) == len(predicted) and positive.max() / positive.min() > SPAN_FOR_LOG
    ends = extent([predicted, observed, high] if log else [predicted, low, high], log, pad=0.05)
    ends = ends if log else (max(ends[0], 0.0), ends[1])
    size = WIDTH - 60
    y = Scale(*ends, size + 10, 10, log)
    left = left_margin(y, 5)
    frame = Frame(Scale(*ends, left, WIDTH - 8, log), y, height=size + 34)
    xs, ys = frame.x(predicted), np.clip(frame.y(observed), 10, size + 5)
    wide = Markup('<path class="whisker s{}" d="M{:.1f} {:.1f}V{:.1f}"/>')
    shape = Markup('<circle class="{} {}{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>')
    radius = 2.5 + 2 * np.sqrt(weight / weight.max())
    whiskers = [wide.format(colour, x, a, b) for x, a, b in zip(xs, frame.y(low), frame.y(high), strict=True)]
    # A bin without a positive has no place on a logarithmic axis: a ring at the bottom.
    dots = [
        shape.format(*(("dot", "f", colour) if o > 0 or not log else ("hollow", "s", colour)), x, y_, r)
        for x, y_, r, o in zip(xs, ys, radius, observed, strict=True)
    ]
    diagonal = Markup('<path class="rule" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
        frame.x.start, frame.y.start, frame.x.end, frame.y.end
    )

    def words(i: int) -> str:
        between = f"{significant(low[i])}–{significant(high[i])}"
        said = f"predicted {significant(predicted[i])}\nobserved {significant(observed[i])} ({between})"
        return f"{said}\n{plural(weight[i], 'row')}"

    inside = clipped(frame, join([diagonal, *whiskers, *dots]))
    name = Markup('<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>')
    names = name.format("", left + 6, 20, "observed") + name.format("e", WIDTH - 12, size + 2, "predicted")
    parts = [frame.grid("", 5), inside, names, hits(frame, xs, words)]
    return Figure(title, svg(title, parts, size + 34), (), value, note)


def wilson(share: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of observed shares of `rows` rows (Wilson 1927); right where the normal one is below 0."""
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * np.sqrt(share * (1 - share).clip(min=0) / rows + Z**2 / (4 * rows**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


# ---------------------------------------------------------------------------------------------------------- histograms
def histogram(
    title: str, edges: Sequence[float], counts: Sequence[float], colour: int, x_label: str, of: str = ""
) -> Figure | None:
    """Shares between edges, and the mean; `counts` are of `of`, or, without a word for it, shares of rows."""
    if len(edges) != len(counts) + 1 or not counts or not math.isfinite(total := sum(counts)) or total <= 0:
        return None
    height, share = 168, 100 * np.array(counts) / total
    y = Scale(0.0, float(share.max()) * 1.08, height - 24, 10)
    frame = Frame(Scale(float(edges[0]), float(edges[-1]), left_margin(y, 3, "%"), WIDTH - 8), y, height)
    xs, tops = frame.x(np.array(edges)), frame.y(share)
    gap = 1.0 if (xs[1:] - xs[:-1]).min() > 4 else 0.0
    bar = Markup('<rect class="bar f{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    bars = [
        bar.format(colour, a, top, max(b - a - gap, 0.5), y.start - top)
        for a, b, top in zip(xs[:-1], xs[1:], tops, strict=True)
    ]
    middles = (np.array(edges[1:]) + np.array(edges[:-1])) / 2
    mean = float((middles * share).sum()) / 100
    at = Markup('<path class="mark" d="M{0:.1f} {1:.1f}V{2:.1f}"/>').format(frame.x(mean), y.start, y.end)

    def words(i: int) -> str:
        return f"{significant(edges[i])} to {significant(edges[i + 1])}\n{fixed(share[i], 1)} %"

    tips = hits(frame, frame.x(middles), words, most=len(counts))
    parts = [frame.grid(x_label, 3, "%"), *bars, at, tips]
    return Figure(
        title, svg(title, parts, height), (), f"mean {significant(mean)}", f"{count(total)} {of}" if of else ""
    )


# ---------------------------------------------------------------------------------------------------------------- bars
@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    words: str


def bars(title: str, rows: Sequence[Bar], note: str = "") -> Figure:
    """Horizontal bars from 0, their values at their ends."""
    left = min(max(CHAR * len(row.name) for row in rows) + 8, 120)
    right = max(CHAR * len(row.words) for row in rows) + 8
    x = Scale(0.0, max((row.value for row in rows), default=0) or 1.0, left, WIDTH - right)
    parts = []
    shape = Markup(
        '<text class="" x="0" y="{y:.1f}">{name}</text>'
        '<rect class="bar f1" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="12"/>'
        '<text class="value" x="{end:.1f}" y="{y:.1f}">{words}</text>'
    )
    for i, row in enumerate(rows):
        y, width = 14 + 22 * i, max(float(x(row.value)) - left, 1.0)
        name = shortened(row.name, left - 4)
        parts.append(
            shape.format(y=y, name=name, left=left, top=y - 9.5, width=width, end=left + width + 6, words=row.words)
        )
    return Figure(title, svg(title, parts, 22 * len(rows) + 2), note=note)


# ----------------------------------------------------------------------------------------------------------- intervals
@dataclass(frozen=True)
class Whisker:
    """A value with its interval, and a second number beside it."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    beside: str
    words: str


def whiskers(title: str, rows: Sequence[Whisker], heads: tuple[str, str], whole: float | None, colour: int) -> Figure:
    """A row each: name, value on a common axis against the `whole`'s value, and both numbers."""
    # The interval of a value with a handful of positives may span everything; it is cut rather than rule the axis.
    values = np.array([row.value for row in rows if known(row.value)] + ([whole] if known(whole) else []))
    low, high = extent([values, *_typical(rows)], pad=0.12)
    left, right = min(max(CHAR * len(row.name) for row in rows), 96) + 10, 104
    height = 18 + 22 * len(rows) + 22
    frame = Frame(Scale(low, high, left, WIDTH - right), Scale(0, 1, height - 22, 18), height)
    parts = [frame.x_axis("", 3)]
    if known(whole):
        at = float(frame.x(whole))
        parts.append(Markup('<path class="rule" d="M{:.1f} 16V{:.1f}"/>').format(at, height - 22))
    ends = WIDTH - 46, WIDTH
    head = Markup('<text class="head e" x="{}" y="9">{}</text>')
    parts += [head.format(x, text) for x, text in zip(ends, heads, strict=True)]
    parts += [_whisker(frame, row, 33 + 22 * i, left, ends, colour) for i, row in enumerate(rows)]
    return Figure(title, svg(title, parts, height), (Key("all rows", 0, fixed(whole), "rule"),) if known(whole) else ())


def _typical(rows: Sequence[Whisker]) -> list[float]:
    """The ends of the intervals that are not more than three times as wide as the median one."""
    bounded = [row for row in rows if known(row.low) and known(row.high)]
    if not bounded:
        return []
    usual = 3 * float(np.median([row.high - row.low for row in bounded]))
    return [end for row in bounded if row.high - row.low <= usual for end in (row.low, row.high)]


def _whisker(frame: Frame, row: Whisker, y: float, left: float, ends: tuple[float, float], colour: int) -> Markup:
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
    parts = [text.format("", 0, y, shortened(row.name, left - 6))]
    parts += [text.format("value e", ends[0], y, fixed(row.value)), text.format("value e", ends[1], y, row.beside)]
    if known(row.value):
        x = np.clip(frame.x(row.value), frame.x.start, frame.x.end)
        if known(row.low) and known(row.high):
            a, b = np.clip(frame.x(np.array([row.low, row.high])), frame.x.start, frame.x.end)
            parts.append(Markup('<path class="whisker s{}" d="M{:.1f} {:.1f}H{:.1f}"/>').format(colour, a, y - 4, b))
        parts.append(Markup('<circle class="dot f{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(colour, x, y - 4))
    hit = Markup('<rect class="hit" x="0" y="{:.1f}" width="{}" height="22"><title>{}</title></rect>')
    return join(parts) + hit.format(y - 15, WIDTH, row.words)


def ruler(value: float, low: float | None, high: float | None, ceiling: float | None, colour: int) -> Markup:
    """An AUC between chance (0.5) and 1, with its interval and what can be reached at most."""
    width, height = 330, 34
    x = Scale(0.5, 1.0, 4, width - 4)
    at = float(np.clip(x(value), 4, width - 4))
    parts = [Markup('<rect class="rail" x="4" y="9" width="{}" height="8" rx="4"/>').format(width - 8)]
    parts.append(
        Markup('<rect class="bar f{}" x="4" y="9" width="{:.1f}" height="8" rx="4"/>').format(
            tone(colour), max(at - 4, 1)
        )
    )
    if known(low) and known(high):
        a, b = np.clip(x(np.array([low, high])), 4, width - 4)
        parts.append(Markup('<path class="span" d="M{0:.1f} 6V20M{0:.1f} 13H{1:.1f}M{1:.1f} 6V20"/>').format(a, b))
    text = Markup('<text class="{}" x="{:.1f}" y="32">{}</text>')
    parts.append(text.format("", 4, "0.5"))
    if known(ceiling):
        c = float(np.clip(x(ceiling), 4, width - 4))
        parts.append(Markup('<path class="ceiling" d="M{:.1f} 4V22"/>').format(c))
        anchor = "m" if 80 < c < width - 44 else "e"
        parts.append(text.format(anchor, c if anchor == "m" else width - 4, f"ceiling {fixed(ceiling, 3)}"))
    else:
        parts.append(text.format("e", width - 4, "1"))
    label = f"AUC {fixed(value)}, 95 % interval {interval(low, high)}, on a scale from 0.5 to 1"
    head = Markup('<svg class="ruler" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    return head + join(parts) + Markup("</svg>")
