"""Losses of the global batch: sums over this rank's rows, divided by totals over all ranks (R9).

A rank's share of `L = sum_i w_i l_i / sum_i w_i` needs the denominator of the whole batch; so every loss here takes
`totals_T` as an argument, and who reduces it over ranks is not this file's business.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.config import ModelConfig
from dist_mtl.data.batch import Batch
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.tower import funnel, log1mexp


@dataclass(frozen=True)
class TaskObjective:
    """Weighted sum of one binary cross-entropy a task, over the rows of the task's space.

    `clicked` trains task t on the rows whose label t-1 is set; the other heads train every task on all impressions.
    """

    head: Literal["ctcvr", "esmm", "clicked"]
    task_weights: tuple[float, ...]

    @classmethod
    def of(cls, spec: ModelConfig, num_tasks: int) -> "TaskObjective":
        """The objective that a configuration asks for."""
        return cls(spec.head, spec.task_weights or (1.0,) * num_tasks)

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
