"""One histogram a task over the logit: every metric of a task from one all-reduce, in fixed memory, to the same bits.

Bins over the logit, not the probability: at a base rate of 0.05 % nearly every probability falls into the first of 200
equal-width bins (the closest peer then reads AUC 0.554 where 0.788 is true). And bins as float32 itself has them, a fixed
number to every power of two: scores that are shifted or badly scaled are resolved as well as good ones.

All sums are integers in fixed point, so that they do not depend on the order of addition: merged over 1, 2 or 4 ranks, or
resumed in the middle, they are the same bits.
"""

import torch
from torch import Tensor
from torch.nn import functional

MANTISSA = 12  # bits: 4,096 bins to every power of two; a bin at logit -7.6 (p = 0.05 %) is 0.001 wide
SMALLEST, LARGEST = -3, 7  # powers of two: |logit| below 1/8 is binned evenly, beyond 128 it is 128 (p = e-128)
HALF = (LARGEST - SMALLEST + 1) << MANTISSA  # bins of one sign
NUM_BINS = 2 * HALF
WEIGHT_UNIT = 2.0**-20  # weights are rounded to it; room for 2**43 rows
SUM_UNIT = 2.0**-32  # probabilities and losses are rounded to it; room for 2e9 predicted positives
SUMS = ("predicted", "logloss")


def bins_of(logits: Tensor) -> Tensor:
    """float32 logits -> int64 bins in [0, NUM_BINS), in the logits' order; NaN is not allowed."""
    bits = logits.float().abs().clamp(max=2.0**LARGEST * (1 - 2.0**-24)).view(torch.int32)
    first = (127 + SMALLEST - 1) << MANTISSA
    regular = (bits >> (23 - MANTISSA)) - first
    even = (logits.float().abs() * 2.0 ** (MANTISSA - SMALLEST)).int()
    place = torch.where(regular >= 1 << MANTISSA, regular, even.clamp(max=(1 << MANTISSA) - 1)).long()
    return torch.where(logits < 0, HALF - 1 - place, HALF + place)


class LogitHistogram:
    """Integer sums for M tasks, mergeable by addition.

    `bins_M2K`: weight of negatives and of positives in each bin, in units of WEIGHT_UNIT. `sums_MS`: see SUMS, in units
    of SUM_UNIT. A logit belongs to a bin whole: an AUC from the bins is that of logits rounded to 12 bits of mantissa.
    """

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.bins_M2K = torch.zeros(num_tasks, 2, NUM_BINS, dtype=torch.int64, device=device)
        self.sums_MS = torch.zeros(num_tasks, len(SUMS), dtype=torch.int64, device=device)

    def update(self, logits_BM: Tensor, labels_BM: Tensor, weights_BM: Tensor) -> None:
        """Add B rows; a weight of 0 leaves a row out of a task. Costs time for B rows, not for the bins."""
        tasks = torch.arange(logits_BM.shape[1], device=logits_BM.device)
        flat_BM = (tasks * 2 + labels_BM.long()) * NUM_BINS + bins_of(logits_BM)
        weight_BM = (weights_BM.double() / WEIGHT_UNIT).round_().long()
        self.bins_M2K.view(-1).scatter_add_(0, flat_BM.reshape(-1), weight_BM.reshape(-1))
        exact_BM = weight_BM.double() * (WEIGHT_UNIT / SUM_UNIT)
        x_BM = logits_BM.double().clamp(-(2.0**LARGEST), 2.0**LARGEST)  # a loss of 128 a row at most
        losses_BM = functional.softplus(x_BM, threshold=1e9) - x_BM * labels_BM
        for place, values_BM in enumerate((torch.sigmoid(x_BM), losses_BM)):
            self.sums_MS[:, place] += (values_BM * exact_BM).round_().long().sum(dim=0)

    def counts(self) -> Tensor:
        """(M, 2, K) float64 on the CPU: the weight of negatives and positives in each bin."""
        return self.bins_M2K.cpu().double() * WEIGHT_UNIT

    def sums(self) -> Tensor:
        """(M, S) float64 on the CPU."""
        return self.sums_MS.cpu().double() * SUM_UNIT


def centres() -> Tensor:
    """(K,) float64: the middle of every bin."""
    place = torch.arange(HALF, dtype=torch.float64)
    octave = torch.div(place, 1 << MANTISSA, rounding_mode="floor")
    within = place - octave * (1 << MANTISSA) + 0.5
    even = octave == 0
    start = torch.where(even, 0.0, 2.0 ** (SMALLEST + octave - 1))
    width = torch.where(even, 2.0 ** (SMALLEST - MANTISSA), 2.0 ** (SMALLEST + octave - 1 - MANTISSA))
    positive = start + within * width
    return torch.cat([-positive.flip(0), positive])
