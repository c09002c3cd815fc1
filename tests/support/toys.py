"""A backbone, a loss and two features from outside of the package: what docs/extending.md shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

import dist_mtl as dm


class Gated(nn.Module):
    """One layer that all tasks share, and a gate of its inputs for each."""

    def __init__(self, inputs: int, num_tasks: int, dropout: float, width: int = 16) -> None:
        super().__init__()
        self.outputs = width
        self.shared = nn.Linear(inputs, width)
        self.gates = nn.Linear(inputs, num_tasks * width)

    def forward(self, x_BI: Tensor, noise: Any) -> dm.TaskInputs:
        shared_BO = torch.relu(self.shared(x_BI))
        gates = torch.sigmoid(self.gates(x_BI)).chunk(self.gates.out_features // self.outputs, dim=1)
        return dm.TaskInputs([shared_BO * gate_BO for gate_BO in gates])


@dataclass(frozen=True)
class Confidence(dm.Term):
    """Mean of the squared logits: a penalty on what is said too surely."""

    weight: float
    names: tuple[str, ...] = ("confidence",)

    def factors(self, step: int) -> tuple[float, ...]:
        return (self.weight,)

    def shares(self, outputs: Any, batch: Any, total: Tensor, totals_K: Tensor, ranks: Any) -> Tensor:
        squares_B = outputs.logits_BT.square().mean(dim=1)
        return (squares_B @ batch.weight_B / total.clamp(min=1))[None]


def confidence(config: dm.Config, weight: float = 0.01) -> Confidence:
    return Confidence(weight)


def expensive(table: pa.Table) -> np.ndarray:
    """A number: the logarithm of the price for each year of age."""
    price, age = (pc.fill_null(table.column(name), 1.0).to_numpy() for name in ("price", "age"))
    return np.log1p(price) / age


def decade(table: pa.Table) -> np.ndarray:
    """An id: the decade of the age, none where it is not known."""
    return pc.fill_null(pc.floor(pc.divide(table.column("age"), 10.0)), -1).to_numpy().astype(np.int64)
