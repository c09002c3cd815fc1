"""A configuration on a cluster: the plan that training would make there, what it needs, or why there is none."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import torch
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingPlan

from dist_mtl.config import Config
from dist_mtl.errors import ConfigError
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.capabilities import check_device, check_plan, too_wide
from dist_mtl.parallel.optimizers import embedding_optimizer
from dist_mtl.parallel.plan import Fabric, Hardware, describe_plan, find_plan
from dist_mtl.parallel.plan_io import load_plan
from dist_mtl.tools.planning.device import GB, Cluster
from dist_mtl.tools.planning.even_plan import has_choice, spread
from dist_mtl.tools.planning.memory import RankMemory, Rows, memory_of, worst
from dist_mtl.tools.planning.roofline import Part, seconds_of, step_of
from dist_mtl.tools.planning.workload import Workload, workload_of


@dataclass(frozen=True)
class Outlook:
    """What to expect of a run. `plan`: training's own; if there is none (`reason`), an even spread."""

    config: Config
    cluster: Cluster
    load: Workload
    plan: Rows
    memory: list[RankMemory]
    parts: list[Part]
    reason: str | None
    sharding: ShardingPlan | None = None  # what `plan` tells of, if it is training's own

    @property
    def fits(self) -> bool:
        return self.reason is None

    @property
    def seconds(self) -> float:
        return seconds_of(self.parts)

    def most(self, place: str) -> float:
        """GB of the fullest rank, in `hbm` or `host`."""
        return self.memory[worst(self.memory, place)].total(place) / GB


def outlook(config: Config, cluster: Cluster, bag_ids: float | None = None, search: bool = True) -> Outlook:
    """What `config` needs on `cluster`. Allocates no table.

    Without `search` the tables are spread evenly, which is quick and the least that any plan needs: if that does not
    fit, nothing does. A plan that the configuration names is taken as it is. Raises ConfigError if the ranks can not
    share a batch, or a table can not be sharded as asked.
    """
    check_ranks(config, cluster)
    check_device(config.optim, config.sharding, config.all_tables, torch.device(cluster.profile.device))
    model = MultiTaskModel(config, torch.device("meta"))
    load = workload_of(config, model, bag_ids)
    fabric = fabric_of(config, cluster)
    tables = config.all_tables
    if config.sharding.plan is not None:
        return _of_plan(config, cluster, load, load_plan(config.sharding.plan, model, tables, fabric))
    least = _least(config, cluster, load, fabric)
    if problems := list(too_wide(config, least.plan, torch.device(cluster.profile.device))):
        raise ConfigError("\n".join(problems))
    if not search or not least.fits:
        return least
    try:
        optimizer, _ = embedding_optimizer(config.optim.embedding)
        plan = find_plan(model, tables, fabric, optimizer)
    except PlannerError as error:
        words = " ".join(str(error).split())
        full = f"an even spread would fit, and TorchRec's planner finds no plan: {words[:400]}"
        return Outlook(config, cluster, load, least.plan, least.memory, least.parts, full)
    return _of_plan(config, cluster, load, plan)


def _of_plan(config: Config, cluster: Cluster, load: Workload, plan: ShardingPlan) -> Outlook:
    check_plan(config, config.all_tables, plan, config.optim, torch.device(cluster.profile.device))
    return replace(_judged(config, cluster, load, describe_plan(plan)), sharding=plan)


def _least(config: Config, cluster: Cluster, load: Workload, fabric: Fabric) -> Outlook:
    """The tables spread evenly; where there is a choice of kernel, the largest leave the GPU until the rest fits it."""

    def with_cached(count: int) -> Outlook:
        return _judged(
            config, cluster, load, spread(config, fabric.world, fabric.local_world, free[:count], fabric.device)
        )

    plain = [(t.rows * t.dim, name) for name, t in config.all_tables.items() if has_choice(t, fabric)]
    free = [name for _, name in sorted(plain, reverse=True)]
    room = cluster.capacity.get("hbm")
    if room is None or with_cached(0).most("hbm") * GB <= room:
        return with_cached(0)
    # More tables on the host leave less in the GPU: bisection for the fewest.
    fewest = bisect_left(range(len(free)), -room, key=lambda count: -with_cached(count).most("hbm") * GB)
    return with_cached(fewest)


def check_ranks(config: Config, cluster: Cluster) -> None:
    """Raise ConfigError if the ranks can not share a step evenly."""
    rows, ranks = config.train.global_batch, cluster.ranks
    if rows % ranks:
        near = [n for n in (rows - rows % ranks, rows + ranks - rows % ranks) if n]
        raise ConfigError(
            f"train.global_batch = {rows} can not be cut evenly over {ranks} ranks; use {' or '.join(map(str, near))}"
        )


def fabric_of(config: Config, cluster: Cluster) -> Fabric:
    """What TorchRec's planner is told; what a process has without tables is taken off the memory before."""
    profile, world = cluster.profile, cluster.ranks
    is_cuda = profile.device == "cuda"
    hardware = Hardware(
        hbm=int((profile.hbm_gb - profile.process_device_gb) * GB) if is_cuda else 0,
        host=int(cluster.capacity["host"] - profile.process_host_gb * GB),
        hbm_rate=(profile.hbm_gbps or 0) * GB,
        host_rate=profile.host_gbps * GB,
        link_rate=profile.link_gbps * GB,
        near_rate=profile.nvlink_gbps * GB,
        far_rate=profile.network_gbps * GB,
    )
    rows_per_rank = config.train.global_batch // cluster.ranks
    prefetch = config.sharding.pipeline == "prefetch"
    return Fabric(world, cluster.gpus, profile.device, rows_per_rank, prefetch, config.sharding.sums, hardware)


def _judged(config: Config, cluster: Cluster, load: Workload, plan: Rows) -> Outlook:
    """The plan with its memory and time, and whether every rank has room for it."""
    memory = memory_of(plan, load, config, cluster)
    parts = step_of(plan, load, config, cluster)
    return Outlook(config, cluster, load, plan, memory, parts, _over(memory, cluster))


def _over(memory: list[RankMemory], cluster: Cluster) -> str | None:
    """Which memory is too small, by how much, and what fills it."""
    told = []
    for place, room in cluster.capacity.items():
        rank = worst(memory, place)
        one = memory[rank]
        if (needed := one.total(place)) > room:
            part, size = max(getattr(one, place).items(), key=lambda item: item[1])
            size_gb = getattr(cluster.profile, f"{place}_gb")
            told.append(
                f"rank {rank} needs {needed / GB:,.1f} GB of {'HBM' if place == 'hbm' else 'host memory'}, of which "
                f"{size / GB:,.1f} GB are {part}; it may fill {room / GB:,.1f} of {size_gb:g} GB"
            )
    return "; ".join(told) or None
