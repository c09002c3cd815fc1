"""Where the time of a step goes, by the clock of the host."""

import time
from collections import defaultdict


class Stopwatch:
    """Seconds by phase since the last `take`. On CUDA: what the host waited for, not the kernels that it started."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._mark = time.monotonic()

    def lap(self, phase: str) -> None:
        """What passed since the last lap was `phase`."""
        now = time.monotonic()
        self._seconds[phase] += now - self._mark
        self._mark = now

    def take(self) -> dict[str, float]:
        """The seconds of every phase, which start anew."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds
