"""Metrics of the rows that were trained last, before each was learned from: what a status line shows.

A sliding window of PARTS parts; a part ends with a status line. Integer sums throughout, so that a run that was killed
in the middle of a part and started again tells the same bits.
"""

import torch
from torch import Tensor

from dist_mtl.metrics.histogram import ROUGH, LogitHistogram
from dist_mtl.metrics.task import TaskMetrics, compute
from dist_mtl.parallel.runtime import Runtime

PARTS = 5  # of 0.21 MB a task (0.43 if rows are weighted), here and in every commit
NAMES = ("bins", "sums", "squares")  # of a histogram's tensors, in a commit


class TrainingWindow:
    """`part` counts this rank's rows since the last status line, `closed_*` those of all ranks in the parts before."""

    def __init__(self, num_tasks: int, rt: Runtime, weighted: bool = False) -> None:
        self._rt, self._weighted = rt, weighted
        self._part = LogitHistogram(num_tasks, rt.device, ROUGH, weighted)
        self._names = NAMES[: len(self._part.tensors)]
        self._closed = [torch.zeros(PARTS, *t.shape, dtype=t.dtype, device=rt.device) for t in self._part.tensors]

    def update(self, logits_BM: Tensor, labels_BM: Tensor, weights_BM: Tensor) -> None:
        """Add this rank's rows of a step."""
        self._part.update(logits_BM, labels_BM, weights_BM)

    def close_part(self) -> list[TaskMetrics]:
        """End the part and tell every task's metrics over the window. Collective; the same on every rank."""
        for closed, part in zip(self._closed, self._part.tensors, strict=True):
            closed.copy_(closed.roll(1, dims=0))
            closed[0] = self._rt.all_reduce(part)
            part.zero_()
        whole = LogitHistogram(len(self._part.bins_M2K), self._rt.device, ROUGH, self._weighted)
        for sums, closed in zip(whole.tensors, self._closed, strict=True):
            sums += closed.sum(dim=0)
        return compute(whole)

    def state(self) -> dict[str, Tensor]:
        """Everything, of all ranks, as tensors for a commit. Collective."""
        parts = [self._rt.all_reduce(part.clone()) for part in self._part.tensors]
        open_ = {f"open_{name}": part for name, part in zip(self._names, parts, strict=True)}
        return open_ | {f"closed_{name}": closed for name, closed in zip(self._names, self._closed, strict=True)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a `state()`: the open part becomes the first rank's, whatever the world size was."""
        for name, part, closed in zip(self._names, self._part.tensors, self._closed, strict=True):
            part.copy_(state[f"open_{name}"] if self._rt.world.is_first else torch.zeros_like(part))
            closed.copy_(state[f"closed_{name}"])
