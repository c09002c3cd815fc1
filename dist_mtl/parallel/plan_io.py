"""A sharding plan written down, and taken from there exactly: between `config.plan_file` and TorchRec's own form."""

from collections.abc import Iterator

from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dist_mtl.config import TableConfig
from dist_mtl.config.plan_file import PlanFile, PlannedShard, PlannedTable, read_plan
from dist_mtl.errors import ConfigError
from dist_mtl.parallel.plan import KERNELS, TORCHREC_NAMES, Fabric, cache_of, describe_plan


def load_plan(path: str, model: nn.Module, tables: dict[str, TableConfig], fabric: Fabric) -> ShardingPlan:
    """The plan of a file, exactly. Raises ConfigError if it is no plan, or one of another run; says what differs."""
    file = read_plan(path)
    if told := list(_differences(file, tables, fabric)):
        raise ConfigError(f"sharding.plan: {path}: not a plan of this run: {'; '.join(told)}. Make one that is")
    name = next(name for name, m in model.named_modules() if isinstance(m, EmbeddingBagCollection))
    parameters = {table.table: _parameter(table, fabric) for table in file.tables}
    return ShardingPlan({name: EmbeddingModuleShardingPlan(parameters)})


def as_planned(tables: dict[str, TableConfig], plan: ShardingPlan) -> dict[str, TableConfig]:
    """The tables with the sharding and the kernel that a plan has given them."""
    shardings, kernels = ({v: k for k, v in names.items() if k != "auto"} for names in (TORCHREC_NAMES, KERNELS))
    found = dict(tables)
    for row in describe_plan(plan):
        chosen = {"sharding": shardings[row["sharding"]], "kernel": kernels.get(row["kernel"], "auto")}
        found[row["table"]] = tables[row["table"]].model_copy(update=chosen)
    return found


def file_of_plan(plan: ShardingPlan, tables: dict[str, TableConfig], fabric: Fabric) -> PlanFile:
    """The plan as it is written down."""
    found = as_planned(tables, plan)
    planned = []
    for row in describe_plan(plan):
        table = found[row["table"]]
        shards = sorted(row["shards"], key=lambda shard: shard["offset"][::-1])
        planned.append(
            PlannedTable(
                table=row["table"],
                rows=table.rows,
                dim=table.dim,
                sharding=table.sharding,
                kernel="dense" if table.sharding == "data_parallel" else table.kernel,
                precision=table.precision,
                cache_share=table.cache_share if table.kernel == "uvm_caching" else None,
                shards=tuple(
                    PlannedShard(rank=shard["rank"], offset=tuple(shard["offset"]), size=tuple(shard["size"]))
                    for shard in shards
                ),
            )
        )
    return PlanFile(world=fabric.world, local_world=fabric.local_world, tables=tuple(planned))


def _differences(file: PlanFile, tables: dict[str, TableConfig], fabric: Fabric) -> Iterator[str]:
    """What a plan is for, against what this run is."""
    here = {"world": fabric.world, "local_world": fabric.local_world, "replicas": 1}
    for name, value in here.items():
        if getattr(file, name) != value:
            yield f"{name} is {getattr(file, name)} there and {value} here"
    planned = {table.table: table for table in file.tables}
    for names, told in ((planned.keys() - tables, "only there"), (tables.keys() - planned, "only here")):
        if names:
            yield f"tables {', '.join(sorted(names))} are {told}"
    for name in sorted(planned.keys() & tables.keys()):
        there, mine = planned[name], tables[name]
        for key in ("rows", "dim", "precision", "sharding", "kernel", "cache_share"):
            free = key == "kernel" and there.kernel == "dense"
            if not free and getattr(mine, key) not in ("auto", None, getattr(there, key)):
                yield f"tables.{name}.{key} is {getattr(there, key)} there and {getattr(mine, key)} here"


def _parameter(table: PlannedTable, fabric: Fabric) -> ParameterSharding:
    """A table of a file, as TorchRec's planner would have planned it."""
    if table.sharding == "data_parallel":
        return ParameterSharding("data_parallel", "dense", ranks=list(range(fabric.world)))
    shards = [
        ShardMetadata(
            shard_offsets=list(shard.offset),
            shard_sizes=list(shard.size),
            placement=placement(fabric.device, shard.rank, fabric.local_world),
        )
        for shard in table.shards
    ]
    return ParameterSharding(
        TORCHREC_NAMES[table.sharding],
        KERNELS[table.kernel],
        ranks=[shard.rank for shard in table.shards],
        sharding_spec=EnumerableShardingSpec(shards),
        cache_params=cache_of(table.cache_share, fabric) if table.kernel == "uvm_caching" else None,
    )
