"""A model with tables on the meta device -> a `ShardedModel`: tables over ranks, dense weights replicated, optimizers.

No rank ever holds a full table (unless its plan says so): the shards are allocated by DistributedModelParallel and
filled from (seed, table, row, column), so that neither the world size nor the plan shows in the initial values.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torchrec.optim
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_mtl.config import EmbeddingOptim, OptimConfig, TableConfig
from dist_mtl.errors import ConfigError, InternalError
from dist_mtl.model.embedding import fill
from dist_mtl.parallel.plan import Fabric, Sharder, describe_plan, make_plan, plan_digest
from dist_mtl.parallel.runtime import Runtime

EPS = 1e-8  # FBGEMM's own default; torchrec.optim's is 1e-10, and the two differ by 8e-6 after a few steps (measured)


@dataclass(frozen=True)
class Schedule:
    """Learning rates over a run of `steps` steps, as factors of the configured ones: a function of the step alone."""

    optim: OptimConfig
    steps: int

    def factor(self, step: int, is_dense: bool) -> float:
        """Dense weights warm up linearly; both kinds decay to (almost) zero at the last step, if they are to."""
        warm_up = self.optim.dense.warmup_steps if is_dense else 0
        factor = min(1.0, step / warm_up) if warm_up else 1.0
        done = (step - 1) / self.steps
        match self.optim.decay:
            case "linear":
                return factor * (1 - done)
            case "cosine":
                return factor * (1 + math.cos(math.pi * done)) / 2
            case "none":
                return factor


class ShardedModel:
    """A model at work on this rank: `module` to call, `optimizer` over all of it, `plan` as rows to show.

    Invariant: every parameter has exactly one optimizer. Model-parallel tables are updated inside the backward pass,
    data-parallel tables and dense weights by `optimizer.step()`.
    """

    def __init__(self, module: DistributedModelParallel, optimizer: CombinedOptimizer, schedule: Schedule) -> None:
        self.module = module
        self.optimizer = optimizer
        self.plan = describe_plan(module.plan)
        self._schedule = schedule
        self._rates = [
            (group, group["lr"], key == "dense") for key, part in optimizer.optimizers for group in part.param_groups
        ]

    def set_rates(self, step: int) -> None:
        """Set all learning rates for global step `step` (from 1). The fused kernel takes it at the next `zero_grad`."""
        for group, base, is_dense in self._rates:
            group["lr"] = base * self._schedule.factor(step, is_dense)

    def all_finite(self) -> bool:
        """Whether every weight that this rank holds is finite."""
        held = (shard.tensor for p in self.module.state_dict().values() for shard in _shards(p))
        return all(bool(torch.isfinite(tensor).all()) for tensor in held)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer states as tensors sharing memory with the model: DTensor-like shards and plain ones."""
        return {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def materialise_states(self) -> None:
        """Make the lazily made optimizer states exist, so that a load fills them (else they stay out, silently)."""
        for key, part in self.optimizer.optimizers:
            if key != "fused":
                part.init_state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the values of a `state()` that was filled from a commit."""
        self.module.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])


def shard(
    model: nn.Module, tables: dict[str, TableConfig], schedule: Schedule, seed: int, rows_per_rank: int, rt: Runtime
) -> ShardedModel:
    """Plan, shard and initialise `model`. Raises ConfigError for what this device or this world can not do."""
    optim = schedule.optim
    _check_device(optim.embedding, rt.device)
    fabric = Fabric(rt.size, rt.world.local_size, rt.device.type, rows_per_rank)
    plan = rt.all_ranks(lambda: make_plan(model, tables, fabric))
    _check_agreement(plan, rt)
    collection = next(m for m in model.modules() if isinstance(m, EmbeddingBagCollection))
    replicated = {row["table"] for row in describe_plan(plan) if row["sharding"] == "data_parallel"}
    for name, bag in collection.embedding_bags.items():
        if name not in replicated:
            kind, options = _embedding_optimizer(optim.embedding)
            apply_optimizer_in_backward(kind, [bag.weight], options)
    module = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(rt.group),
        device=rt.device,
        plan=plan,
        sharders=[Sharder()],
        # TorchRec's default is a static graph: DDP then delays the first step's all-reduce to a hook on the output's
        # tensors, which it finds in tuples and dicts only. Behind a dataclass the hook is lost, and so, silently, is
        # the first all-reduce: the ranks' dense weights drift apart for good (measured).
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    _initialise(module, tables, seed)
    return ShardedModel(module, _optimizers(module, tables, optim), schedule)


def _optimizers(
    module: DistributedModelParallel, tables: dict[str, TableConfig], optim: OptimConfig
) -> CombinedOptimizer:
    """The fused optimizer, its rule for data-parallel tables (TorchRec leaves them untrained), AdamW for the rest."""
    parts: list[tuple[str, KeyedOptimizer]] = [("fused", module.fused_optimizer)]
    rest = dict(in_backward_optimizer_filter(module.named_parameters()))
    replicated = {name: p for name, p in rest.items() if table_name(name) in tables}
    dense = {name: p for name, p in rest.items() if name not in replicated}
    if replicated:
        kind, options = _embedding_optimizer(optim.embedding)
        parts.append(("replicated", KeyedOptimizerWrapper(replicated, lambda p: kind(p, **options))))
    decay = optim.dense.weight_decay
    parts.append(
        (
            "dense",
            KeyedOptimizerWrapper(
                dense, lambda p: torch.optim.AdamW(p, lr=optim.dense.lr, weight_decay=decay, fused=True)
            ),
        )
    )
    # A table that lives on another rank is an empty parameter here.
    held = {name for name, p in module.named_parameters() if p.numel()}
    untrained = held.difference(*(part.params for _, part in parts))
    if untrained:
        raise InternalError(f"no optimizer trains {sorted(untrained)}")
    return CombinedOptimizer(parts)


def table_name(parameter: str) -> str | None:
    """The table of a parameter's name in a state dict, e.g. `embeddings.collection.embedding_bags.user.weight`."""
    parts = parameter.split(".")
    return parts[-2] if len(parts) > 2 and parts[-3] == "embedding_bags" else None


@torch.no_grad()
def _initialise(module: DistributedModelParallel, tables: dict[str, TableConfig], seed: int) -> None:
    """Fill every shard of every table on this rank, in place."""
    for name, value in module.state_dict().items():
        if (table := table_name(name)) is None:
            continue
        for part in _shards(value):
            fill(part.tensor, seed, table, tables[table].rows, part.first_row, part.first_column)


@dataclass(frozen=True)
class _Shard:
    """The part of a weight that this rank holds, and where it begins."""

    tensor: torch.Tensor
    first_row: int = 0
    first_column: int = 0


def _shards(value: Any) -> list[_Shard]:
    """A state dict's entry as what this rank holds of it: the shards of a table, or a replicated weight whole."""
    if hasattr(value, "local_shards"):
        return [_Shard(part.tensor, *part.metadata.shard_offsets) for part in value.local_shards()]
    return [_Shard(value)]


def _embedding_optimizer(optim: EmbeddingOptim) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """The optimizer class and a fresh dict of its options (TorchRec keeps and changes the dict it is given)."""
    options = {"lr": optim.lr, "eps": optim.eps or EPS}
    match optim.kind:
        case "rowwise_adagrad":
            return torchrec.optim.RowWiseAdagrad, options
        case "adagrad":
            return torch.optim.Adagrad, options
        case "sgd":
            return torch.optim.SGD, {"lr": optim.lr}
        case "adam":
            return torch.optim.Adam, options
        case "partial_rowwise_adam":
            return torchrec.optim.PartialRowWiseAdam, options


def _check_device(optim: EmbeddingOptim, device: torch.device) -> None:
    if device.type == "cpu" and optim.kind in ("adam", "partial_rowwise_adam"):
        raise ConfigError(
            f"optim.embedding.kind = '{optim.kind}': FBGEMM has no CPU kernel for the Adam family; use "
            f"'rowwise_adagrad', 'adagrad' or 'sgd' here, or train on CUDA"
        )


def _check_agreement(plan: ShardingPlan, rt: Runtime) -> None:
    """Every rank must have made the same plan."""
    digests = torch.zeros(rt.size, dtype=torch.int64, device=rt.device)
    digests[rt.rank] = plan_digest(plan)
    rt.all_reduce(digests)
    if (digests != digests[0]).any():
        raise InternalError(
            "ranks made different sharding plans; are torchrec and the configuration the same everywhere?"
        )
