"""The sharding plan: which rank holds which part of which table. Made by TorchRec's planner on every rank alike.

Every rank plans for itself: `collective_plan` leaves the other ranks waiting when the first one fails. The planner is
deterministic, and `shard` compares a digest of the plans before anything is built on them.
"""

import hashlib
import logging
import math
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ShardingPlan

from dist_mtl.config import TableConfig
from dist_mtl.errors import ConfigError

TORCHREC_NAMES = {
    "table_wise": "table_wise",
    "row_wise": "row_wise",
    "column_wise": "column_wise",
    "table_row_wise": "table_row_wise",
    "grid": "grid_shard",
    "data_parallel": "data_parallel",
}


logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)  # it warns of its own defaults at each start


# On CPU the planner's cost model, made for GPUs, prefers row-wise everywhere; over gloo that trains at 0.75 of the
# speed of table-wise (2 ranks, 26 tables). So a table is split by rows there only if it takes more than this share of a
# rank's memory.
LARGE_SHARE = 0.1


class Sharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder with the sharding types that it hides on CPU; gloo runs them exactly (measured)."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return super().sharding_types("cuda" if compute_device_type == "cpu" else compute_device_type)


@dataclass(frozen=True)
class Fabric:
    """What a plan depends on besides the tables."""

    world: int
    local_world: int
    device: str
    rows_per_rank: int


def make_plan(model: nn.Module, tables: dict[str, TableConfig], fabric: Fabric) -> ShardingPlan:
    """Plan the tables of `model` (on the meta device). Raises ConfigError when a table can not be sharded as asked."""
    constraints = {name: _constraint(name, table, fabric) for name, table in tables.items()}
    topology = Topology(
        world_size=fabric.world,
        local_world_size=fabric.local_world,
        compute_device=fabric.device,
        hbm_cap=_memory(fabric) if fabric.device == "cuda" else None,
        ddr_cap=None if fabric.device == "cuda" else _memory(fabric),
    )
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=fabric.rows_per_rank, constraints=constraints)
    try:
        return planner.plan(model, [Sharder()])
    except PlannerError as error:
        raise ConfigError(f"tables: no sharding plan fits {fabric.world} ranks: {error}") from None


def describe_plan(plan: ShardingPlan) -> list[dict]:
    """The plan as rows: table, sharding, kernel, and for every shard its rank, offsets and sizes."""
    rows = []
    for module in plan.plan.values():
        for table, parameter in module.items():
            shards = parameter.sharding_spec.shards if parameter.sharding_spec is not None else []
            rows.append(
                {
                    "table": table,
                    "sharding": parameter.sharding_type,
                    "kernel": parameter.compute_kernel,
                    "shards": [
                        {"rank": s.placement.rank(), "offset": list(s.shard_offsets), "size": list(s.shard_sizes)}
                        for s in shards
                    ],
                }
            )
    return sorted(rows, key=lambda row: row["table"])


def plan_digest(plan: ShardingPlan) -> int:
    """A 63-bit digest; ranks with different plans would exchange garbage."""
    return int.from_bytes(hashlib.sha256(repr(describe_plan(plan)).encode()).digest()[:8], "little") >> 1


def _constraint(name: str, table: TableConfig, fabric: Fabric) -> ParameterConstraints:
    """What the planner may do with a table. Never column-wise on its own: that changes row-wise Adagrad's maths."""
    # Row-wise shards are ceil(rows / ranks) rows; a rank left with none crashes FBGEMM's CPU kernel (measured).
    every_rank_has_rows = table.rows > math.ceil(table.rows / fabric.world) * (fabric.world - 1)
    splits = every_rank_has_rows and fabric.world > 1
    if fabric.device == "cpu" and 4 * table.rows * table.dim < LARGE_SHARE * _memory(fabric):
        splits = False
    kinds = ["table_wise", *(["row_wise"] if splits else [])]
    if table.sharding != "auto":
        kinds = [table.sharding]
        if table.sharding in ("row_wise", "table_row_wise", "grid") and not every_rank_has_rows:
            raise ConfigError(
                f"tables.{name}: {table.rows} rows over {fabric.world} ranks leave a rank without a row, which "
                f"row-wise sharding can not do; use sharding = 'table_wise' or 'data_parallel', or a few more rows"
            )
    kernels = ["dense"] if table.sharding == "data_parallel" else ["fused"]
    # The planner's own smallest column shard is 128 columns, more than most tables have.
    columns = table.dim // 2 if table.sharding in ("column_wise", "grid") else None
    return ParameterConstraints(
        sharding_types=[TORCHREC_NAMES[kind] for kind in kinds], compute_kernels=kernels, min_partition=columns
    )


def _memory(fabric: Fabric) -> int:
    """Bytes that a rank may plan with."""
    if fabric.device == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    with open("/proc/meminfo") as lines:
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    return total // fabric.local_world
