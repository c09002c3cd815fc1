"""One histogram a task over the logit: every metric of a task from one all-reduce, in fixed memory, to the same bits.

Bins over the logit, not the probability: at a base rate of 0.05 % nearly every probability falls into the first of 200
equal-width bins (the closest peer then reads AUC 0.554 where 0.788 is true). And bins as float32 itself has them, a
fixed number to every power of two: scores of the wrong scale are resolved as well as good ones, up to |logit| 1024,
beyond which all are one bin. Logits further apart than |logit| / 2**bits never share a bin. What nearer ones cost an
AUC is in its error bound: with a spread of 1 around -5 it is 1e-5 (FINE) and 4e-4 (COARSE), with that spread around
-150 4e-4 and 1e-2, with a spread of 0.01 around -5 1e-3 and 4e-2. Their sums are as exact as any.

All sums are integers, so that they do not depend on the order of addition: merged over 1, 2 or 4 ranks, or resumed in
the middle, they are the same bits. No exponential is taken of a row (a library's may differ in its last bit between a
vector and its tail): the bits that binning cuts off are summed beside the counts, and `task` does the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_mtl.data.features.labels import LEAST_WEIGHT
from dist_mtl.errors import DataError

FINE = 15  # bits of mantissa, for whole sets: a bin at |logit| 8 to 16 is 0.0002 wide; 27 MB a task, 55 if weighted
COARSE = 10  # for slices: bins 32 times wider; 0.85 MB a task, 1.7 if weighted
ROUGH = 8  # for the sliding window, which every step updates with cold caches: 128 times wider; 0.21 MB a task
SMALLEST, LARGEST = -3, 10  # powers of two: |logit| below 1/8 is binned evenly, beyond 1024 it is 1024
OCTAVES = LARGEST - SMALLEST
WEIGHT_UNIT = LEAST_WEIGHT  # weights are rounded to it
LIMB = 30  # bits of a half of a squared weight, which has 60 at most: each half has room for 2**33 rows in one bin


def num_bins(bits: int) -> int:
    """K, for both signs."""
    return 2 * OCTAVES << bits


def bits_of(bins: int) -> int:
    """The resolution of a histogram of K bins."""
    return (bins // (2 * OCTAVES)).bit_length() - 1


def bins_of(logits: Tensor, bits: int = FINE) -> Tensor:
    """float32 logits -> int32 bins in [0, num_bins(bits)), in the logits' order; NaN is not allowed."""
    return _bins(_magnitudes(logits), logits, bits)


def centres(bits: int) -> Tensor:
    """(K,) float64: the middle of every bin."""
    return _middles(torch.arange(num_bins(bits)), bits)[0]


def _magnitudes(logits: Tensor) -> Tensor:
    """The bits of |logit| + 1/8 as integers, in order: one octave, evenly cut, holds all that is smaller than 1/8."""
    moved = logits.float().abs().add_(2.0**SMALLEST).clamp_(max=2.0**LARGEST * (1 - 2.0**-24))
    return moved.view(torch.int32)


