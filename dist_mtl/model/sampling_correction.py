"""Probabilities for traffic as it comes, from a model that was trained on down-sampled logs.

Keeping only a share of the rows that did not click raises every predicted click probability (He et al., ADKDD 2014,
section 6.3, undo it for one task). In a funnel a row stops at exactly one level: not clicked, clicked only, ...,
converted. Dropping rows by that level multiplies the level's probability by the share kept, up to a common factor; so
dividing it out and normalising again is exact, for the click probability as well, which dropped clicks have changed,
too.
"""

import torch

from dist_mtl.model.heads import LARGEST_LOG, LARGEST_RATIO, Funnel, log1mexp


def undo_sampling(chances: Funnel, kept: tuple[float, ...]) -> Funnel:
    """`chances` of sampled logs -> those of all traffic; kept[t]: the share kept of rows that stop short of label t."""
    joint_BT, conditional_BT = chances.joint_BT.double(), chances.conditional_BT.double()
    before_BT = torch.cat([torch.zeros_like(joint_BT[:, :1]), joint_BT[:, :-1]], dim=1)
    # log P(label t-1 is the last one set), for every t, and of the whole funnel
    stops_BL = torch.cat([before_BT + log1mexp(conditional_BT), joint_BT[:, -1:]], dim=1)
    mass_BL = stops_BL - stops_BL.new_tensor([*kept, 1.0]).log()
    # log P(level >= l), from the end: sums of small probabilities before large ones
    reach_BL = torch.logcumsumexp(mass_BL.flip(1), dim=1).flip(1)
    joint_BT = (reach_BL[:, 1:] - reach_BL[:, :1]).clamp(max=LARGEST_LOG)
    rest_BT = (reach_BL[:, 1:] - reach_BL[:, :-1]).clamp(max=LARGEST_LOG)
    rest_BT[:, 1:].clamp_(max=LARGEST_RATIO)
    return Funnel(joint_BT.to(chances.joint_BT.dtype), rest_BT.to(chances.joint_BT.dtype))
