"""Means over steps."""

import math


class Mean:
    """Means of several values over steps, each step with the weight of its rows. All NaN without weight."""

    def __init__(self, count: int) -> None:
        self._means, self._total = [math.nan] * count, 0.0

    def add(self, values: list[float], weight: float) -> None:
        """Count a step. The mean of a single one is its value to the bit."""
        if not weight:
            return
        self._total += weight
        before = [0.0] * len(values) if self._total == weight else self._means
        share = weight / self._total
        self._means = [old + (new - old) * share for old, new in zip(before, values, strict=True)]

    def take(self) -> list[float]:
        """The means, which begin anew."""
        taken, self._total = self._means, 0.0
        self._means = [math.nan] * len(taken)
        return taken