def _bins(magnitudes: Tensor, logits: Tensor, bits: int) -> Tensor:
    places = (magnitudes >> (23 - bits)).sub_((127 + SMALLEST) << bits)
    sign = (logits.float() + 0.0).view(torch.int32) >> 31  # -1 below zero; + 0.0 makes -0.0 a zero
    return places.bitwise_xor_(sign).add_(num_bins(bits) // 2)  # x ^ -1 = -1 - x: mirrored


def _middles(bins: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """float64 middles, and widths with the sign of the middle: where a bin's magnitude grows to."""
    half = num_bins(bits) // 2
    place = torch.where(bins < half, half - 1 - bins, bins - half)
    octave = place >> bits
    width = torch.tensor([2.0 ** (SMALLEST - bits + k) for k in range(OCTAVES)], dtype=torch.float64)[octave]
    within = (place - (octave << bits) + (1 << bits) + 0.5) * width
    sign = torch.where(bins < half, -1.0, 1.0).double()
    return (within - 2.0**SMALLEST) * sign, width * sign


class LogitHistogram:
    """Integer sums for M tasks, mergeable by addition.

    `bins_M2K`: weight of negatives and of positives in each bin, in units of WEIGHT_UNIT. `sums_MS`, S = 2 K: the same
    weights times the bits of the magnitude that the bin cut off. A logit belongs to a bin whole: an AUC from the bins
    is that of logits rounded to `bits` bits of mantissa.

    `weighted`: rows may have other weights than 0 and 1. Then `squares_2MS` has their squares, in two halves of LIMB
    bits: the variance of a weighted sum asks for them. Else a weight is its own square.

    Room in one bin: 2**33 rows of the largest weight that data may have (MOST_WEIGHT), and for the sums a weight of
    2**31 (COARSE) or 2**36 (FINE); more is refused by `occupied`.
    """

    def __init__(self, num_tasks: int, device: torch.device, bits: int = FINE, weighted: bool = False) -> None:
        self.bits, shape = bits, (num_tasks, 2 * num_bins(bits))
        self.bins_M2K = torch.zeros(num_tasks, 2, num_bins(bits), dtype=torch.int64, device=device)
        self.sums_MS = torch.zeros(shape, dtype=torch.int64, device=device)
        self.squares_2MS = torch.zeros(2, *shape, dtype=torch.int64, device=device) if weighted else None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The state: bins, sums and, if weighted, squares. Histograms of the same shape are merged by adding these."""
        always = self.bins_M2K, self.sums_MS
        return always if self.squares_2MS is None else (*always, self.squares_2MS)

    def update(
        self, logits_BM: Tensor, labels_BM: Tensor, weights_BM: Tensor, first_task_B: Tensor | None = None
    ) -> None:
        """Add B rows; a weight of 0 leaves a row out of a task. Costs time for B rows, not for the bins.

        With `first_task_B` column m of row i belongs to task first_task_B[i] + m: there may be more tasks than columns.
        """
        magnitudes_BM = _magnitudes(logits_BM)
        bins_BM = _bins(magnitudes_BM, logits_BM, self.bits).add_(labels_BM.int(), alpha=num_bins(self.bits))
        tasks = torch.arange(logits_BM.shape[1], device=logits_BM.device)
        if first_task_B is not None:
            tasks = tasks + first_task_B[:, None]
        flat = bins_BM.long().add_(tasks, alpha=self.sums_MS.shape[1]).reshape(-1)
        weights = (weights_BM.float() / WEIGHT_UNIT).round_().reshape(-1).long()
        cut = magnitudes_BM.bitwise_and_((1 << (23 - self.bits)) - 1).reshape(-1)
        self.bins_M2K.view(-1).scatter_add_(0, flat, weights)
        self.sums_MS.view(-1).scatter_add_(0, flat, weights * cut)
        if self.squares_2MS is not None:
            squares = weights * weights
            for half, part in zip(self.squares_2MS, (squares >> LIMB, squares & ((1 << LIMB) - 1)), strict=True):
                half.view(-1).scatter_add_(0, flat, part)

    def counts(self) -> Tensor:
        """(M, 2, K) float64 on the CPU: the weight of negatives and positives in each bin."""
        return self.bins_M2K.cpu().double() * WEIGHT_UNIT

    def occupied(self, task: int) -> "Occupied":
        """The bins of a task that hold rows, as numbers. Raises DataError if one holds more than there is room for."""
        bins_2K, cut_2K = self.bins_M2K[task].cpu(), self.sums_MS[task].cpu().view(2, -1)
        used_k = bins_2K.sum(dim=0).nonzero()[:, 0]
        middle_k, width_k = _middles(used_k, self.bits)
        bins_2k, levels = bins_2K[:, used_k], 1 << (23 - self.bits)
        if (bins_2k > (1 << 63) // (levels // 2)).any():
            raise DataError(
                f"rows of nearly one score weigh {float(bins_2k.max()) * WEIGHT_UNIT:.2g} together, more than metrics "
                f"have room for; divide the weights (data.weight) by their mean, or take fewer rows"
            )
        cut_2k = cut_2K[:, used_k] - bins_2k * (levels // 2)  # either may have wrapped around, the difference is right
        weights_2k = bins_2k.double() * WEIGHT_UNIT
        return Occupied(
            middle_k,
            weights_2k,
            cut_2k.double() * (width_k * (WEIGHT_UNIT / levels)),
            weights_2k if self.squares_2MS is None else self._squares(task, used_k),
        )

    def _squares(self, task: int, used_k: Tensor) -> Tensor:
        high_2K, low_2K = self.squares_2MS[:, task].cpu().view(2, 2, -1)
        return (high_2K[:, used_k].double() * 2.0**LIMB + low_2K[:, used_k].double()) * WEIGHT_UNIT**2


@dataclass(frozen=True)
class Occupied:
    """k bins in order, float64 on the CPU. The deviations keep what binning loses of the sum of the logits."""

    middles_k: Tensor
    bins_2k: Tensor  # weight of negatives and of positives
    deviations_2k: Tensor  # weighted sum of (logit - middle)
    squares_2k: Tensor  # sum of the squared weights
