"""One training step over all ranks: forward, all-rank finite check, backward with the fused update, dense update."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.errors import NonFiniteError
from dist_mtl.parallel.collectives import Collectives
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.stopwatch import Stopwatch


class Objective(Protocol):
    """What a step minimises: a sum of terms, each a function of the global batch."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the L terms."""

    def totals(self, batch: Batch) -> Tensor:
        """(M,) float64: sums over this rank's rows that a share needs of all rows."""

    def shares(self, outputs: Any, batch: Batch, totals_M: Tensor, ranks: Collectives) -> tuple[Tensor, Tensor]:
        """(L,), (): this rank's share of each term, and of the loss, given the totals over all ranks."""

    def statistics(self, outputs: Any, batch: Batch, totals_M: Tensor, ranks: Collectives) -> dict[str, Any]:
        """What a diagnosis tells of the step, the same on every rank. Asked for before `shares`."""


@dataclass(frozen=True)
class Outcome:
    """What a step left; terms and loss are those of the global batch, equal on every rank, float64, on the CPU."""

    step: int
    terms_L: Tensor
    loss: float
    outputs: Any  # of this rank's rows, as the weights before the step gave them
    statistics: dict[str, Any] | None  # only where they were asked for


def train_step(
    model: ShardedModel,
    objective: Objective,
    batch: Batch,
    rt: Runtime,
    watch: Stopwatch | None = None,
    diagnose: bool = False,
) -> Outcome:
    """Train one batch; `watch` takes the times of its phases. `diagnose`: the same on every rank.

    Raises NonFiniteError on every rank, before any weight has changed, if a term or the loss is not finite.
    """
    watch, ranks = watch or Stopwatch(), Collectives.of(rt)
    batch = batch.to(rt.device)
    totals_M = rt.all_reduce(objective.totals(batch)).float()
    model.set_rates(batch.step)
    model.optimizer.zero_grad()  # also hands a changed learning rate to the fused kernel
    outputs = model.module(batch)
    statistics = None
    if diagnose:
        watch.lap("forward")
        statistics = objective.statistics(outputs, batch, totals_M, ranks)
        watch.lap("diagnosis")
    terms_L, loss = objective.shares(outputs, batch, totals_M, ranks)
    watch.lap("forward")
    found = torch.cat([terms_L.detach(), loss.detach()[None]]).double()
    all_ranks_found = rt.all_reduce(found).cpu()
    if not bool(all_ranks_found.isfinite().all()):
        raise _not_finite(batch.step, dict(zip((*objective.names, "loss"), all_ranks_found.tolist(), strict=True)))
    watch.lap("agree")
    # The share is a part of a sum over ranks, but gradients are averaged over ranks: hence the factor.
    (loss * rt.size).backward()
    watch.lap("backward")
    model.optimizer.step()
    watch.lap("update")
    return Outcome(batch.step, all_ranks_found[:-1], float(all_ranks_found[-1]), outputs, statistics)


def _not_finite(step: int, losses: dict[str, float]) -> NonFiniteError:
    told = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    error = NonFiniteError(
        f"step {step}: the losses are {told}; no weight was changed by this step. Lower optim.dense.lr and "
        f"optim.embedding.lr, or look for extreme values among the dense features"
    )
    error.all_ranks = True
    return error
