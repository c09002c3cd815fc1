"""Balancing the tasks' losses: learned uncertainty weights, and gradient surgery at the shared input.

PCGrad rather than GradNorm: it has no state that a commit would have to hold, no second learning rate, and no schedule,
and all it needs of the global batch is the T x T matrix of inner products of the tasks' gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_mtl.data.hashing import permutation
from dist_mtl.model.ranks import Ranks


def uncertainty(shares_T: Tensor, log_variances_T: Tensor, totals_T: Tensor, ranks: Ranks) -> Tensor:
    """This rank's share of sum_t exp(-s_t) L_t + s_t / 2, s = log sigma^2 (Kendall, Gal, Cipolla 2018, for likelihoods
    of classes). A task without a row in the global batch says nothing of its variance, and adds nothing."""
    present_T = (totals_T > 0).to(shares_T.dtype)
    return ((-log_variances_T).exp() * shares_T + present_T * log_variances_T / (2 * ranks.size)).sum()


def task_gradients(shares_T: Tensor, x_BI: Tensor) -> list[Tensor]:
    """Each task's gradient at the shared input, for the rows here. The tables below it are not reached: an embedding is
    updated by its backward pass, so a step has exactly one of those."""
    return [torch.autograd.grad(share, x_BI, retain_graph=True)[0] for share in shares_T.unbind()]


def gram(gradients: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """(T, T) float64, on the CPU: inner products over the global batch, the same on every rank."""
    products = [(a * b).sum(dtype=torch.float64) for a in gradients for b in gradients]
    return ranks.sum(torch.stack(products)).view(len(gradients), -1).cpu()


def pcgrad(gram_TT: Tensor, orders: Sequence[Sequence[int]]) -> list[float]:
    """PCGrad (arXiv 2001.06782, algorithm 1) as factors: sum_t factor_t g_t is the sum of the projected gradients.

    `orders[i]`: in which order task i gives way to the others. Without a conflict every factor is exactly 1.
    """
    factors = torch.zeros(len(gram_TT), dtype=torch.float64)
    for task, order in enumerate(orders):
        mine = torch.zeros_like(factors)
        mine[task] = 1.0
        for other in order:
            inner = mine @ gram_TT[other]
            if other != task and inner < 0:
                mine[other] -= inner / gram_TT[other, other]
        factors += mine
    return factors.tolist()


def resolve_conflicts(shares_T: Tensor, x_BI: Tensor, ranks: Ranks, seed: int, step: int) -> None:
    """Let the coming backward pass carry PCGrad's combination below `x_BI` instead of the tasks' sum.

    The parameters above the shared input get their plain gradients, and the other terms of the loss keep theirs: no
    task has to give way to them. The step multiplies the loss by the number of ranks, since gradients are averaged over
    them, and so does this.
    Call it last: the hook also acts on any `autograd.grad` at `x_BI` that comes after.
    """
    gradients = task_gradients(shares_T, x_BI)
    orders = [permutation(len(gradients), seed, step, "pcgrad", task).tolist() for task in range(len(gradients))]
    factors = pcgrad(gram(gradients, ranks), orders)
    if all(factor == 1 for factor in factors):
        return
    correction_BI = torch.zeros_like(x_BI)
    for factor, gradient_BI in zip(factors, gradients, strict=True):
        correction_BI.add_(gradient_BI, alpha=(factor - 1) * ranks.size)
    x_BI.register_hook(lambda gradient_BI: gradient_BI + correction_BI)
