"""What a step says of itself besides its losses: means over the rows of the global batch, the same on every rank.

Computed from what the forward pass has left, on the steps that ask for it; a step that does not ask pays nothing. Only
the tasks' gradients are new work: a partial backward pass each.
"""

from itertools import combinations

import torch
from torch import Tensor

from dist_mtl.config import LearnedAlignment
from dist_mtl.data.batch import Batch
from dist_mtl.model.alignment import AlignmentLoss, inverse_of
from dist_mtl.model.balance import gram, task_gradients
from dist_mtl.model.contrast import unit
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranking import PairwiseLoss
from dist_mtl.model.ranks import Ranks

BINS = 10  # of a histogram: of equal width, each with its share of the rows

Statistics = dict[str, float | list[float]]


def gradient_statistics(labels: tuple[str, ...], shares_T: Tensor, x_BI: Tensor, ranks: Ranks) -> Statistics:
    """Norms of the tasks' gradients at the shared input, and their cosines (0 where one of them is 0)."""
    gram_TT = gram(task_gradients(shares_T, x_BI), ranks)
    norms = gram_TT.diagonal().sqrt()
    found: Statistics = {f"gradient.{label}.norm": float(norms[t]) for t, label in enumerate(labels)}
    for a, b in combinations(range(len(labels)), 2):
        scale = float(norms[a] * norms[b])
        found[f"gradient.{labels[a]}-{labels[b]}.cosine"] = float(gram_TT[a, b]) / scale if scale else 0.0
    return found


@torch.no_grad()
def gate_statistics(gates: dict[str, Tensor], share_B: Tensor, ranks: Ranks) -> Statistics:
    """For each gate: the load of its experts, a distribution, and the mean entropy of its rows, in nats."""
    found: Statistics = {}
    for name, gates_BGE in gates.items():
        entropy_BG = torch.special.entr(gates_BGE).sum(dim=2, keepdim=True)
        mean_GE = ranks.sum(torch.einsum("b,bge->ge", share_B, torch.cat([gates_BGE, entropy_BG], dim=2)))
        for gate, (*load, entropy) in enumerate(mean_GE.tolist()):
            found |= {f"gates.{name}.{gate}.load": load, f"gates.{name}.{gate}.entropy": entropy}
    return found


@torch.no_grad()
def alignment_statistics(
    alignment: AlignmentLoss, labels: tuple[str, ...], outputs: Outputs, batch: Batch, share_B: Tensor, ranks: Ranks
) -> Statistics:
    """Relatedness (what the network says) and temperature (what is made of it): mean, deviation, histogram; mean
    cosines of a row with itself and with its negatives, for each ordered pair of tasks."""
    found: Statistics = {}
    if isinstance(alignment.spec, LearnedAlignment):
        low, high = alignment.spec.temperatures
        taus_BU = alignment.temperatures(outputs, share_B, ranks)
        r_BU = torch.sigmoid(outputs.training.relatedness_BU)
        for column, (a, b) in enumerate(alignment.pairs):
            name = f"{labels[a]}-{labels[b]}"
            found |= _distribution(f"relatedness.{name}", r_BU[:, column], share_B, 0.0, 1.0, ranks)
            found |= _distribution(f"temperature.{name}", taus_BU[:, column], share_B, low, high, ranks)
    representations, candidates, negatives = alignment.compared(outputs, batch, ranks)
    units = [None if h_BD is None else unit(h_BD) for h_BD in representations]
    own_B = negatives.own_B
    for t, s in alignment.ordered:
        positive_B = (units[t] * units[s]).sum(1)
        # The sum over candidates is one product with their sum; a row's own is taken out again.
        sum_B = units[t] @ (negatives.valid_M @ candidates[s]) - positive_B * (own_B >= 0)
        count_B = negatives.valid_M.sum() - (own_B >= 0).to(sum_B.dtype)
        means = torch.stack([positive_B @ share_B, (sum_B / count_B.clamp(min=1)) @ share_B])
        positive, negative = ranks.sum(means).tolist()
        name = f"similarity.{labels[t]}>{labels[s]}"
        found |= {f"{name}.positive": positive, f"{name}.negative": negative}
    return found


@torch.no_grad()
def pairwise_statistics(
    pairwise: PairwiseLoss, labels: tuple[str, ...], outputs: Outputs, batch: Batch, ranks: Ranks
) -> Statistics:
    """Shares of the pairs that are closer than their margin, for each label but the last: the rows that also have the
    next label against those that stop here (`m1`), and against those without this label (`m2`)."""
    found: Statistics = {}
    for label, (stopped, without) in zip(labels, pairwise.violations(outputs, batch, ranks), strict=False):
        found |= {f"violations.{label}.m1": stopped, f"violations.{label}.m2": without}
    return found


def row_shares(batch: Batch, total: Tensor) -> Tensor:
    """(B,): each row's part of the weight of the global batch."""
    return batch.weight_B * inverse_of(total)


def _distribution(name: str, x_B: Tensor, share_B: Tensor, low: float, high: float, ranks: Ranks) -> Statistics:
    bins_B = ((x_B - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)
    moments = torch.stack([x_B @ share_B, x_B.square() @ share_B])
    bins_K = share_B.new_zeros(BINS).index_add(0, bins_B, share_B)
    mean, square, *shares = ranks.sum(torch.cat([moments, bins_K])).tolist()
    deviation = max(square - mean * mean, 0.0) ** 0.5
    return {f"{name}.mean": mean, f"{name}.deviation": deviation, f"{name}.histogram": shares}
