"""Events -> series with few enough points to draw."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

MOST_POINTS = 400  # a chart is about 350 pixels wide; more points only make the file bigger


@dataclass(frozen=True)
class Series:
    """A line: y over x, both (N,), x ascending; optionally an interval `low`..`high` around it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    colour: int = 1


def series(name: str, points: Iterable[tuple], colour: int = 1) -> Series | None:
    """A series of (x, y) or (x, y, low, high); rows with an unknown y are left out. None where nothing is left.

    A row whose interval is unknown has the interval of no width.
    """
    rows = [row for row in points if row[1] is not None]
    if not rows:
        return None
    table = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)
    table = table[np.isfinite(table[:, 1])]
    if not len(table):
        return None
    x, y = table[:, 0], table[:, 1]
    if table.shape[1] == 2:
        return Series(name, x, y, colour=colour)
    low, high = (np.where(np.isfinite(bound), bound, y) for bound in (table[:, 2], table[:, 3]))
    return Series(name, x, y, low, high, colour)


def thin(one: Series, most: int = MOST_POINTS) -> Series:
    """At most `most` points; the first, the last, and the lowest and highest of every bucket stay."""
    keep = kept(one.y, most)
    bounds = {name: None if v is None else v[keep] for name, v in (("low", one.low), ("high", one.high))}
    return replace(one, x=one.x[keep], y=one.y[keep], **bounds)


def kept(y: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Positions that `thin` keeps, ascending."""
    n = len(y)
    if n <= most:
        return np.arange(n)
    edges = np.linspace(0, n, max(most // 2 - 1, 1) + 1).astype(int)
    found = {0, n - 1}
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        found |= {int(a + y[a:b].argmin()), int(a + y[a:b].argmax())}
    return np.array(sorted(found))


def smooth(one: Series, share: float = 0.04) -> Series:
    """The moving mean over `share` of the points, centred where there are as many on both sides."""
    n, at = len(one.y), np.arange(len(one.y))
    half = max(int(n * share / 2), 1)
    first, end = np.maximum(at - half, 0), np.minimum(at + half + 1, n)
    sums = np.concatenate([[0.0], np.cumsum(one.y)])
    return replace(one, y=(sums[end] - sums[first]) / (end - first), low=None, high=None)
