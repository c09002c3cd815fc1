"""What a step says of itself besides its losses: means over the rows of the global batch, the same on every rank.

Computed from what the forward pass has left, on the steps that ask for it; a step that does not ask pays nothing. Only
the tasks' gradients are new work: a partial backward pass each. Names are those of the `diagnosis` event: pairs of
tasks as `click|conversion`, ordered ones as `click>conversion`.
"""

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.model.loss_balancing import gram, task_gradients
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.term import Statistics, inverse_of

BINS = 20  # of a histogram: of equal width, each with its share of the rows


def gradient_statistics(labels: tuple[str, ...], shares_T: Tensor, x_BI: Tensor, ranks: Ranks) -> Statistics:
    """Norms of the tasks' gradients at the shared input, and their cosines (0 where one of them is 0)."""
    gram_TT = gram(task_gradients(shares_T, x_BI), ranks)
    norms = gram_TT.diagonal().sqrt().tolist()
    cosines = {}
    for a, b in combinations(range(len(labels)), 2):
        scale = norms[a] * norms[b]
        cosines[f"{labels[a]}|{labels[b]}"] = float(gram_TT[a, b]) / scale if scale else 0.0
    return {"gradient_norm": dict(zip(labels, norms, strict=True)), "gradient_cosine": cosines}


@torch.no_grad()
def gate_statistics(labels: tuple[str, ...], gates: dict[str, Tensor], share_B: Tensor, ranks: Ranks) -> Statistics:
    """For each gate: the load of its experts, a distribution, and the mean entropy of its rows, 1 for an even gate."""
    loads, entropies = {}, {}
    for name, gates_BGE in gates.items():
        entropy_BG = torch.special.entr(gates_BGE).sum(dim=2, keepdim=True)
        mean_GE = ranks.sum(torch.einsum("b,bge->ge", share_B, torch.cat([gates_BGE, entropy_BG], dim=2)))
        reachable_G = (gates_BGE > 0).any(dim=0).sum(dim=1).tolist()
        titles = _gate_titles(name, labels, len(mean_GE))
        for title, (*load, entropy), experts in zip(titles, mean_GE.tolist(), reachable_G, strict=True):
            loads[title] = load
            entropies[title] = entropy / math.log(experts) if experts > 1 else 0.0
    return {"gates": loads, "gate_entropy": entropies} if loads else {}


def _gate_titles(name: str, labels: tuple[str, ...], gates: int) -> list[str]:
    """A gate a task; one more: that of the shared experts; one fewer: of every task but the first; one: of all."""
    whose = {
        len(labels): labels,
        len(labels) + 1: (*labels, "shared"),
        len(labels) - 1: labels[1:],
    }.get(gates, tuple(map(str, range(gates))))
    return [f"{name} {one}" for one in (("all",) if gates == 1 and name != "transfer" else whose)]


def row_shares(batch: Batch, total: Tensor) -> Tensor:
    """(B,): each row's part of the weight of the global batch."""
    return batch.weight_B * inverse_of(total)


def distribution(x_B: Tensor, share_B: Tensor, low: float, high: float, ranks: Ranks) -> dict[str, Any]:
    """Mean, standard deviation, and a histogram: BINS + 1 edges, the bins' shares of the rows."""
    bins_B = ((x_B - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)
    x_B, share_B = x_B.double(), share_B.double()  # a collapse is a deviation of 1e-5 around 0.9997
    moments = torch.stack([x_B @ share_B, x_B.square() @ share_B])
    bins_K = share_B.new_zeros(BINS).index_add(0, bins_B, share_B)
    mean, square, *shares = ranks.sum(torch.cat([moments, bins_K])).tolist()
    deviation = max(square - mean * mean, 0.0) ** 0.5
    edges = [low + (high - low) * k / BINS for k in range(BINS + 1)]
    return {"mean": mean, "deviation": deviation, "edges": edges, "counts": shares}
