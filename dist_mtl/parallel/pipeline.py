"""One training step over all ranks: forward, all-rank finite check, backward with the fused update, dense update."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.errors import NonFiniteError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.stopwatch import Stopwatch


class Objective(Protocol):
    """What a step minimises: the sum of a few terms, each a function of the global batch."""

    def row_weights(self, batch: Batch) -> Tensor:
        """(B, T): the weight of each row in each term."""

    def losses(self, outputs: object, batch: Batch, weights_BT: Tensor, totals_T: Tensor) -> Tensor:
        """(T,): this rank's share of each term, given the weights' totals over all ranks."""


@dataclass(frozen=True)
class Outcome:
    """What a step left: the global losses and totals of weight, equal on every rank; float64, on the CPU."""

    step: int
    losses_T: Tensor
    totals_T: Tensor
    outputs: Any  # of this rank's rows, as the weights before the step gave them


def train_step(
    model: ShardedModel, objective: Objective, batch: Batch, rt: Runtime, watch: Stopwatch | None = None
) -> Outcome:
    """Train one batch; `watch` takes the times of its phases.

    Raises NonFiniteError on every rank, before any weight has changed, if a loss is not finite.
    """
    watch = watch or Stopwatch()
    batch = batch.to(rt.device)
    weights_BT = objective.row_weights(batch)
    totals_T = rt.all_reduce(weights_BT.sum(dim=0, dtype=torch.float64))
    model.set_rates(batch.step)
    model.optimizer.zero_grad()  # also hands a changed learning rate to the fused kernel
    outputs = model.module(batch)
    losses_T = objective.losses(outputs, batch, weights_BT, totals_T.float())
    watch.lap("forward")
    all_ranks_losses_T = rt.all_reduce(losses_T.detach().double()).cpu()
    if not bool(all_ranks_losses_T.isfinite().all()):
        raise _not_finite(batch.step, all_ranks_losses_T)
    watch.lap("agree")
    # The share is a part of a sum over ranks, but gradients are averaged over ranks: hence the factor.
    (losses_T.sum() * rt.size).backward()
    watch.lap("backward")
    model.optimizer.step()
    watch.lap("update")
    return Outcome(batch.step, all_ranks_losses_T, totals_T.cpu(), outputs)


def _not_finite(step: int, losses_T: Tensor) -> NonFiniteError:
    error = NonFiniteError(
        f"step {step}: the losses are {losses_T.tolist()}; no weight was changed by this step. Lower optim.dense.lr and "
        f"optim.embedding.lr, or look for extreme values among the dense features"
    )
    error.all_ranks = True
    return error
