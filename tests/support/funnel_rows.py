"""Rows of a funnel that have labels and weights and no feature, for tests of what a loss makes of them."""

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_mtl.data.batch import Batch

LABELS = ("click", "conversion")


def rows(count: int, step: int = 3, tasks: int = 2, dead: int = 0) -> Batch:
    """Rows of a funnel with weights 1 to 3; the last `dead` of them have none. float64."""
    draw = torch.Generator().manual_seed(step)
    labels = (torch.rand(count, tasks, generator=draw) < 0.6).double().cumprod(1)
    weights = torch.randint(1, 4, (count,), generator=draw).double()
    weights[count - dead :] = 0
    ids = KeyedJaggedTensor(
        keys=["x"], values=torch.empty(0, dtype=torch.int64), lengths=torch.zeros(count, dtype=torch.int32)
    )
    return Batch(step, torch.arange(count), ids, torch.empty(count, 0), labels, weights, 0, 0)
