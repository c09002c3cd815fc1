"""Losses of the global batch: sums over this rank's rows, divided by totals over all ranks (R9).

A rank's share of `L = sum_i w_i l_i / sum_i w_i` needs the denominator of the whole batch; so every loss here takes
totals as an argument, and who reduces them over ranks is not this file's business.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.config import AITM, PICO, AdaFTR, Config, Counterfactual, FixedAlignment, ModelConfig, PWiseR
from dist_mtl.data.batch import Batch
from dist_mtl.model.alignment import AlignmentLoss
from dist_mtl.model.calibrator import Calibrator
from dist_mtl.model.counterfactual import CounterfactualLoss
from dist_mtl.model.diagnostics import gate_statistics, gradient_statistics, row_shares
from dist_mtl.model.heads import funnel, log1mexp
from dist_mtl.model.loss_balancing import resolve_conflicts, uncertainty
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.pairwise import PairwiseLoss
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.term import Statistics, Term


@dataclass(frozen=True)
class TaskObjective:
    """Weighted sum of one binary cross-entropy a task, over the rows of the task's space. By itself, the tasks alone.

    `clicked` trains task t on the rows whose label t-1 is set; the other heads train every task on all impressions.
    """

    head: Literal["ctcvr", "esmm", "clicked", "independent"]
    task_weights: tuple[float, ...]

    @classmethod
    def of(cls, spec: ModelConfig, num_tasks: int) -> "TaskObjective":
        """The objective that a configuration asks for."""
        return cls(spec.head, spec.task_weights or (1.0,) * num_tasks)

    def totals(self, batch: Batch) -> Tensor:
        """(T,) float64: weight of this rank's rows in each task's space."""
        return self.row_weights(batch).sum(dim=0, dtype=torch.float64)

    def shares(self, outputs: Outputs, batch: Batch, totals_T: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(T,), (): this rank's share of each task's loss and of their sum."""
        losses_T = self.losses(outputs, batch, self.row_weights(batch), totals_T)
        return losses_T, losses_T.sum()

    def row_weights(self, batch: Batch) -> Tensor:
        """(B, T): the weight of each row in each task's loss, 0 outside the task's space."""
        weights_BT = batch.weight_B[:, None].expand_as(batch.labels_BT)
        if self.head != "clicked":
            return weights_BT
        return weights_BT * torch.cat([torch.ones_like(batch.labels_BT[:, :1]), batch.labels_BT[:, :-1]], dim=1)

    def losses(self, outputs: Outputs, batch: Batch, weights_BT: Tensor, totals_T: Tensor) -> Tensor:
        """(T,): this rank's share of each task's mean loss over the global batch; the ranks' shares add up to it.

        A task without a row in the global batch has an exact zero with a gradient of zero: no rank may leave a
        parameter out of a collective.
        """
        if self.head == "esmm":
            joint_BT = funnel(outputs.logits_BT, self.head).joint_BT
            losses_BT = -torch.where(batch.labels_BT > 0, joint_BT, log1mexp(joint_BT))
        else:
            losses_BT = functional.binary_cross_entropy_with_logits(
                outputs.logits_BT, batch.labels_BT, reduction="none"
            )
        sums_T = (losses_BT * weights_BT).sum(dim=0)
        scale_T = torch.where(totals_T > 0, 1 / totals_T, 0.0) * totals_T.new_tensor(self.task_weights)
        return sums_T * scale_T


@dataclass(frozen=True)
class Objective:
    """Everything that a configuration minimises: the tasks, balanced, and the terms that are switched on beside them.

    Terms are reported as they are, before their factors; a task's has its fixed weight in it.
    """

    model: ModelConfig
    labels: tuple[str, ...]
    seed: int
    tasks: TaskObjective
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, config: Config) -> "Objective":
        """The objective of a run."""
        model, labels = config.model, config.data.labels
        specs = (getattr(model, name) for name in ModelConfig.model_fields)
        terms = tuple(term for spec in specs if (term := _term(spec, config)) is not None)
        terms += tuple(loss(config) for loss in config.extensions.losses)
        return cls(model, labels, config.seed, TaskObjective.of(model, len(labels)), terms)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers: the labels, then those of the terms."""
        return (*self.labels, *(name for term in self.terms for name in term.names))

    def totals(self, batch: Batch) -> Tensor:
        """(M,) float64: weight of this rank's rows in each task's space, of all of them, and what the terms sum."""
        sums = [self.tasks.totals(batch), batch.weight_B.sum(dtype=torch.float64)[None]]
        return torch.cat([*sums, *(term.totals(batch) for term in self.terms)])

    def shares(self, outputs: Outputs, batch: Batch, totals_M: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(L,), (): this rank's share of each number, and of the loss. `totals_M`: of all ranks.

        Which collectives run depends on the configuration and the step alone, never on the rows.
        """
        num = len(self.labels)
        tasks_T, loss = self.tasks.shares(outputs, batch, totals_M[:num], ranks)
        found, total = [tasks_T], totals_M[num]
        if self.model.balance == "uncertainty":
            loss = uncertainty(tasks_T, outputs.training.log_variances_T, totals_M[:num], ranks)
        first = num + 1
        for term in self.terms:
            shares_L = term.shares(outputs, batch, total, totals_M[first : first + term.num_totals], ranks)
            found.append(shares_L)
            loss = loss + (shares_L * shares_L.new_tensor(term.factors(batch.step))).sum()
            first += term.num_totals
        if self.model.balance == "pcgrad":
            resolve_conflicts(tasks_T, outputs.shared_BI, ranks, self.seed, batch.step)
        return torch.cat(found) if len(found) > 1 else tasks_T, loss

    def statistics(self, outputs: Outputs, batch: Batch, totals_M: Tensor, ranks: Ranks) -> Statistics:
        """What a diagnosis shows, see `model/diagnosis.py`. Before `shares`, whose hook would act on the gradients."""
        num = len(self.labels)
        tasks_T, _ = self.tasks.shares(outputs, batch, totals_M[:num], ranks)
        share_B = row_shares(batch, totals_M[num])
        found = gradient_statistics(self.labels, tasks_T, outputs.shared_BI, ranks)
        found |= gate_statistics(self.labels, outputs.gates, share_B, ranks)
        for term in self.terms:
            found |= term.statistics(self.labels, outputs, batch, share_B, ranks)
        return found


def _term(spec: object, config: Config) -> Term | None:
    """The term that a part of the model's configuration asks for, if it does."""
    model, labels = config.model, config.data.labels
    match spec:
        case AITM() if model.calibrator:
            return Calibrator(model.calibrator)
        case Counterfactual():
            return CounterfactualLoss(spec, labels)
        case FixedAlignment() | PICO() | AdaFTR():
            return AlignmentLoss.of(spec, labels, config.seed)
        case PWiseR():
            return PairwiseLoss.of(spec, model)
    return None
