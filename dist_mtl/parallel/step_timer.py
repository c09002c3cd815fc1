"""Where the time of a step goes, by the clock of the host."""

import time
from collections import defaultdict

import torch


class Stopwatch:
    """Seconds by phase since the last `take`. On CUDA: what the host waited for, not the kernels that it started.

    With `device` a lookup is split into its parts, and each lap waits for that device: which costs the overlap that
    makes a step fast.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.is_detailed = device is not None
        self._waits = device is not None and device.type == "cuda"
        self._mark = time.monotonic()

    def lap(self, phase: str) -> None:
        """What passed since the last lap was `phase`."""
        if self._waits:
            torch.cuda.synchronize()
        now = time.monotonic()
        self._seconds[phase] += now - self._mark
        self._mark = now

    def take(self) -> dict[str, float]:
        """The seconds of every phase, which start anew."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds
