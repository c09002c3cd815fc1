"""InfoNCE with a temperature for each row, in blocks: exact, with its gradients, and never a matrix of rows by rows.

    l_i = log(exp(c_ii / tau_i) + sum_j exp(c_ij / tau_i)) - c_ii / tau_i,   c_ij = cos(h_i^t, candidate j of task s)

j: the valid candidates other than row i itself. Legend: B rows, R of them at a time, D width, M candidates, U columns
of temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Bytes of exp(c / tau) held at a time, and rows at most. Measured on one core with 2 MiB of L2, 8,192 rows: products
# with all of them want 256 rows (8 MiB; 64 rows are 10 % slower), those with 256 want 2,048. A GPU has to be filled.
BLOCK = {"cpu": 8 << 20, "cuda": 64 << 20}
ROWS = {"cpu": 2048, "cuda": 1 << 20}
EPS = 1e-12  # below a norm of 1e-6 a vector counts as 0 (all units off): its cosine is 0, its gradient bounded

Pair = tuple[int, int, int]  # anchor's task, the task compared with, column of the temperature


def unit(h_BD: Tensor) -> Tensor:
    """h / |h|."""
    return h_BD * length_inverse(h_BD)


def length_inverse(h_BD: Tensor) -> Tensor:
    """(B, 1): 1 / |h|."""
    return torch.rsqrt(h_BD.square().sum(dim=1, keepdim=True) + EPS)


def contrast(
    representations: Sequence[Tensor | None],
    candidates: Sequence[Tensor | None],
    inverse_BU: Tensor,
    share_B: Tensor,
    valid_M: Tensor,
    own_B: Tensor,
    pairs: Sequence[Pair],
    stop_gradient: bool = False,
) -> Tensor:
    """The mean over `pairs` of sum_i share_i l_i; `inverse_BU`: 1 / tau, at most 50.

    `representations`: by task, (B, D); `candidates`: by task, (M, D), of length 1; None for a task that no pair needs.
    `valid_M`: 1 or 0. `own_B`: the candidate that is row i itself, or -1. Gradients for the first three.
    With cosines and those temperatures no exponential leaves float32, and no maximum has to be found first.
    `stop_gradient`: none for the task compared with.
    """
    tensors = *representations, *candidates
    return _Contrast.apply(tuple(pairs), stop_gradient, valid_M, own_B, share_B, inverse_BU, *tensors)


class _Contrast(Function):
    """Forward computes the gradients, too, while a block of exponentials is in the cache: one exponential and three
    products per row and candidate, where a recomputation would take two and four. No B x M matrix ever exists, and the
    B x D passes, which would cost as much as the products with 256 candidates, stay in the cache, too."""

    @staticmethod
    def forward(ctx, pairs, stop_gradient, valid_M, own_B, share_B, inverse_BU, *tensors) -> Tensor:  # noqa: ANN001
        half, share_B = len(tensors) // 2, share_B / len(pairs)
        h, c = tensors[:half], [None if x is None else x * valid_M[:, None] for x in tensors[half:]]
        d_h = [None if x is None else torch.empty_like(x) for x in h]
        needed = ctx.needs_input_grad[6 + half :]
        d_c = [torch.zeros_like(x) if need else None for x, need in zip(c, needed, strict=True)]
        d_inverse_BU, value = torch.zeros_like(inverse_BU), share_B.new_zeros(())
        device = valid_M.device.type
        rows = max(1, min(ROWS[device], BLOCK[device] // (len(valid_M) * valid_M.element_size())))
        scratch_RM = valid_M.new_empty(min(rows, len(share_B)), len(valid_M))
        for start in range(0, len(share_B), rows):
            here = slice(start, min(start + rows, len(share_B)))
            block = _Block([None if x is None else x[here] for x in h], share_B[here], own_B[here])
            for t, s, u in pairs:
                side = block.side(t, s, inverse_BU[here, u], c[s], valid_M, scratch_RM[: here.stop - start], d_c[s])
                value += side.value
                d_inverse_BU[here, u] += side.d_inverse_R
                block.pull(t, s, side, stop_gradient)
            for task, x in enumerate(d_h):
                if x is not None:
                    block.finish(task, out=x[here])
        for x in d_c:
            if x is not None:
                x.mul_(valid_M[:, None])
        ctx.save_for_backward(d_inverse_BU, *d_h, *d_c)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = [None if x is None else x * gradient for x in ctx.saved_tensors]
        return None, None, None, None, None, *known


@dataclass(frozen=True)
class _Side:
    """One ordered pair on a block of R rows. Gradients: by the anchor as far as candidates pull it, and what that has
    along the anchor itself; by the cosine with the positive; by 1 / tau."""

    value: Tensor
    d_anchor_RD: Tensor
    along_R: Tensor
    by_cosine_R: Tensor
    cosine_R: Tensor
    d_inverse_R: Tensor


class _Block:
    """R rows: their unit vectors by task, and the gradients of these, whole and along the vectors themselves."""

    def __init__(self, h: list[Tensor | None], share_R: Tensor, own_R: Tensor) -> None:
        self.lengths = [None if x is None else length_inverse(x) for x in h]
        self.units = [None if x is None else x * r for x, r in zip(h, self.lengths, strict=True)]
        self.share_R, self.own_R1, self.has_R1 = share_R, own_R.clamp(min=0)[:, None], own_R[:, None] >= 0
        self.cosines: dict[tuple[int, int], Tensor] = {}
        self.d_units: dict[int, Tensor] = {}
        self.along: dict[int, Tensor] = {}

    def side(
        self, t: int, s: int, k_R: Tensor, c_MD: Tensor, valid_M: Tensor, e_RM: Tensor, d_c_MD: Tensor | None
    ) -> _Side:
        """Task t's rows against task s; `k_R`: inverse temperatures. Adds to `d_c_MD`; `e_RM` is scratch space."""
        if (cosine_R := self.cosines.get((s, t))) is None:  # the other way round it is the same
            cosine_R = self.cosines[t, s] = (self.units[t] * self.units[s]).sum(1)
        scaled_RD = self.units[t] * k_R[:, None]
        positive_R = cosine_R * k_R
        e_R = positive_R.exp()
        torch.mm(scaled_RD, c_MD.T, out=e_RM).exp_()
        e_RM.scatter_(1, self.own_R1, e_RM.gather(1, self.own_R1).masked_fill_(self.has_R1, 0))
        sums_R = torch.mv(e_RM, valid_M).add_(e_R)
        p_R = self.share_R / sums_R
        moment_RD = torch.mm(e_RM, c_MD)
        if d_c_MD is not None:
            d_c_MD.addmm_(e_RM.T, scaled_RD.mul_(p_R[:, None]))
        moment_RD.mul_(p_R[:, None])
        pull_R = (self.units[t] * moment_RD).sum(1)
        by_positive_R = p_R * e_R - self.share_R
        value = (self.share_R * (sums_R.log() - positive_R)).sum()
        d_inverse_R = pull_R + by_positive_R * cosine_R
        return _Side(value, moment_RD.mul_(k_R[:, None]), pull_R * k_R, by_positive_R * k_R, cosine_R, d_inverse_R)

    def pull(self, t: int, s: int, side: _Side, stop_gradient: bool) -> None:
        """Add a pair's gradients by the unit vectors."""
        self._add(t, side.d_anchor_RD, side.along_R)
        for task, other in ((t, s),) if stop_gradient else ((t, s), (s, t)):
            if task not in self.d_units:
                self._add(task, torch.zeros_like(self.units[task]), torch.zeros_like(side.along_R))
            self.d_units[task].addcmul_(side.by_cosine_R[:, None], self.units[other])
            self.along[task].addcmul_(side.by_cosine_R, side.cosine_R)

    def _add(self, task: int, d_RD: Tensor, along_R: Tensor) -> None:
        if task in self.d_units:
            self.d_units[task].add_(d_RD)
            self.along[task].add_(along_R)
        else:
            self.d_units[task], self.along[task] = d_RD, along_R

    def finish(self, task: int, out: Tensor) -> None:
        """The gradient by the representation: what is across its direction, over its length."""
        if task not in self.d_units:
            out.zero_()
            return
        across_RD = self.d_units[task].addcmul_(self.units[task], self.along[task][:, None], value=-1)
        torch.mul(across_RD, self.lengths[task], out=out)
