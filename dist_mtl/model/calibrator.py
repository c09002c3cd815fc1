"""AITM's calibrator (KDD 2021, arXiv 2105.08489): a penalty on predictions that contradict the funnel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.term import Term


@dataclass(frozen=True)
class Calibrator(Term):
    """The penalty with its weight."""

    weight: float
    names: tuple[str, ...] = ("calibrator",)

    def factors(self, step: int) -> tuple[float, ...]:
        return (self.weight,)

    def shares(self, outputs: Outputs, batch: Batch, total: Tensor, totals_K: Tensor, ranks: Ranks) -> Tensor:
        return calibrator(outputs.logits_BT, batch.weight_B, total)[None]


def calibrator(logits_BT: Tensor, weight_B: Tensor, total: Tensor) -> Tensor:
    """This rank's share of sum_t mean_i max(p_t - p_{t-1}, 0) over the global batch, p_t = P(label t).

    For head `ctcvr`, whose towers may contradict the funnel; behind the others p_t can not exceed p_{t-1}. `total`: the
    rows' weight over all ranks. Without a second label, or without weight, an exact zero with a zero gradient.
    """
    p_BT = torch.sigmoid(logits_BT)
    excess_B = torch.relu(p_BT[:, 1:] - p_BT[:, :-1]).sum(dim=1)
    return (excess_B * weight_B).sum() * torch.where(total > 0, 1 / total, 0.0)
