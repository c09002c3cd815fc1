"""The pieces that every chart is drawn of. All text goes through Markup.format, which escapes it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dist_mtl.tools.report.axes import Scale

WIDTH = 348  # CSS pixels of a figure's inside where three stand beside each other; on a phone it is about 326
HEIGHT = 200
COLOURS = 8
CHAR = 6.8  # pixels of a character at the size of ticks, of the wider fonts that system-ui may be


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart: two scales, and the size of the whole."""

    x: Scale
    y: Scale
    height: float = HEIGHT

    def grid(self, x_label: str, ticks: int = 4, suffix: str = "") -> Markup:
        """Horizontal grid lines, and the words of both axes; `suffix` is the unit of the vertical one."""
        ys = self.y.ticks(ticks)
        line = Markup(
            '<path class="rung" d="M{0:.1f} {1:.1f}H{2:.1f}"/><text class="e" x="{3:.1f}" y="{4:.1f}">{5}</text>'
        )
        parts = [
            line.format(self.x.start, pixel, self.x.end, self.x.start - 6, pixel + 3.5, text + suffix)
            for pixel, text in zip(self.y(ys), self.y.labels(ys), strict=True)
        ]
        return join(parts) + self.x_axis(x_label)

    def x_axis(self, label: str, ticks: int = 4) -> Markup:
        """The baseline, its ticks, and at its right end the name of the axis; ticks make room for it."""
        base, xs = max(self.y.start, self.y.end), self.x.ticks(ticks)
        parts = [Markup('<path class="base" d="M{:.1f} {:.1f}H{:.1f}"/>').format(self.x.start, base, self.x.end)]
        text_at = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
        room = self.x.end - CHAR * len(label) - 12 if label else WIDTH
        for pixel, text in zip(self.x(xs), self.x.labels(xs), strict=True):
            half = CHAR * len(text) / 2
            if pixel + half < room:
                parts.append(text_at.format("m", max(pixel, self.x.start - 4 + half), base + 15, text))
        return join([*parts, text_at.format("e", self.x.end, base + 15, label)])


def svg(title: str, parts: Iterable[Markup], height: float = HEIGHT) -> Markup:
    """One drawing; `title` is what a screen reader says."""
    head = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(WIDTH, height, title)
    return head + join(parts) + Markup("</svg>")


def join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def left_margin(y: Scale, ticks: int = 4, suffix: str = "") -> float:
    """Room for the words of the vertical axis."""
    return 10 + CHAR * (len(suffix) + max((len(text) for text in y.labels(y.ticks(ticks))), default=1))


def tone(colour: int) -> int:
    """A colour of the palette, 1..COLOURS; more series than colours begin again."""
    return (colour - 1) % COLOURS + 1


def path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Straight lines through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def ring(xs: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The area between two lines."""
    return path(np.concatenate([xs, xs[::-1]]), np.concatenate([high, low[::-1]])) + "Z"


def hits(frame: Frame, xs: np.ndarray, words: Callable[[int], str], most: int = 48) -> Markup:
    """Invisible columns over the plot, whose tooltips tell the nearest point. `xs` in pixels, ascending."""
    if not len(xs):
        return Markup("")
    n = min(most, len(xs))
    chosen = np.unique(np.linspace(0, len(xs) - 1, n).round().astype(int))
    middle = xs[chosen]
    edges = np.concatenate([[frame.x.start], (middle[1:] + middle[:-1]) / 2, [frame.x.end]])
    top, base = sorted((frame.y.start, frame.y.end))
    shape = Markup('<rect class="hit" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    return join(
        shape.format(a, top, max(b - a, 0.1), base - top, words(int(k)))
        for a, b, k in zip(edges[:-1], edges[1:], chosen, strict=True)
    )


def clipped(frame: Frame, content: Markup) -> Markup:
    """`content`, cut at the edges of the plot: a nested drawing needs no id, which would have to be unique."""
    top, base = sorted((frame.y.start, frame.y.end))
    box = frame.x.start, top, frame.x.end - frame.x.start, base - top
    # Half a line's width of air, so that a line along the edge is not halved.
    x, y, w, h = box[0] - 4, box[1] - 2, box[2] + 8, box[3] + 4
    head = Markup(
        '<svg x="{0:.1f}" y="{1:.1f}" width="{2:.1f}" height="{3:.1f}" viewBox="{0:.1f} {1:.1f} {2:.1f} {3:.1f}">'
    )
    return head.format(x, y, w, h) + content + Markup("</svg>")


def shortened(text: str, pixels: float) -> str:
    """`text` cut to fit, with an ellipsis."""
    room = math.floor(pixels / CHAR)
    return text if len(text) <= room else text[: max(room - 1, 1)] + "…"
