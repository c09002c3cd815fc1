"""The ways in which a table can be cut over ranks: TorchRec's own, and what is true of each. A new one is a line here.

What depends on a sharding (which optimizers it leaves exact, what may be int8, how a plan is checked, laid out and
timed) reads these traits, not its name.
"""

from dataclasses import dataclass
from typing import Literal

Sharding = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]


@dataclass(frozen=True)
class Traits:
    """What is true of a sharding."""

    torchrec: str  # its name there
    rows: Literal["whole", "node", "world"] = "whole"  # cut evenly over the ranks of one node, or over all of them
    splits_columns: bool = False  # into ranges of their own ranks
    replicated: bool = False  # every rank has the whole table, whose gradient is summed over ranks

    @property
    def sums(self) -> bool:
        """Whether pooled embeddings are sums over ranks. TorchRec's int8 codec has no sums (it fails an assertion)."""
        return self.rows != "whole"


SHARDINGS: dict[str, Traits] = {
    "table_wise": Traits("table_wise"),
    "row_wise": Traits("row_wise", rows="world"),
    "column_wise": Traits("column_wise", splits_columns=True),
    "table_row_wise": Traits("table_row_wise", rows="node"),
    "grid": Traits("grid_shard", rows="node", splits_columns=True),
    "data_parallel": Traits("data_parallel", replicated=True),
}
