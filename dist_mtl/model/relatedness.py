"""What exists in training only: the relatedness network and what teaches it, projection heads, learned task weights.

Relatedness r_i in (0, 1) says how much two tasks have to do with each other on impression i; its logit is g(x_i), of
the shared input without its gradient. A model for scoring has none of this, and one in evaluation mode does not run it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dist_mtl.config import AdaFTR, Config, LearnedAlignment, NoAlignment
from dist_mtl.data.batch import Batch
from dist_mtl.model.layers import MLP
from dist_mtl.model.ranks import Ranks


@dataclass(frozen=True)
class Probe:
    """Some rows' logits as a function of their shared input alone: no graph below it, and no dropout above."""

    x_RI: Tensor
    logits_RT: Tensor

    def gradients(self) -> list[Tensor]:
        """By task, (R, I): each row's logit by its own input. Rows do not meet above x, so that the gradient of a
        column's sum holds every row's own. The label, and with it the base rate, has no part in it."""
        columns = [column.sum() for column in self.logits_RT.unbind(1)]
        return [torch.autograd.grad(column, self.x_RI, retain_graph=True)[0] for column in columns]


@dataclass(frozen=True)
class TrainingOutputs:
    """What the losses need besides the model's outputs; `relatedness_BU`: U unordered pairs of tasks, logits of r."""

    aligned: tuple[Tensor, ...]  # T of (B, H): what alignment compares
    relatedness_BU: Tensor | None
    log_variances_T: Tensor | None
    probe: Probe | None = None


class TrainingParts(nn.Module):
    """(x, representations, probe) -> `TrainingOutputs`. `probed`: whose rows the model is to probe, if any."""

    def __init__(self, config: Config, inputs: int, width: int) -> None:
        super().__init__()
        spec, labels = config.model.alignment, config.data.labels
        self.relatedness = self.projections = self.log_variances = self.probed = None
        if isinstance(spec, LearnedAlignment):
            hidden = MLP(inputs, spec.hidden)
            # Standardised, a common shift is nothing: a bias would have float noise for a gradient, and walk by AdamW.
            biased = isinstance(spec, AdaFTR) or not spec.standardise
            last = nn.Linear(hidden.outputs, len(spec.pairs_of(labels)), bias=biased)
            self.relatedness = nn.Sequential(hidden, last)
        if not isinstance(spec, NoAlignment) and spec.projection is not None:
            compared = {task for pair in spec.pairs_of(labels) for task in pair}  # a head without a gradient would hang
            heads = [
                _projection(width, spec.projection) if t in compared else nn.Identity() for t in range(len(labels))
            ]
            self.projections = nn.ModuleList(heads)
        if config.model.balance == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(labels)))

        if isinstance(spec, AdaFTR) and spec.target == "gradient_agreement":
            self.probed = Teacher.of(spec, labels)

    def forward(self, x_BI: Tensor, representations: tuple[Tensor, ...], probe: Probe | None = None) -> TrainingOutputs:
        aligned = representations
        if self.projections is not None:
            aligned = tuple(head(h_BH) for head, h_BH in zip(self.projections, representations, strict=True))
        relatedness_BU = None if self.relatedness is None else self.relatedness(x_BI.detach())
        return TrainingOutputs(aligned, relatedness_BU, self.log_variances, probe)


def training_parts(config: Config, inputs: int, width: int) -> TrainingParts | None:
    """The parts that the configuration's losses need; None if they need none."""
    parts = TrainingParts(config, inputs, width)
    return parts if any(True for _ in parts.parameters()) else None


def _projection(width: int, widths: tuple[int, ...]) -> nn.Module:
    """An MLP whose last layer is linear: a projection has negative numbers, too, and cosines below 0."""
    hidden = MLP(width, widths[:-1])
    return nn.Sequential(hidden, nn.Linear(hidden.outputs, widths[-1]))


def temperature(logits_BU: Tensor, low: float, high: float) -> Tensor:
    """tau = low + (high - low) (1 - r): related tasks get a low temperature, hence a strong contrast."""
    return low + (high - low) * torch.sigmoid(-logits_BU)


def standardised(logits_BU: Tensor, share_B1: Tensor, ranks: Ranks) -> Tensor:
    """Logits of mean 0 and variance 1 over the global batch; `share_B1`: each row's part of the weight of all ranks.

    Left to L_align, every temperature falls to its lower bound (r 0.9997 in a prototype), since a lower one pays on
    nearly every row. With mean and spread given, only *which* rows have a low one is left to learn.
    """
    mean_U = ranks.sum((share_B1 * logits_BU).sum(0))
    centred_BU = logits_BU - mean_U
    variance_U = ranks.sum((share_B1 * centred_BU.square()).sum(0))
    return centred_BU * torch.rsqrt(variance_U + 1e-12)


@dataclass(frozen=True)
class Teacher:
    """What r should be, on which rows; from labels or from gradients, never from r itself. R: its rows of a batch."""

    target: Literal["agreement", "conversion_given_click", "gradient_agreement"]
    stride: int
    pairs: tuple[tuple[int, int], ...]  # unordered: (the one before, the one behind) in the order of the labels

    @classmethod
    def of(cls, spec: AdaFTR, labels: tuple[str, ...]) -> "Teacher":
        """The teacher that `spec` asks for."""
        return cls(spec.target, spec.probe_stride if spec.target == "gradient_agreement" else 1, spec.pairs_of(labels))

    def rows(self, batch: Batch) -> slice:
        """The rows that it speaks of: all, or each `stride`-th slot of the global batch, other ones at each step."""
        if self.stride == 1:
            return slice(None)
        return slice((batch.step - int(batch.slots_B[0])) % self.stride, None, self.stride)

    def row_weights(self, batch: Batch) -> Tensor:
        """(R, U): 0 where a pair's target is not known."""
        rows = self.rows(batch)
        weight_R1, labels_RT = batch.weight_B[rows, None], batch.labels_BT[rows]
        if self.target != "conversion_given_click":
            return weight_R1.expand(-1, len(self.pairs))
        return weight_R1 * labels_RT[:, [before for before, _ in self.pairs]]

    def targets(self, labels_RT: Tensor, probe: Probe | None) -> Tensor:
        """(R, U) in [0, 1], without a gradient. `probe`: of the same rows, for `gradient_agreement`."""
        match self.target:
            case "agreement":
                found = [(labels_RT[:, a] == labels_RT[:, b]).to(labels_RT.dtype) for a, b in self.pairs]
            case "conversion_given_click":
                found = [labels_RT[:, b] for _, b in self.pairs]
            case "gradient_agreement":
                gradients = probe.gradients()
                found = [(1 + torch.cosine_similarity(gradients[a], gradients[b])) / 2 for a, b in self.pairs]
        return torch.stack(found, dim=1)
