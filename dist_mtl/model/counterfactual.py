"""ESCM2 (arXiv 2204.05125): the conversion risk over all impressions, estimated from the clicks. Training only.

For each label t >= 1 of a funnel (C of them), over impressions i of weight w_i:

    o = label t-1        whether label t was observed at all
    z                    logit of P(label t | label t-1), `esmm`'s tower t
    q = max(P(label t-1), clip)   propensity, without a gradient
    e(y) = softplus(z) - y z      the cross-entropy of a label y

    ips   L = sum_i w o e(y) / q / sum_i w
    dr    L = sum_i w [e(r) + o (e(y) - e(r)) / q] / sum_i w   with r = sigmoid(imputed logit), without a gradient,
          + sum_i w o (e(y) - e(r))^2 / q / sum_i w            with a gradient for r alone: it trains the imputation

Our reading. The weights are not self-normalised: so each is an unbiased estimate for exact propensities whatever the
size of the batch; a batch with a single click does not hand that click the weight of a mean; and the denominator is
known before the forward pass, which saves a collective. `clip` bounds what one click may weigh.
The paper's imputation tower predicts the error e itself. Then the tower's own gradient is that of `ips`, since the
imputed error does not depend on z; so ours predicts the label, from which the error of *this* z follows (as in
doubly robust joint learning, ICML 2019), and impressions without a click teach the conversion tower, too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.config import Counterfactual
from dist_mtl.data.batch import Batch
from dist_mtl.model.heads import funnel
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.term import Term


@dataclass(frozen=True)
class CounterfactualLoss(Term):
    """The loss of a configuration; its weight is in its numbers."""

    spec: Counterfactual
    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"counterfactual.{label}" for label in self.labels[1:])

    def factors(self, step: int) -> tuple[float, ...]:
        return (1.0,) * len(self.names)

    def shares(self, outputs: Outputs, batch: Batch, total: Tensor, totals_K: Tensor, ranks: Ranks) -> Tensor:
        logits = outputs.logits_BT, outputs.imputed_BC
        return counterfactual_losses(self.spec, *logits, batch.labels_BT, batch.weight_B, total)


@dataclass(frozen=True)
class Evidence:
    """What both estimators weigh: per impression and label t >= 1, see above. (B, C)."""

    logits_BC: Tensor
    labels_BC: Tensor
    inverse_BC: Tensor  # o / q, no gradient
    share_B1: Tensor  # w over the sum of w over all ranks


def evidence(logits_BT: Tensor, labels_BT: Tensor, weight_B: Tensor, total: Tensor, clip: float) -> Evidence:
    """From `esmm`'s logits. `total`: the rows' weight over all ranks; at 0 every share is 0."""
    propensity_BC = funnel(logits_BT.detach(), "esmm").joint_BT[:, :-1].exp().clamp(min=clip)
    share_B1 = (weight_B * torch.where(total > 0, 1 / total, 0.0))[:, None]
    return Evidence(logits_BT[:, 1:], labels_BT[:, 1:], labels_BT[:, :-1] / propensity_BC, share_B1)


def ips(found: Evidence) -> Tensor:
    """(C,): this rank's share of the inverse-propensity risk of each label t >= 1."""
    errors_BC = functional.binary_cross_entropy_with_logits(found.logits_BC, found.labels_BC, reduction="none")
    return (errors_BC * found.inverse_BC * found.share_B1).sum(dim=0)


def doubly_robust(found: Evidence, imputed_BC: Tensor) -> tuple[Tensor, Tensor]:
    """(C,), (C,): this rank's shares of the doubly robust risk, for the towers, and of the imputation's own loss."""
    labels_BC = torch.sigmoid(imputed_BC)
    errors_BC = functional.binary_cross_entropy_with_logits(found.logits_BC, labels_BC.detach(), reduction="none")
    # e(y) - e(r) = (r - y) z: the softplus cancels, so no digits are lost to the difference.
    surplus_BC = (labels_BC - found.labels_BC) * found.logits_BC.detach()
    correction_BC = (labels_BC.detach() - found.labels_BC) * found.logits_BC
    risk_C = ((errors_BC + found.inverse_BC * correction_BC) * found.share_B1).sum(dim=0)
    return risk_C, (found.inverse_BC * surplus_BC.square() * found.share_B1).sum(dim=0)


def counterfactual_losses(
    spec: Counterfactual,
    logits_BT: Tensor,
    imputed_BC: Tensor | None,
    labels_BT: Tensor,
    weight_B: Tensor,
    total: Tensor,
) -> Tensor:
    """(C,): this rank's share of what ESCM2 adds to the loss for each label t >= 1, times `spec.weight`.

    Pass `Outputs.logits_BT` and `Outputs.imputed_BC`. Without a click on any rank an exact zero (`ips`), with a
    gradient for every parameter all the same.
    """
    found = evidence(logits_BT, labels_BT, weight_B, total, spec.clip)
    match spec.kind:
        case "ips":
            return spec.weight * ips(found)
        case "dr":
            risk_C, imputation_C = doubly_robust(found, imputed_BC)
            return spec.weight * (risk_C + imputation_C)
