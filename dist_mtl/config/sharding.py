"""The ways in which a table can be cut over ranks: TorchRec's own, and what is true of each. A new one is a line here.

What depends on a sharding (which optimizers it leaves exact, what may be int8, how a plan is checked, laid out and
timed) reads these traits, not its name.
"""

from dataclasses import dataclass
from typing import Literal

from dist_mtl.config.section import PathText, Positive, Section

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


Communication = Literal["fp32", "fp16", "bf16", "int8"]


class ShardingConfig(Section):
    """How the tables are at work over many ranks; each table's own place is in `tables`."""

    plan: PathText | None = None  # a plan of dist-mtl plan to train by; none: planned at the start
    forward: Communication = "fp32"  # of pooled embeddings on their way between ranks; fp32 is exact
    backward: Communication = "fp32"  # of their gradients on the way back
    replicas: Positive = 1  # groups of ranks that each hold all tables; more than 1 is refused, it would not be exact
    # base: one batch after another. sparse_dist: the ids of the next batch travel meanwhile. prefetch: its rows also go
    # into the cache of `uvm_caching`. semi_sync: it is looked up before this one's update, so its rows are a step old.
    # The first three train the same bits. base is the default: the gain of sparse_dist has not been timed here, and
    # that of TorchRec's own over gloo is 5 to 9 %, within the noise.
    pipeline: Literal["base", "sparse_dist", "prefetch", "semi_sync"] = "base"

    @property
    def sums(self) -> bool:
        """Whether what travels can be summed over ranks on its way, as row-wise tables need it."""
        return "int8" not in (self.forward, self.backward)
