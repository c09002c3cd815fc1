"""One training step over all ranks: forward, all-rank finite check, backward with the fused update, dense update."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.errors import NonFiniteError
from dist_mtl.parallel.collectives import Collectives
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

Statistics = dict[str, float | list[float]]


class Objective(Protocol):
    """What a step minimises: terms, each a function of the global batch, and the loss that is made of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the L terms."""

    def totals(self, batch: Batch) -> Tensor:
        """(M,) float64: this rank's part of the totals of weight that the terms are divided by."""

    def shares(self, outputs: object, batch: Batch, totals_M: Tensor, ranks: Collectives) -> tuple[Tensor, Tensor]:
        """(L,), (): this rank's share of each term and of the loss, given the totals over all ranks."""

    def statistics(self, outputs: object, batch: Batch, totals_M: Tensor, ranks: Collectives) -> Statistics:
        """What a diagnosis shows of a step, the same on every rank. Called before `shares`."""


@dataclass(frozen=True)
class Outcome:
    """What a step left: the global terms and totals of weight, equal on every rank; float64, on the CPU."""

    step: int
    losses_T: Tensor  # one for each of `Objective.names`
    totals_M: Tensor
    statistics: Statistics | None  # None unless they were asked for


def train_step(model: ShardedModel, objective: Objective, batch: Batch, rt: Runtime, diagnose: bool = False) -> Outcome:
    """Train one batch. Raises NonFiniteError on every rank, before any weight has changed, if a loss is not finite.

    `diagnose` must be the same on every rank.
    """
    batch = batch.to(rt.device)
    ranks = Collectives.of(rt)
    totals_M = rt.all_reduce(objective.totals(batch))
    model.set_rates(batch.step)
    model.optimizer.zero_grad()  # also hands a changed learning rate to the fused kernel
    outputs = model.module(batch)
    statistics = objective.statistics(outputs, batch, totals_M.float(), ranks) if diagnose else None
    shares_L, loss = objective.shares(outputs, batch, totals_M.float(), ranks)
    all_ranks = rt.all_reduce(torch.cat([shares_L.detach(), loss.detach()[None]]).double()).cpu()
    if not bool(all_ranks.isfinite().all()):
        raise _not_finite(batch.step, dict(zip(objective.names, all_ranks.tolist(), strict=False)))
    # The share is a part of a sum over ranks, but gradients are averaged over ranks: hence the factor.
    (loss * rt.size).backward()
    model.optimizer.step()
    return Outcome(batch.step, all_ranks[:-1], totals_M.cpu(), statistics)


def _not_finite(step: int, terms: dict[str, float]) -> NonFiniteError:
    told = ", ".join(f"{name} {value}" for name, value in terms.items())
    error = NonFiniteError(
        f"step {step}: the losses are {told}; no weight was changed by this step. Lower optim.dense.lr and "
        f"optim.embedding.lr, or look for extreme values among the dense features"
    )
    error.all_ranks = True
    return error
