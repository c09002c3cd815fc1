"""Dense layers: the only place with a Linear. Legend: B rows, I inputs, O outputs, E experts, F features, D dim."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_mtl.data.hashing import signed_key
from dist_mtl.model.embedding import mix_


class Noise:
    """Dropout masks that depend on (seed, step, layer, global slot, unit): not on the world size, nor on a restart.

    torch's own generators give every rank a stream of its own, so that the loss changes with the number of ranks, and
    their state would have to be saved. One `Noise` serves one forward pass; layers draw in the order they run.
    """

    def __init__(self, seed: int, step: int, slots_B: Tensor) -> None:
        self.rows_B1 = mix_(slots_B + signed_key(seed, step, "dropout"))[:, None]
        self.layer = 0

    @classmethod
    def of_rows(cls, rows_B1: Tensor) -> "Noise":
        """The noise of a step from its `rows_B1`, none of it drawn."""
        noise = cls.__new__(cls)
        noise.rows_B1, noise.layer = rows_B1, 0
        return noise

    def keep(self, width: int, rate: float) -> Tensor:
        """(B, width) bool: true where a unit stays, with probability 1 - rate (to 2**-16).

        One word serves four units: mixing is 11 % of a step where each unit has its own (MovieLens, one core).
        """
        self.layer += 1
        words = mix_(torch.arange(-(-width // 4), device=self.rows_B1.device) + (self.layer << 32))
        bits = mix_(self.rows_B1 + words).view(torch.int16)[:, :width]
        return bits >= round(rate * 0x10000) - 0x8000


def dropout(x: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """Inverted dropout; the identity without `noise` (evaluation) or at rate 0."""
    if noise is None or rate == 0:
        return x
    kept = noise.keep(x[0].numel(), rate).view_as(x)
    return x * kept.to(x.dtype).mul_(1 / (1 - rate))


class MLP(nn.Module):
    """Linear -> ReLU -> dropout, once for each width."""

    def __init__(self, inputs: int, widths: Sequence[int], rate: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((inputs, *widths)))
        self.rate = rate
        self.outputs = widths[-1] if widths else inputs

    def forward(self, x_BI: Tensor, noise: Noise | None = None) -> Tensor:
        for layer in self.layers:
            x_BI = dropout(functional.relu(layer(x_BI), inplace=True), self.rate, noise)
        return x_BI


class ParallelMLP(nn.Module):
    """E independent MLPs over one input: (B, I) -> E tensors (B, O).

    Their first layers, where most of the work is, are one wide product; the others work on slices of it in place.
    """

    def __init__(self, count: int, inputs: int, widths: Sequence[int], rate: float = 0.0) -> None:
        super().__init__()
        self.first = MLP(inputs, (count * widths[0],), rate)
        self.rest = nn.ModuleList(MLP(widths[0], widths[1:], rate) for _ in range(count))
        self.outputs = widths[-1]

    def forward(self, x_BI: Tensor, noise: Noise | None = None) -> list[Tensor]:
        slices = self.first(x_BI, noise).chunk(len(self.rest), dim=1)
        return [rest(part, noise) for rest, part in zip(self.rest, slices, strict=True)]


class Dot(nn.Module):
    """Pairwise dot products of F vectors of one dim (DLRM, arXiv 1906.00091): (B, F, D) -> (B, F(F-1)/2)."""

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        pairs = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.register_buffer("flat", pairs[0] * num_vectors + pairs[1], persistent=False)
        self.outputs = pairs.shape[1]

    def forward(self, x_BFD: Tensor) -> Tensor:
        return torch.bmm(x_BFD, x_BFD.transpose(1, 2)).flatten(1).index_select(1, self.flat)


class Cross(nn.Module):
    """DCN-v2 cross layers, x <- x0 * (W x + b) + x with W full or U V of a given rank (arXiv 2008.13535, eq. 1, 2)."""

    def __init__(self, inputs: int, layers: int, rank: int | None) -> None:
        super().__init__()
        if rank is None:
            mixers = [nn.Linear(inputs, inputs) for _ in range(layers)]
        else:
            mixers = [
                nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, inputs)) for _ in range(layers)
            ]
        self.mixers = nn.ModuleList(mixers)

    def forward(self, x0_BI: Tensor) -> Tensor:
        x_BI = x0_BI
        for mixer in self.mixers:
            x_BI = torch.addcmul(x_BI, x0_BI, mixer(x_BI))
        return x_BI
