"""What a device or a plan can not do, told at the start of a run. What no device can do, the configuration refuses."""

import os
import shutil
from collections.abc import Iterator

import torch
from torchrec.distributed.types import ShardingPlan

from dist_mtl.config import Config, TableConfig
from dist_mtl.config.rules import summed
from dist_mtl.config.sharding import ShardingConfig
from dist_mtl.config.table_rules import POINTWISE, misplaced
from dist_mtl.config.training import OptimConfig
from dist_mtl.errors import ConfigError
from dist_mtl.parallel.plan import CACHING, MOST_COLUMNS, describe_plan
from dist_mtl.parallel.plan_io import as_planned


def check_device(
    optim: OptimConfig, sharding: ShardingConfig, tables: dict[str, TableConfig], device: torch.device
) -> None:
    """Raise ConfigError for what is asked of this device and can not be done on it."""
    if device.type != "cpu":
        return
    kind = optim.embedding.kind
    if kind in ("adam", "partial_rowwise_adam"):
        raise ConfigError(
            f"optim.embedding.kind = '{kind}': FBGEMM has no CPU kernel for the Adam family; use "
            f"'rowwise_adagrad', 'adagrad' or 'sgd' here, or train on CUDA"
        )
    for problem in _off_device(tables, device):
        raise ConfigError(problem)
    for key in ("forward", "backward"):
        if getattr(sharding, key) == "bf16":
            raise ConfigError(
                f"sharding.{key} = 'bf16': gloo can not carry bfloat16 (TorchRec would send float16 without a word); "
                f"use 'fp16' here, or train on CUDA"
            )
    if sharding.pipeline == "prefetch":
        raise ConfigError(
            "sharding.pipeline = 'prefetch': it fills a GPU's cache, and this is a CPU; use 'sparse_dist' here, or "
            "train on CUDA"
        )


def _off_device(tables: dict[str, TableConfig], device: torch.device) -> Iterator[str]:
    """The tables whose kernels this device has not: on a CPU TorchRec would take the plain one without a word."""
    for name, table in tables.items():
        if device.type == "cpu" and table.kernel not in ("auto", "fused"):
            yield (
                f"tables.{name}.kernel = '{table.kernel}': it keeps rows outside of a GPU's memory, and this is a CPU, "
                f"whose memory is the host's; use 'auto' or 'fused' here, or train on CUDA"
            )


def check_plan(
    config: Config, tables: dict[str, TableConfig], plan: ShardingPlan, optim: OptimConfig, device: torch.device
) -> None:
    """Raise ConfigError for what a plan, made or read, does to a run that its configuration could not tell."""
    planned = as_planned(tables, plan)
    problems = [f"sharding.plan: {told}" for told in _off_device(planned, device)]
    problems += [told for name, table in planned.items() for told in misplaced(name, table, optim.embedding.kind)]
    problems += too_wide(config, describe_plan(plan), device)
    problems += summed(config, {table.sharding for table in planned.values()})
    if config.sharding.pipeline == "semi_sync" and any(t.traits.replicated for t in planned.values()):
        problems.append("sharding.pipeline: the plan has a data_parallel table, which `semi_sync` can not train")
    if config.sharding.pipeline == "prefetch" and all(row["kernel"] != CACHING for row in describe_plan(plan)):
        problems.append("sharding.pipeline: `prefetch` needs a table in `uvm_caching`, and the plan has none")
    if problems:
        raise ConfigError("\n".join(problems))


def too_wide(config: Config, plan: list[dict], device: torch.device) -> Iterator[str]:
    """The tables of a plan, as of `describe_plan`, of which a rank has more columns than FBGEMM's kernels take."""
    most = MOST_COLUMNS.get(device.type)
    for row in plan if most is not None else ():
        name = row["table"]
        table = config.all_tables[name]
        if max((shard["size"][1] for shard in row["shards"]), default=table.dim) > most:
            key = f"tables.{name}" if name in config.tables else f"features.{name}"
            cut = name in config.tables and row["sharding"] not in ("column_wise", "grid_shard")
            kinds = " or ".join(POINTWISE)
            apart = f", or tables.{name}.sharding = 'column_wise' (optim.embedding.kind {kinds})" * cut
            yield (
                f"{key}.dim = {table.dim:,}: FBGEMM's CUDA kernels take at most {most:,} columns of a table on a rank, "
                f"and the plan has it {row['sharding']}; use dim = {most}{apart}"
            )


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError if torch.compile would find no C++ compiler (on CUDA Triton needs one of C)."""
    wanted = [os.environ.get("CXX" if device.type == "cpu" else "CC"), "g++", "gcc", "clang++", "clang"]
    if not any(name and shutil.which(name) for name in wanted):
        raise ConfigError(
            "train.compile = true: torch.compile needs a C++ compiler, and there is none on the PATH; install g++, or "
            "name one in CXX, or set train.compile = false"
        )
