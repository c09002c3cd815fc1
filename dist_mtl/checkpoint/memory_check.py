"""Before a model is built: does it fit this machine, and is a commit's model the one that its files hold?

A configuration, also that of somebody else's commit, can name a table of 2**28 rows in one line. So its sizes are
added up without a number allocated, and compared with the memory that is free and with the headers of the files.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dist_mtl.checkpoint.index import Index, read_index
from dist_mtl.checkpoint.safetensors_io import Archive
from dist_mtl.config import Config
from dist_mtl.config.training import OptimConfig
from dist_mtl.errors import CheckpointError, ConfigError, DamagedCommitError
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.optimizer_bytes import DENSE_BYTES, state_bytes
from dist_mtl.parallel.runtime import Runtime

WEIGHT_BYTES = 4  # of a dense weight that is only scored by: float32
TABLE = "embeddings.collection.embedding_bags."
# Where a container's limit and its use stand: cgroup 2, then 1. `memory.stat` tells which of the use is the page cache.
CGROUPS = (
    ("", "memory.max", "memory.current", "file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)


@dataclass(frozen=True)
class Needs:
    """The least that a model takes, in bytes, whatever the plan: its weights, states and one batch of pooled rows."""

    tables: int  # once, over all ranks
    replicated: int  # data-parallel tables, on every rank
    dense: int  # on every rank
    batch: int  # over all ranks

    def on_node(self, world: int, local: int) -> int:
        """Of a node with `local` of `world` ranks, if the tables were spread evenly."""
        return math.ceil((self.tables + self.batch) * local / world) + (self.replicated + self.dense) * local


def check_model(config: Config, optim: OptimConfig, scoring: bool, rt: Runtime, commit: Path | None) -> None:
    """Raise ConfigError if the model cannot fit into this machine's memory, or CheckpointError for the model of a
    `commit`, also where its files do not hold that model. On every rank alike; nothing is allocated. Collective."""
    with torch.device("meta"):
        model = MultiTaskModel(config, torch.device("meta"), scoring)
    if commit is not None:
        rt.from_first(lambda: check_claims(commit, config, model))
    needs = needs_of(config, optim, scoring, model)
    rt.all_ranks(lambda: _check_room(config, needs, rt, commit))


def needs_of(config: Config, optim: OptimConfig, scoring: bool, model: nn.Module) -> Needs:
    """What a model on the meta device would take."""
    tables = replicated = 0
    for table in config.all_tables.values():
        weights = table.rows * table.dim * table.element_bytes
        states = state_bytes(optim.embedding.kind, table.rows, table.dim)
        if table.sharding == "data_parallel":
            replicated += states + weights * (1 if scoring else 2)  # a dense parameter, with its gradient
        else:
            tables += states + weights
    dense = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embeddings."))
    pooled = sum(config.all_tables[name].dim for name in map(config.table_of, config.features) if name is not None)
    per_row = 8 * len(config.features) + 4 * pooled * (1 if scoring else 2)  # ids, pooled numbers, their gradients
    batch = config.train.global_batch * per_row
    return Needs(tables, replicated, dense * (WEIGHT_BYTES if scoring else DENSE_BYTES), batch)


def _check_room(config: Config, needs: Needs, rt: Runtime, commit: Path | None) -> None:
    local = rt.world.local_size
    needed, free = needs.on_node(rt.size, local), free_host_bytes()
    if free is None:
        return
    where = "of memory are free here"
    if rt.device.type == "cuda":
        free += local * torch.cuda.mem_get_info(rt.device)[0]  # what does not fit into the GPUs may live on the host
        where = "are free in this node's GPUs and its memory together"
    if needed <= free:
        return
    name, table = max(config.all_tables.items(), key=lambda item: item[1].rows * item[1].dim)
    told = (
        f"the model needs {_gb(needed)} at least on a node of {local} rank(s), and {_gb(free)} {where}: tables "
        f"{_gb(needs.tables + needs.replicated)}, the largest is {name} with {table.rows:,} rows of {table.dim}; dense "
        f"weights {_gb(needs.dense)} a rank; one batch {_gb(needs.batch)}"
    )
    if commit is not None:
        raise CheckpointError(f"{commit}: {told}. Use a larger machine, or more of them")
    raise ConfigError(f"{told}. Make the largest smaller, or use more nodes (dist-mtl plan tells how many)")


def check_claims(commit: Path, config: Config, model: nn.Module) -> None:
    """Raise CheckpointError unless the files of a commit hold the weights of this model, which is on the meta device.

    DamagedCommitError: they do not hold what its index says. Reads the index and the header of each file.
    """
    index = read_index(commit)
    for name, weight in model.state_dict().items():
        shape, whole = tuple(weight.shape), index.tensors.get(f"model/{name}")
        if whole is None or whole.shape != shape:
            there = "none" if whole is None else f"one of {list(whole.shape)}"
            raise CheckpointError(
                f"{commit}: its configuration says {_named(name)} of {list(shape)}, and its files hold {there}; it was "
                f"changed. Take another commit, or a copy of this one"
            )
    _check_files(commit, index)


def _check_files(commit: Path, index: Index) -> None:
    archives: dict[str, Archive] = {}
    for name, whole in index.tensors.items():
        if sum(math.prod(block.sizes) for block in whole.blocks) != math.prod(whole.shape):
            raise DamagedCommitError(f"{commit}: the blocks of {name} leave out a part of it, or overlap")
        for block in whole.blocks:
            if block.file not in archives:
                archives[block.file] = Archive.of(commit / block.file)
            held = archives[block.file].header.get(block.key)
            if held is None or (held["dtype"], tuple(held["shape"])) != (whole.dtype, block.sizes):
                raise DamagedCommitError(f"{commit / block.file}: has no {block.key} as the index tells of it")


def _named(parameter: str) -> str:
    if parameter.startswith(TABLE):
        return f"a table {parameter.removeprefix(TABLE).removesuffix('.weight')}"
    return f"a weight {parameter}"


def free_host_bytes() -> int | None:
    """Memory that a process can have: of the machine, or what the limit of its container leaves. None: not told."""
    try:
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return min([free, *_left_by_limits(Path("/sys/fs/cgroup"))])


def _left_by_limits(root: Path) -> Iterable[int]:
    for folder, limit, use, cache in CGROUPS:
        try:
            most, used = ((root / folder / name).read_text().strip() for name in (limit, use))
            stats = dict(line.split() for line in (root / folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():  # else `max`: no limit
            yield int(most) - int(used) + int(stats.get(cache, 0))


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
