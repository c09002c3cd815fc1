"""Logits of the towers -> probabilities along the funnel, in log space."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# Beyond a logit of 83 float32 logsigmoid underflows to 0, of which log1mexp would be infinite.
LARGEST_LOG = -1e-36


# A direct CTCVR tower may exceed the CTR tower; the CVR read from their ratio is then 1 - 1e-7 (logit 16).
LARGEST_RATIO = -1e-7


@dataclass(frozen=True)
class Funnel:
    """Log-probabilities of a funnel of T labels, each implying the one before it.

    joint[:, t] = log P(label t) over impressions; conditional[:, t] = log P(label t | label t-1); both are the same
    at 0. For (click, conversion): joint = log CTR, log CTCVR; conditional[:, 1] = log CVR.
    """

    joint_BT: Tensor
    conditional_BT: Tensor


def funnel(logits_BT: Tensor, head: Literal["ctcvr", "esmm", "clicked", "independent"]) -> Funnel:
    """Read the towers' logits as probabilities.

    ctcvr: tower t gives P(label t) over impressions. esmm (arXiv 1804.07931), clicked: tower t gives P(label t | t-1);
    they differ in their losses. Computed in log space: the product of two small probabilities keeps its precision.
    independent: tower t gives P(label t), and nothing is conditional: both of `Funnel` are the same.
    """
    logs_BT = functional.logsigmoid(logits_BT).clamp(max=LARGEST_LOG)
    if head == "independent":
        return Funnel(logs_BT, logs_BT)
    if head == "ctcvr":
        rest = (logs_BT[:, 1:] - logs_BT[:, :-1]).clamp(max=LARGEST_RATIO)
        return Funnel(logs_BT, torch.cat([logs_BT[:, :1], rest], dim=1))
    return Funnel(logs_BT.cumsum(dim=1), logs_BT)


def log1mexp(a: Tensor) -> Tensor:
    """log(1 - exp(a)) for a < 0, exact at both ends (Maechler 2012)."""
    near = a > -math.log(2)
    # Each branch sees only arguments on which its gradient is finite.
    small = torch.log(-torch.expm1(torch.where(near, a, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near, -1.0, a)))
    return torch.where(near, small, large)


def logit_of(log_probability: Tensor) -> Tensor:
    """log p -> log(p / (1 - p))."""
    return log_probability - log1mexp(log_probability)
