"""The sharding plan: which rank holds which part of which table. Made by TorchRec's planner on every rank alike.

Every rank plans for itself: `collective_plan` leaves the other ranks waiting when the first one fails. The planner is
deterministic, and `shard` compares a digest of the plans before anything is built on them.
"""

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import (
    CacheParams,
    ShardingPlan,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dist_mtl.config import TableConfig
from dist_mtl.config.sharding import SHARDINGS
from dist_mtl.errors import ConfigError
from dist_mtl.terminal.wording import plural

TORCHREC_NAMES = {name: traits.torchrec for name, traits in SHARDINGS.items()}
KERNELS = {
    "auto": "fused",
    "fused": "fused",
    "uvm": "fused_uvm",
    "uvm_caching": "fused_uvm_caching",
    "key_value": "key_value",
}
CACHING = KERNELS["uvm_caching"]

# The most columns that a shard may have. FBGEMM 1.6 to 1.8, codegen/genscript/jinja_environment.py:
# max_embedding_dim = 2048, which the CUDA lookups check in forward and backward (embedding_forward_split_template.cu,
# embedding_backward_split_template.cu: TORCH_CHECK_LE(max_D, 2048)); the templates make the fused kernels of every
# optimizer, those with rows on the host or in a key-value store, and the dense one of data-parallel tables. The CPU's
# have no bound (8,192 columns: tests/unit/test_widest.py).
MOST_COLUMNS = {"cuda": 2048}
FEWEST_COLUMNS = 128  # of a shard that the bound above makes; TorchRec's own least


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
class Hardware:
    """What a rank has for itself: bytes, and bytes/s. For a plan of a machine that is not this one."""

    hbm: int  # 0 on CPU
    host: int
    hbm_rate: float
    host_rate: float
    link_rate: float  # between the two
    near_rate: float  # to ranks of the same node
    far_rate: float  # to those of other nodes


@dataclass(frozen=True)
class Fabric:
    """What a plan depends on besides the tables."""

    world: int
    local_world: int
    device: str
    rows_per_rank: int
    prefetch: bool = False  # rows of the next batch go into the caches early
    sums: bool = True  # pooled embeddings may be summed over ranks on their way
    hardware: Hardware | None = None  # none: this machine's memory, TorchRec's own rates


def make_plan(
    model: nn.Module, tables: dict[str, TableConfig], fabric: Fabric, optimizer: type[torch.optim.Optimizer]
) -> ShardingPlan:
    """Plan the tables of `model` (on the meta device). Raises ConfigError when a table can not be sharded as asked."""
    try:
        return find_plan(model, tables, fabric, optimizer)
    except PlannerError as error:
        why = (
            "" if fabric.sums else " with each table that is `auto` on one rank, since int8 can not be summed over them"
        )
        raise ConfigError(f"tables: no sharding plan fits {plural(fabric.world, 'rank')}{why}: {error}") from None


def find_plan(
    model: nn.Module, tables: dict[str, TableConfig], fabric: Fabric, optimizer: type[torch.optim.Optimizer]
) -> ShardingPlan:
    """The same; TorchRec's PlannerError if the tables do not fit. `optimizer`: of the tables, for its states' bytes."""
    free = [name for name, table in tables.items() if len(kernels_of(table, fabric)) > 1]
    free.sort(key=lambda name: (-tables[name].rows * tables[name].dim, name))
    # Tables that may leave the GPU do so only if they must, the largest first, and no more of them than that: doubled
    # until there is a plan, then halved back. To let TorchRec try both kernels of each table takes it over ten minutes
    # for 40 tables on 128 ranks, and 7 s where each has one (measured).
    failing = -1
    for count in sorted({0, *(2**n for n in range(len(free).bit_length())), len(free)}):
        try:
            plan, fitting = _search(model, tables, fabric, optimizer, frozenset(free[:count])), count
            break
        except PlannerError:
            if count == len(free):
                raise
            failing = count
    while fitting - failing > 1:
        middle = (failing + fitting) // 2
        try:
            plan, fitting = _search(model, tables, fabric, optimizer, frozenset(free[:middle])), middle
        except PlannerError:
            failing = middle
    return plan


def _search(
    model: nn.Module,
    tables: dict[str, TableConfig],
    fabric: Fabric,
    optimizer: type[torch.optim.Optimizer],
    cached: frozenset[str],
) -> ShardingPlan:
    """TorchRec's plan, if of the tables that have the choice these ones are on the host, cached in the GPU."""
    constraints = {name: _constraint(name, table, fabric, cached) for name, table in tables.items()}
    with warnings.catch_warnings(), _stated(model, optimizer):
        warnings.simplefilter("ignore", FutureWarning)  # of TorchRec, of its own default reservation
        planner = EmbeddingShardingPlanner(
            topology=_topology(fabric, _memory(fabric)), batch_size=fabric.rows_per_rank, constraints=constraints
        )
        return planner.plan(model, [Sharder()])


def _topology(fabric: Fabric, memory: tuple[int, int]) -> Topology:
    """`memory`: bytes as of `_memory`. Rates as TorchRec has them, in bytes/ms."""
    hbm, host = memory
    place = {
        "world_size": fabric.world,
        "local_world_size": fabric.local_world,
        "compute_device": fabric.device,
        "hbm_cap": hbm,
        "ddr_cap": host,  # TorchRec's own is 128 GiB a rank, whatever the node has
    }
    if (own := fabric.hardware) is None:
        return Topology(**place)
    return Topology(
        **place,
        hbm_mem_bw=own.hbm_rate / 1000,
        ddr_mem_bw=own.host_rate / 1000,
        hbm_to_ddr_mem_bw=own.link_rate / 1000,
        intra_host_bw=own.near_rate / 1000,
        inter_host_bw=own.far_rate / 1000,
    )


@contextmanager
def _stated(model: nn.Module, optimizer: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Let the planner see the optimizer of the tables: without it, it leaves no room for the states."""
    weights = [
        bag.weight
        for collection in model.modules()
        if isinstance(collection, EmbeddingBagCollection)
        for bag in collection.embedding_bags.values()
    ]
    for weight in weights:
        weight._optimizer_classes = [optimizer]  # where apply_optimizer_in_backward will write it, too
    try:
        yield
    finally:
        for weight in weights:
            del weight._optimizer_classes


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


def cache_of(share: float | None, fabric: Fabric) -> CacheParams:
    """Of the kernel `uvm_caching`; `share` None: TorchRec's own."""
    return CacheParams(load_factor=share, prefetch_pipeline=fabric.prefetch or None)


def kernels_of(table: TableConfig, fabric: Fabric) -> list[str]:
    """The kernels that a table may have. A dynamic one has no cache: its rows are renewed behind the kernel's back."""
    if table.traits.replicated:
        return ["dense"]
    if table.kernel == "auto" and fabric.device == "cuda" and table.dynamic is None:
        return [KERNELS["fused"], CACHING]
    return [KERNELS[table.kernel]]


def shard_columns(table: TableConfig, device: str) -> int:
    """Columns of a shard of a table that is cut by columns: half of them, or the most that the device's kernels take.

    TorchRec cuts into equal shards, so it is a divisor; half of them, and too wide, where there is none.
    """
    half, most = table.dim // 2, MOST_COLUMNS.get(device, table.dim)
    widths = (width for width in range(min(half, most) // 4 * 4, FEWEST_COLUMNS - 1, -4) if table.dim % width == 0)
    return half if half <= most else next(widths, half)


def plan_digest(plan: ShardingPlan) -> int:
    """A 63-bit digest; ranks with different plans would exchange garbage."""
    return int.from_bytes(hashlib.sha256(repr(describe_plan(plan)).encode()).digest()[:8], "little") >> 1


def _constraint(name: str, table: TableConfig, fabric: Fabric, cached: frozenset[str]) -> ParameterConstraints:
    """What the planner may do with a table. Never column-wise on its own: that changes row-wise Adagrad's maths."""
    # Row-wise shards are ceil(rows / ranks) rows; a rank left with none crashes FBGEMM's CPU kernel (measured).
    every_rank_has_rows = table.rows > math.ceil(table.rows / fabric.world) * (fabric.world - 1)
    splits = every_rank_has_rows and fabric.world > 1 and fabric.sums
    if fabric.device == "cpu" and 4 * table.rows * table.dim < LARGE_SHARE * _memory(fabric)[1]:
        splits = False
    kinds = ["table_wise", *(["row_wise"] if splits else [])]
    if table.sharding != "auto":
        kinds = [table.sharding]
        if table.traits.sums and not every_rank_has_rows:
            raise ConfigError(
                f"tables.{name}: {plural(table.rows, 'row')} over {fabric.world} ranks leave a rank without a "
                "row, which "
                f"row-wise sharding can not do; use sharding = 'table_wise' or 'data_parallel', or a few more rows"
            )
    kernels = kernels_of(table, fabric)
    if len(kernels) > 1:
        kernels = [CACHING if name in cached else KERNELS["fused"]]
    # The planner's own smallest column shard is 128 columns, more than most tables have.
    columns = shard_columns(table, fabric.device) if table.traits.splits_columns else None
    return ParameterConstraints(
        sharding_types=[TORCHREC_NAMES[kind] for kind in kinds],
        compute_kernels=kernels,
        min_partition=columns,
        cache_params=cache_of(table.cache_share, fabric) if CACHING in kernels else None,
    )


def _memory(fabric: Fabric) -> tuple[int, int]:
    """Bytes of HBM (0 on CPU) and of host memory that a rank may plan with."""
    if (own := fabric.hardware) is not None:
        return own.hbm, own.host
    is_cuda = fabric.device == "cuda"
    hbm = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory if is_cuda else 0
    with open("/proc/meminfo") as lines:
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    return hbm, total // fabric.local_world
