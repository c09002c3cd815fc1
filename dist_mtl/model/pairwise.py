"""PWiseR (arXiv 2406.02163), our reading: among scored impressions, conversions come first.

For each pair of neighbours (a, b) in the funnel, such as (click, conversion), with s = P(a) or its logit:

    P = {y_b = 1},  C = {y_a = 1, y_b = 0},  N = {y_a = 0}
    L = mean_{P x C} [m1 - (s_p - s_c)]_+  +  mean_{P x N} [m2 - (s_p - s_n)]_+

over the global batch, pairs weighted by the product of their rows' weights. A mean over no pairs is an exact zero.
Hinge sums need the sorted P alone: every other row meets a run of it that begins at the lowest. O(n log n), no n x n
matrix.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dist_mtl.config import ModelConfig, PWiseR
from dist_mtl.data.batch import Batch
from dist_mtl.model.heads import funnel, logit_of
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.term import Statistics, Term


@dataclass(frozen=True)
class Hinge:
    """mean [margin - (high - low)]_+ over pairs: its value, the share of pairs above 0, and its gradients; float64."""

    value: Tensor
    violations: Tensor
    d_high_P: Tensor
    d_low_N: Tensor


def hinge(high_P: Tensor, weight_P: Tensor, low_N: Tensor, weight_N: Tensor, margin: float) -> Hinge:
    """Over all pairs of P x N, in float64: a difference of two cumulative sums keeps 12 digits. Either may be empty.

    A pair exactly at the margin has a gradient of 0.
    """
    order = high_P.argsort()
    high_P, weight_P, reach_N = high_P[order], weight_P[order], low_N + margin
    zero = high_P.new_zeros(1)
    mass = torch.cat([zero, weight_P.cumsum(0)])
    moment = torch.cat([zero, (weight_P * high_P).cumsum(0)])
    below_N = torch.searchsorted(high_P, reach_N)  # how many of P are closer than the margin, from the lowest
    sum_N = weight_N * mass[below_N]
    # The same pairs seen from P: p is met by the rows whose run goes beyond p. Summed from the top, so that none is 0.
    met = mass.new_zeros(len(mass)).index_add(0, below_N, weight_N).flip(0).cumsum(0).flip(0)[1:]
    d_high_P = torch.empty_like(high_P).index_copy(0, order, -weight_P * met)
    pairs = mass[-1] * weight_N.sum()
    scale = torch.where(pairs > 0, 1 / pairs, 0.0)
    value = (sum_N * reach_N).sum() - (weight_N * moment[below_N]).sum()
    return Hinge(value * scale, sum_N.sum() * scale, d_high_P * scale, sum_N * scale)


@dataclass(frozen=True)
class PairwiseLoss(Term):
    """The loss of a configuration, and its statistics."""

    weight: float
    margins: tuple[float, float]
    on: Literal["probability", "logit"]
    head: Literal["ctcvr", "esmm", "clicked"]
    names: tuple[str, ...] = ("pairwise",)

    @classmethod
    def of(cls, spec: PWiseR, model: ModelConfig) -> "PairwiseLoss":
        """The loss that `spec` asks for, of the probabilities that `model` predicts."""
        return cls(spec.weight, spec.margins, spec.on, model.head)

    def factors(self, step: int) -> tuple[float, ...]:
        """The paper's lambda."""
        return (self.weight,)

    def shares(self, outputs: Outputs, batch: Batch, total: Tensor, totals_K: Tensor, ranks: Ranks) -> Tensor:
        """(1,): the value over the number of ranks, which all compute it, with the gradient of this rank's rows."""
        scores_BL = self._scores(outputs)
        value, gradient_GL, _ = self._ranked(scores_BL, batch, ranks)
        mine_BL = gradient_GL.narrow(0, ranks.rank * len(scores_BL), len(scores_BL)).to(scores_BL.dtype)
        # The second part is 0, and its gradient is the one that is known.
        share = (value / ranks.size).to(scores_BL.dtype) + (mine_BL * (scores_BL - scores_BL.detach())).sum()
        return share[None]

    @torch.no_grad()
    def statistics(
        self, labels: tuple[str, ...], outputs: Outputs, batch: Batch, share_B: Tensor, ranks: Ranks
    ) -> Statistics:
        """Shares of the pairs that are closer than their margin, for each label but the last: the rows that also have
        the next label against those that stop here (`m1`), and against those without this label (`m2`)."""
        shares = {}
        for label, (stopped, without) in zip(labels, self.violations(outputs, batch, ranks), strict=False):
            shares |= {f"{label} m1": stopped, f"{label} m2": without}
        return {"violated": shares}

    def violations(self, outputs: Outputs, batch: Batch, ranks: Ranks) -> list[tuple[float, float]]:
        """For each pair of neighbours: the share of P x C and of P x N that is closer than its margin."""
        return self._ranked(self._scores(outputs), batch, ranks)[2].tolist()

    def _scores(self, outputs: Outputs) -> Tensor:
        """(B, T - 1): the score of each label but the last; T - 1 pairs of neighbours."""
        if outputs.logits_BT.shape[1] == 2:
            scores_BL = outputs.logits_BT[:, :1]  # at the top of a funnel every head gives P(label) by its own logit
            return torch.sigmoid(scores_BL) if self.on == "probability" else scores_BL
        joint_BL = funnel(outputs.logits_BT, self.head).joint_BT[:, :-1]
        return joint_BL.exp() if self.on == "probability" else logit_of(joint_BL)

    def _ranked(self, scores_BL: Tensor, batch: Batch, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient (G, L) for the rows of the global batch, violations (L, 2): the same on every rank."""
        num = scores_BL.shape[1]
        facts_GF = ranks.gather(torch.cat([scores_BL.detach(), batch.labels_BT, batch.weight_B[:, None]], dim=1))
        scores_GL, labels_GT, weight_G = facts_GF.double().split([num, num + 1, 1], dim=1)
        weight_G = weight_G[:, 0]
        here_G = weight_G > 0
        value, gradient_GL, violations = scores_GL.new_zeros(()), torch.zeros_like(scores_GL), []
        for level in range(num):
            s_G, gradient_G = scores_GL[:, level].contiguous(), gradient_GL[:, level]
            a_G, b_G = labels_GT[:, level] > 0, labels_GT[:, level + 1] > 0
            high = (here_G & a_G & b_G).nonzero()[:, 0]
            for low_G, margin in zip((here_G & a_G & ~b_G, here_G & ~a_G), self.margins, strict=True):
                low = low_G.nonzero()[:, 0]
                found = hinge(s_G[high], weight_G[high], s_G[low], weight_G[low], margin)
                gradient_G.index_add_(0, high, found.d_high_P)
                gradient_G.index_add_(0, low, found.d_low_N)
                value = value + found.value / num
                violations.append(found.violations)
        return value, gradient_GL / num, torch.stack(violations).view(num, 2)
