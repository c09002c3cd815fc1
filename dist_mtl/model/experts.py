"""Backbones that share bottoms or experts: shared input (B, I) -> one input per task tower, T of (B, O).

Legend: E experts, G gates. First layers that read one input are one product, and so are its gates.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dist_mtl.config import PLE, MMoE, OMoE, SharedBottom, SingleTask
from dist_mtl.model.layers import MLP, Noise, ParallelMLP


@dataclass(frozen=True)
class TaskInputs:
    """What a backbone gives: a tower's input for each task, and the gates that mixed it.

    `gates`: name -> (B, G, E), each row a distribution over E, an exact 0 for an expert beyond a gate's reach. They are
    the tensors of the forward pass itself, so that nobody pays for a diagnosis that is off.
    """

    by_task: list[Tensor]
    gates: dict[str, Tensor] = field(default_factory=dict)


class SingleTaskBackbone(nn.Module):
    """An MLP for each task."""

    def __init__(self, spec: SingleTask, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.bottoms = ParallelMLP(num_tasks, inputs, spec.hidden, rate)
        self.outputs = self.bottoms.outputs

    def forward(self, x_BI: Tensor, noise: Noise | None) -> TaskInputs:
        return TaskInputs(self.bottoms(x_BI, noise))


class SharedBottomBackbone(nn.Module):
    """One MLP; every task sees its output."""

    def __init__(self, spec: SharedBottom, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.bottom = MLP(inputs, spec.hidden, rate)
        self.outputs = self.bottom.outputs

    def forward(self, x_BI: Tensor, noise: Noise | None) -> TaskInputs:
        return TaskInputs([self.bottom(x_BI, noise)] * self.num_tasks)


class MixtureBackbone(nn.Module):
    """f_t(x) = sum_e softmax(G_t x)_e expert_e(x), for each task t (MMoE, KDD 2018, eq. 5-7); OMoE has one G."""

    def __init__(self, spec: OMoE | MMoE, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        self.num_gates = num_tasks if isinstance(spec, MMoE) else 1
        self.num_experts = spec.experts
        self.copies = num_tasks // self.num_gates
        self.experts = ParallelMLP(spec.experts, inputs, spec.hidden, rate)
        self.gates = nn.Linear(inputs, self.num_gates * spec.experts, bias=False)
        self.outputs = self.experts.outputs

    def forward(self, x_BI: Tensor, noise: Noise | None) -> TaskInputs:
        experts_BEO = torch.stack(self.experts(x_BI, noise), dim=1)
        gates_BGE = torch.softmax(self.gates(x_BI).view(-1, self.num_gates, self.num_experts), dim=-1)
        mixed = list(torch.bmm(gates_BGE, experts_BEO).unbind(1))
        return TaskInputs(mixed * self.copies, {"experts": gates_BGE})


class PLEBackbone(nn.Module):
    """Levels of task and shared experts (PLE, RecSys 2020); at the last, each task's mixture is its input."""

    def __init__(self, spec: PLE, inputs: int, num_tasks: int, rate: float) -> None:
        super().__init__()
        levels = []
        for index in range(spec.levels):
            is_first, is_last = index == 0, index == spec.levels - 1
            levels.append(Level(spec, inputs if is_first else spec.hidden[-1], num_tasks, rate, is_first, is_last))
        self.levels = nn.ModuleList(levels)
        self.outputs = spec.hidden[-1]

    def forward(self, x_BI: Tensor, noise: Noise | None) -> TaskInputs:
        mixed, gates = [x_BI], {}
        for index, level in enumerate(self.levels):
            mixed, gates[f"level{index + 1}"] = level(mixed, noise)
        return TaskInputs(mixed, gates)


class Level(nn.Module):
    """One level: T groups of task experts and, last, a group of shared ones; a gate for each group.

    A task's gate mixes its own experts and the shared ones, by the task's own input; the shared gate, which the last
    level does not need, mixes all of them. At the first level all groups have one input, so that all experts' first
    layers are one product and all gates another.
    """

    def __init__(self, spec: PLE, inputs: int, num_tasks: int, rate: float, is_first: bool, is_last: bool) -> None:
        super().__init__()
        counts = [spec.task_experts] * num_tasks + [spec.shared_experts]
        reach_GE = reach(counts)[: num_tasks if is_last else num_tasks + 1]
        widths = reach_GE.sum(1).tolist()
        self.num_gates = len(reach_GE)
        self.register_buffer("reached", reach_GE.flatten().nonzero()[:, 0], persistent=False)
        self.num_experts = sum(counts)
        if is_first:
            counts, widths = [sum(counts)], [sum(widths)]
        self.experts = nn.ModuleList(ParallelMLP(count, inputs, spec.hidden, rate) for count in counts)
        self.gates = nn.ModuleList(nn.Linear(inputs, width, bias=False) for width in widths)

    def forward(self, inputs: list[Tensor], noise: Noise | None) -> tuple[list[Tensor], Tensor]:
        """The groups' inputs (one tensor at the first level) -> the gates' mixtures and the gates (B, G, E)."""
        experts = [e for group, x_BI in zip(self.experts, inputs, strict=True) for e in group(x_BI, noise)]
        scores = torch.cat([gate(x_BI) for gate, x_BI in zip(self.gates, inputs, strict=False)], dim=1)
        # Minus infinity is an exact 0 behind the softmax, and has a gradient of 0: one product mixes for all gates.
        full = scores.new_full((len(scores), self.num_gates * self.num_experts), -torch.inf)
        full = full.index_copy(1, self.reached, scores)
        gates_BGE = torch.softmax(full.view(-1, self.num_gates, self.num_experts), dim=-1)
        return list(torch.bmm(gates_BGE, torch.stack(experts, dim=1)).unbind(1)), gates_BGE


def reach(counts: list[int]) -> Tensor:
    """(groups, experts) bool: which experts each gate mixes; experts in the order of their groups, shared ones last."""
    numbers = torch.arange(len(counts), device="cpu")  # also where a model is laid out on the meta device
    owner_E = torch.repeat_interleave(numbers, torch.tensor(counts, device="cpu"))
    group_G1 = numbers[:, None]
    shared = len(counts) - 1
    return (group_G1 == owner_E) | (owner_E == shared) | (group_G1 == shared)
