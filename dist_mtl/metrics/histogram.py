"""One histogram a task over the logit: AUC, logloss, normalised entropy and PCOC from one all-reduce, in fixed memory.

Bins over the logit, not the probability: at a base rate of 0.05 % nearly every probability falls into the first of 200
equal-width bins (the closest peer then reads AUC 0.554 where 0.788 is true).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NUM_BINS = 16_384
LIMIT = 16.0  # logits beyond +-16 (p = 1.1e-7) share the outermost bins
SUMS = ("weight", "positives", "predicted", "logloss")


@dataclass(frozen=True)
class TaskMetrics:
    """The metrics of one task on its own space. NaN where they are not defined (no row, or one class only)."""

    rows: float  # total weight
    positives: float
    auc: float
    auc_error: float  # bound on |auc - exact AUC|: ties that the bins make
    logloss: float
    normalised_entropy: float  # logloss over the entropy of the base rate
    pcoc: float  # predicted over observed positives


class LogitHistogram:
    """Sums for M tasks, mergeable by addition: `bins_M2K` (negatives, positives) and `sums_MS` (see SUMS); float64."""

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.bins_M2K = torch.zeros(num_tasks, 2, NUM_BINS, dtype=torch.float64, device=device)
        self.sums_MS = torch.zeros(num_tasks, len(SUMS), dtype=torch.float64, device=device)

    def update(self, logits_BM: Tensor, labels_BM: Tensor, weights_BM: Tensor) -> None:
        """Add B rows; a weight of 0 leaves a row out of a task."""
        scaled = (logits_BM.double() + LIMIT) * (NUM_BINS / (2 * LIMIT))
        bins_BM = scaled.clamp_(0, NUM_BINS - 1).long()
        weights_BM = weights_BM.double()
        positive_BM = labels_BM.double() * weights_BM
        for task in range(logits_BM.shape[1]):
            bins, weights, positive = bins_BM[:, task], weights_BM[:, task], positive_BM[:, task]
            self.bins_M2K[task, 0] += torch.bincount(bins, weights - positive, NUM_BINS)
            self.bins_M2K[task, 1] += torch.bincount(bins, positive, NUM_BINS)
        losses_BM = functional.binary_cross_entropy_with_logits(
            logits_BM.double(), labels_BM.double(), weights_BM, reduction="none"
        )
        predicted_BM = torch.sigmoid(logits_BM.double()) * weights_BM
        self.sums_MS += torch.stack([weights_BM.sum(0), positive_BM.sum(0), predicted_BM.sum(0), losses_BM.sum(0)], dim=1)

    def compute(self) -> list[TaskMetrics]:
        """The metrics of every task, from the sums as they are (merge over ranks first)."""
        return [_metrics(bins, sums) for bins, sums in zip(self.bins_M2K.cpu(), self.sums_MS.tolist(), strict=True)]


def _metrics(bins_2K: Tensor, sums: list[float]) -> TaskMetrics:
    weight, positives, predicted, logloss = sums
    negatives_K, positives_K = bins_2K
    auc = error = entropy = math.nan
    pairs = float(negatives_K.sum() * positives_K.sum())
    if pairs > 0:
        below_K = negatives_K.cumsum(0) - negatives_K
        ties = float((positives_K * negatives_K).sum())
        auc = (float((positives_K * below_K).sum()) + ties / 2) / pairs
        error = ties / 2 / pairs
        rate = positives / weight
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    mean = logloss / weight if weight else math.nan
    pcoc = predicted / positives if positives else math.nan
    return TaskMetrics(weight, positives, auc, error, mean, mean / entropy if entropy else math.nan, pcoc)
