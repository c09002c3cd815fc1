"""One training step over all ranks: forward, backward down to the tables, an agreement of all ranks, the update."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.errors import NonFiniteError
from dist_mtl.parallel.collectives import Collectives
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.step_timer import Stopwatch

ADVICE = (
    "Lower optim.dense.lr and optim.embedding.lr, or look for extreme values among the dense features; "
    "train.skip_nonfinite lets a run do without some steps"
)


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
class Share:
    """A rank's own part in a step whose values are not all finite."""

    losses: dict[str, float]  # its share of each term and of the loss
    gradient: float  # norm at its rows' pooled embeddings

    @property
    def is_finite(self) -> bool:
        return all(torch.tensor([*self.losses.values(), self.gradient], dtype=torch.float64).isfinite().tolist())


@dataclass(frozen=True)
class Flaw:
    """Why a step was not trained: the losses of the global batch, each rank's part in it. The same on every rank."""

    losses: dict[str, float]
    shares: tuple[Share, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those that saw a value that is not finite; empty if only a sum over the ranks is none."""
        return tuple(rank for rank, share in enumerate(self.shares) if not share.is_finite)

    def told(self, step: int) -> str:
        """In words."""
        losses = ", ".join(f"{name} {value:g}" for name, value in self.losses.items())
        where = f"on rank {', '.join(map(str, self.ranks))}" if self.ranks else "once summed over the ranks"
        gradient = max((share.gradient for share in self.shares), key=lambda norm: (norm != norm, norm))
        return (
            f"step {step}: the losses are {losses}, the largest norm of a gradient {gradient:g}; not finite {where}. "
            f"The step was not trained"
        )


@dataclass(frozen=True)
class Outcome:
    """What a step left; terms and loss are those of the global batch, equal on every rank, float64, on the CPU."""

    step: int
    terms_L: Tensor
    loss: float
    weight: float  # of the global batch's rows
    outputs: Any  # of this rank's rows, as the weights before the step gave them
    statistics: dict[str, Any] | None  # only where they were asked for
    flaw: Flaw | None = None  # then nothing was trained
    stop: bool = False  # a rank was asked to stop


def train_step(
    model: ShardedModel,
    objective: Objective,
    batch: Batch,
    rt: Runtime,
    watch: Stopwatch | None = None,
    diagnose: bool = False,
    tolerant: bool = False,
    skipped: int = 0,
) -> Outcome:
    """Train one batch; `watch` takes the times of its phases. `diagnose`, `tolerant`, `skipped` (steps before this one
    that were left untrained): the same on every rank.

    If a term, the loss, or a gradient of a dense weight or of the pooled embeddings is not finite, every rank raises
    NonFiniteError, or, if `tolerant`, returns with a flaw. Weights, optimizer states and counts are then as they were.
    """
    watch, ranks = watch or Stopwatch(), Collectives.of(rt)
    rt.watchdog.alive("training", batch.step)
    batch = batch.to(rt.device)
    totals_M = rt.all_reduce(objective.totals(batch)).float()
    model.begin(batch.step, skipped)
    model.ahead.watch = watch if watch.is_detailed else None
    if rt.size > 2 and not model.cut.is_laid_out:
        _lay_out(model, objective, batch, totals_M, rt)
        model.begin(batch.step, skipped)  # a kernel of the Adam family has counted that lookup
    outputs = model.cut.forward(batch)
    model.ahead.advance()
    statistics = None
    if diagnose:
        watch.lap("forward")
        statistics = objective.statistics(outputs, batch, totals_M, ranks)
        watch.lap("diagnosis")
    terms_L, loss = objective.shares(outputs, batch, totals_M, ranks)
    watch.lap("forward")
    # The share is a part of a sum over ranks, but gradients are averaged over ranks: hence the factor.
    (loss * rt.size).backward()
    watch.lap("backward")
    mine = torch.cat([terms_L.detach(), loss.detach()[None]]).double()
    weight = batch.weight_B.sum(dtype=torch.float64)[None]
    flags = torch.stack([model.cut.is_bad(), torch.full((), rt.stop.signal is not None, device=rt.device)])
    *all_ranks_found, all_ranks_weight, all_ranks_bad, all_ranks_stop = rt.all_reduce(
        torch.cat([mine, weight, flags])
    ).cpu()
    found_M, stop = torch.stack(all_ranks_found), bool(all_ranks_stop)
    losses = found_M[:-1], float(found_M[-1])
    outcome = Outcome(batch.step, *losses, float(all_ranks_weight), outputs, statistics, stop=stop)
    watch.lap("agree")
    if bool(all_ranks_bad) or not bool(found_M.isfinite().all()):
        return _untrained(outcome, model, objective, mine, rt, tolerant)
    model.cut.backward()
    watch.lap("tables")
    model.optimizer.step()
    watch.lap("update")
    return outcome


def _lay_out(model: ShardedModel, objective: Objective, batch: Batch, totals_M: Tensor, rt: Runtime) -> None:
    """Do the upper half of a process's first step once for nothing.

    DDP lays its buckets of gradients out anew behind its first backward pass, and where a gradient stands decides the
    order in which more than two ranks are summed. So a run that goes on from a commit would differ in the last bits
    from one that was never stopped, whose buckets had their last layout at that step (measured on 4 ranks).
    """
    _, loss = objective.shares(model.cut.forward(batch), batch, totals_M, Collectives.of(rt))
    (loss * rt.size).backward()
    model.cut.undo()
    model.cut.is_laid_out = True
    model.optimizer.zero_grad()


def _untrained(
    outcome: Outcome, model: ShardedModel, objective: Objective, mine: Tensor, rt: Runtime, tolerant: bool
) -> Outcome:
    """The outcome with its flaw, which the ranks tell each other; an error unless `tolerant`."""
    names = (*objective.names, "loss")
    share = Share(dict(zip(names, mine.tolist(), strict=True)), model.cut.pooled_norm())
    whole = [*outcome.terms_L.tolist(), outcome.loss]
    flaw = Flaw(dict(zip(names, whole, strict=True)), tuple(rt.gather(share)))
    model.cut.undo()
    model.optimizer.zero_grad()
    if tolerant:
        return replace(outcome, flaw=flaw)
    error = NonFiniteError(f"{flaw.told(outcome.step)}. {ADVICE}")
    error.all_ranks = True
    raise error
