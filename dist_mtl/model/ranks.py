"""What a loss of the global batch asks of the other ranks; who answers is not the model's business."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """Collectives that autograd sees through. Every rank calls them alike, in one order, whatever its rows are.

    A loss is the sum of the ranks' shares. The gradient that a rank gets is that of this sum, for its own rows.
    """

    rank: int
    size: int

    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) -> (size * B, ...): the ranks' rows in the order of the ranks, which is that of the slots."""

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over the ranks, the same bits on each."""


@dataclass(frozen=True)
class OneRank:
    """A world of one rank: the global batch is here."""

    rank: int = 0
    size: int = 1

    def gather(self, x: Tensor) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x
