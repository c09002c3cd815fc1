"""AITM (KDD 2021, arXiv 2105.08489): each task's bottom is told what the task before it found, along the funnel."""

import math

import torch
from torch import Tensor, nn

from dist_mtl.config import AITM
from dist_mtl.model.experts import TaskInputs
from dist_mtl.model.layers import MLP, Noise, ParallelMLP

# A score is quadratic in u and has no bound: at the benchmark's shape leads reach 128 in 40 steps; the other weight and
# its gradients are then denormal, and a product with them takes 30 x its time on a CPU (measured). At 15 it is 3e-7.
LARGEST_LEAD = 15.0


class AITMBackbone(nn.Module):
    """z_0 = q_0, z_t = transfer(z_{t-1}, q_t), with q_t = MLP_t(x): z_t is the input of tower t."""

    def __init__(self, spec: AITM, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.bottoms = ParallelMLP(num_tasks, inputs, spec.hidden, rate)
        self.outputs = self.bottoms.outputs
        self.transfers = nn.ModuleList(Transfer(self.outputs, rate) for _ in range(num_tasks - 1))

    def forward(self, x_BI: Tensor, noise: Noise | None) -> TaskInputs:
        first, *rest = self.bottoms(x_BI, noise)
        by_task, weights = [first], []
        for transfer, own_BO in zip(self.transfers, rest, strict=True):
            z_BO, weights_B2 = transfer(by_task[-1], own_BO, noise)
            by_task.append(z_BO)
            weights.append(weights_B2)
        return TaskInputs(by_task, {"transfer": torch.stack(weights, dim=1)} if weights else {})


class Transfer(nn.Module):
    """Attention over the pair {info from the task before, own}: sum_u w_u V u, w = softmax_u((K u . Q u) / sqrt(O)).

    Query and key are of the same u, as in the paper: an attention without a partner, which says how much of each to
    take. V, K and Q of both are one product.
    """

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.info = MLP(width, (width,), rate)
        self.projections = nn.Linear(width, 3 * width, bias=False)

    def forward(self, before_BO: Tensor, own_BO: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """(z (B, O), the weights (B, 2) of the transferred and of the own representation)."""
        pair_B2O = torch.stack([self.info(before_BO, noise), own_BO], dim=1)
        values, keys, queries = self.projections(pair_B2O).chunk(3, dim=-1)
        scores_B2 = (keys * queries).sum(-1) / math.sqrt(own_BO.shape[1])
        lead_B = (scores_B2[:, 0] - scores_B2[:, 1]).clamp(-LARGEST_LEAD, LARGEST_LEAD)
        weights_B2 = torch.sigmoid(torch.stack([lead_B, -lead_B], dim=1))  # the softmax over two
        return torch.bmm(weights_B2[:, None], values).squeeze(1), weights_B2
