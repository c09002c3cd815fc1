"""Tables laid over ranks as evenly as their `sharding` allows: the least that the fullest rank can have.

Only for figures where TorchRec's planner finds no plan: a model is never trained by this.
"""

import math
from collections.abc import Collection

from dist_mtl.config import Config, TableConfig
from dist_mtl.config.sharding import SHARDINGS
from dist_mtl.parallel.optimizer_bytes import state_bytes
from dist_mtl.parallel.plan import CACHING, KERNELS, TORCHREC_NAMES, Fabric, kernels_of, shard_columns
from dist_mtl.tools.planning.memory import Rows


def has_choice(table: TableConfig, fabric: Fabric) -> bool:
    """Whether the planner may put a table into the GPU or onto the host, as it likes."""
    return len(kernels_of(table, fabric)) > 1


def spread(config: Config, world: int, local: int, cached: Collection[str] = (), device: str = "cpu") -> Rows:
    """A plan of all tables in the form of `describe_plan`. What may be split by rows is, over all ranks.

    `cached`: the tables that live on the host with a cache in the GPU, though nobody has asked for it.
    """
    kind = config.optim.embedding.kind
    free = "row_wise" if config.sharding.sums else "table_wise"
    held = [0.0] * world
    rows = []

    def size(table: TableConfig, count: int, columns: int) -> float:
        return count * columns * table.element_bytes + state_bytes(kind, count, columns)

    def bytes_of(item: tuple[str, TableConfig]) -> float:
        return size(item[1], item[1].rows, item[1].dim)

    # The largest first: the classical rule for even loads.
    for name, table in sorted(config.all_tables.items(), key=bytes_of, reverse=True):
        shards = []
        sharding = free if table.sharding == "auto" else table.sharding
        for count, columns, ranks in _pieces(table, sharding, world, local, held, device):
            for place, rank in enumerate(ranks):
                first = place * count
                mine = min(count, table.rows - first) if len(ranks) > 1 else table.rows
                if mine > 0:
                    shards.append({"rank": rank, "offset": [first, 0], "size": [mine, columns]})
                    held[rank] += size(table, mine, columns)
        kernel = "dense" if SHARDINGS[sharding].replicated else CACHING if name in cached else KERNELS[table.kernel]
        rows.append({"table": name, "sharding": TORCHREC_NAMES[sharding], "kernel": kernel, "shards": shards})
    return sorted(rows, key=lambda row: row["table"])


def _pieces(
    table: TableConfig, sharding: str, world: int, local: int, held: list[float], device: str
) -> list[tuple[int, int, list[int]]]:
    """(rows of a shard, columns, ranks in the order of the rows) of each block of columns."""
    emptiest = sorted(range(world), key=lambda rank: held[rank])
    nodes = [list(range(first, min(first + local, world))) for first in range(0, world, local)]
    by_room = sorted(nodes, key=lambda ranks: max(held[rank] for rank in ranks))
    traits = SHARDINGS[sharding]
    if traits.replicated:
        return []
    widths = enumerate(_widths(table, device) if traits.splits_columns else [table.dim])
    match traits.rows:
        case "whole":
            return [(table.rows, width, [emptiest[n % world]]) for n, width in widths]
        case "node":
            return [(math.ceil(table.rows / local), width, by_room[n % len(nodes)]) for n, width in widths]
        case "world":
            return [(math.ceil(table.rows / world), width, list(range(world))) for _, width in widths]


def _widths(table: TableConfig, device: str) -> list[int]:
    """Columns of each shard of a table that is cut by columns."""
    width = shard_columns(table, device)
    return [width] * (table.dim // width)
