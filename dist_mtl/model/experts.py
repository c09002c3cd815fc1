"""Backbones: shared input -> one input per task tower, (B, I) -> T tensors (B, O)."""

import torch
from torch import Tensor, nn

from dist_mtl.config import MMoE, SharedBottom
from dist_mtl.model.layers import MLP, Noise, ParallelMLP


class SharedBottomBackbone(nn.Module):
    """One MLP; every task sees its output."""

    def __init__(self, spec: SharedBottom, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.bottom = MLP(inputs, spec.hidden, rate)
        self.outputs = self.bottom.outputs

    def forward(self, x_BI: Tensor, noise: Noise | None) -> list[Tensor]:
        return [self.bottom(x_BI, noise)] * self.num_tasks


class MMoEBackbone(nn.Module):
    """f_t(x) = sum_e softmax(G_t x)_e expert_e(x), for each task t (MMoE, KDD 2018, eq. 5-7)."""

    def __init__(self, spec: MMoE, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.experts = ParallelMLP(spec.experts, inputs, spec.hidden, rate)
        self.gates = nn.Linear(inputs, num_tasks * spec.experts, bias=False)
        self.outputs = self.experts.outputs

    def forward(self, x_BI: Tensor, noise: Noise | None) -> list[Tensor]:
        experts_BEO = torch.stack(self.experts(x_BI, noise), dim=1)
        gates_BTE = torch.softmax(self.gates(x_BI).view(len(x_BI), self.num_tasks, -1), dim=-1)
        return list(torch.bmm(gates_BTE, experts_BEO).unbind(1))


def build_backbone(spec: SharedBottom | MMoE, inputs: int, num_tasks: int, rate: float) -> nn.Module:
    """The backbone that the configuration names. It has `outputs`, the width of each task's input."""
    match spec:
        case SharedBottom():
            return SharedBottomBackbone(spec, inputs, num_tasks, rate)
        case MMoE():
            return MMoEBackbone(spec, inputs, num_tasks, rate)
