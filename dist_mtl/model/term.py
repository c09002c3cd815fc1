"""What the loss has beside the tasks' cross-entropies: terms, each in a file of its own, each with its factor.

A new one: its configuration in `config/model.py`, this protocol in a file of its own, a `case` in `model/loss.py`.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from dist_mtl.data.batch import Batch
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import Ranks

Statistics = dict[str, dict[str, Any]]  # kind -> name -> number or distribution


class Term(Protocol):
    """One or several numbers, functions of the *global* batch, which are added to the loss times their factors.

    Derive from it for what is the same in most. Which collectives run may depend on the step, never on the rows.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of its L numbers, as events and reports show them."""

    @property
    def num_totals(self) -> int:
        """K, the length of `totals`."""
        return 0

    def totals(self, batch: Batch) -> Tensor:
        """(K,) float64: sums over this rank's rows that `shares` needs of all rows."""
        return batch.weight_B.new_empty(0, dtype=torch.float64)

    def shares(self, outputs: Outputs, batch: Batch, total: Tensor, totals_K: Tensor, ranks: Ranks) -> Tensor:
        """(L,): this rank's shares, of which the sum over the ranks is the numbers themselves.

        `total`: the weight of all rows of the global batch; `totals_K`: those of `totals`, over all ranks. Without
        weight an exact zero with a zero gradient.
        """

    def factors(self, step: int) -> tuple[float, ...]:
        """Of its numbers in the loss at a step, (L,)."""

    def statistics(
        self, labels: tuple[str, ...], outputs: Outputs, batch: Batch, share_B: Tensor, ranks: Ranks
    ) -> Statistics:
        """What a diagnosis shows of it, the same on every rank. `share_B`: each row's part of the global weight."""
        return {}


def inverse_of(totals: Tensor) -> Tensor:
    """1 / total, 0 where there is no weight."""
    return torch.where(totals > 0, 1 / totals, 0.0)
