"""A model with tables on the meta device -> a `ShardedModel`: tables over ranks, dense weights replicated, optimizers.

No rank ever holds a full table (unless its plan says so): the shards are allocated by DistributedModelParallel and
filled from (seed, table, row, column), so that neither the world size nor the plan shows in the initial values.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer

from dist_mtl.config import Config, TableConfig
from dist_mtl.data.batch import Batch
from dist_mtl.errors import InternalError
from dist_mtl.model.embedding import fill, initial
from dist_mtl.parallel.capabilities import check_device, check_plan
from dist_mtl.parallel.dynamic_tables import DynamicIds
from dist_mtl.parallel.kernels import Kernels, codecs
from dist_mtl.parallel.optimizers import Schedule, _optimizers, embedding_optimizer, table_name
from dist_mtl.parallel.plan import Fabric, Sharder, describe_plan, make_plan, plan_digest
from dist_mtl.parallel.plan_io import load_plan
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.split_backward import Cut
from dist_mtl.parallel.train_pipeline import LookAhead

DYNAMIC = "dynamic"  # the map of the dynamic tables, in a state


class ShardedModel:
    """A model at work on this rank: `module` to call, `optimizer` over all of it, `plan` as rows to show.

    `ids`: the map of its dynamic tables, if there are any; a batch goes through `learn_ids` or `look_up` first.

    Invariant: every parameter has exactly one optimizer. Model-parallel tables are updated inside the backward pass,
    data-parallel tables and dense weights by `optimizer.step()`.
    """

    def __init__(
        self,
        module: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        schedule: Schedule,
        begin: "Beginning",
        ahead: LookAhead,
        kernels: Kernels,
        ids: DynamicIds | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.ids, self.ahead, self._kernels = ids, ahead, kernels
        self.cut = Cut(module, list(dict(optimizer.optimizers)["dense"].params.values()))
        self._begin = begin
        self._held: dict[str, tuple[list[_Shard], list[_Shard]]] | None = None  # see `_renew`
        self.plan = describe_plan(module.plan)
        self._schedule = schedule
        self._rates = [
            (group, group["lr"], key == "dense") for key, part in optimizer.optimizers for group in part.param_groups
        ]

    def begin(self, step: int, skipped: int = 0) -> None:
        """Make ready for global step `step` (from 1), before which `skipped` steps were left untrained: no gradients,
        its learning rates. A batch that is to be looked up before this step's update is looked up here. Collective."""
        if self.ahead.is_early(step):
            self._set(step + 1, step - skipped)
            self.ahead.look_up()
        self._set(step, step - 1 - skipped)

    def _set(self, step: int, applied: int) -> None:
        """What the next lookup is trained with; `applied`: steps before it that have changed the weights."""
        for group, base, is_dense in self._rates:
            group["lr"] = base * self._schedule.factor(step, is_dense)
        self.optimizer.zero_grad()  # only now a fused kernel takes the changed learning rate
        self._kernels.begin(step, applied)

    def look_up(self, batch: Batch) -> Batch:
        """The batch with rows for the keys of dynamic tables, to be scored. Collective where there are such tables."""
        return batch if self.ids is None else replace(batch, ids=self.ids.look_up(batch.ids))

    def learn_ids(self, batch: Batch) -> Batch:
        """The same for a batch to train, once, before its step: a row that changes hands begins anew."""
        if self.ids is None:
            return batch
        ids, renewed = self.ids.learn(batch.ids, batch.step)
        if renewed:
            self._renew(renewed)
        return replace(batch, ids=ids)

    @torch.no_grad()
    def _renew(self, rows: dict[str, torch.Tensor]) -> None:
        """Initial weights and no optimizer state for these rows of each table, where this rank holds them.

        The tensors are looked up once, not at every step: they stay the same ones until a commit is loaded.
        """
        if self._held is None:
            self._held = _held(self.state())
        for table, which in rows.items():
            weights, states = self._held[table]
            for part in weights:
                self._begin.rows(part, table, which)
            for part in states:
                part.tensor.index_fill_(0, part.local(which), 0)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer states as tensors sharing memory with the model: DTensor-like shards and plain ones."""
        self._kernels.flush()
        state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state if self.ids is None else state | {DYNAMIC: self.ids.state()}

    def materialise_states(self) -> None:
        """Make the lazily made optimizer states exist, so that a load fills them (else they stay out, silently)."""
        for key, part in self.optimizer.optimizers:
            if key != "fused":
                part.init_state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the values of a `state()` that was filled from a commit."""
        self._held = None  # the optimizers of replicated tables take other tensors
        self._kernels.forget()
        self.module.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.ids is not None:
            self.ids.filled()


@dataclass(frozen=True)
class Beginning:
    """How the rows of the tables begin."""

    tables: dict[str, TableConfig]
    seed: int

    def whole(self, part: "_Shard", table: str) -> None:
        """Fill a shard, in place."""
        fill(part.tensor, self.seed, table, self.tables[table].rows, part.first_row, part.first_column)

    def rows(self, part: "_Shard", table: str, rows: torch.Tensor) -> None:
        """Fill those of the rows that the shard has."""
        local, size = part.local(rows), self.tables[table].rows
        values = initial(local + part.first_row, part.tensor.shape[1], self.seed, table, size, part.first_column)
        part.tensor[local] = values.to(part.tensor.dtype)


def shard(
    model: nn.Module, config: Config, schedule: Schedule, rt: Runtime, ids: DynamicIds | None = None
) -> ShardedModel:
    """Plan, shard and initialise `model`. Raises ConfigError for what this device or this world can not do."""
    optim, sharding, tables = schedule.optim, config.sharding, config.all_tables
    check_device(optim, sharding, tables, rt.device)
    rows_per_rank = config.train.global_batch // rt.size
    prefetch = sharding.pipeline == "prefetch"
    fabric = Fabric(rt.size, rt.world.local_size, rt.device.type, rows_per_rank, prefetch, sharding.sums)
    if sharding.plan is None:
        plan = rt.all_ranks(lambda: make_plan(model, tables, fabric, embedding_optimizer(optim.embedding)[0]))
    else:
        plan = rt.all_ranks(lambda: load_plan(sharding.plan, model, tables, fabric))
    rt.all_ranks(lambda: check_plan(config, tables, plan, optim, rt.device))
    _check_agreement(plan, rt)
    collection = next(m for m in model.modules() if isinstance(m, EmbeddingBagCollection))
    replicated = {row["table"] for row in describe_plan(plan) if row["sharding"] == "data_parallel"}
    for name, bag in collection.embedding_bags.items():
        if name not in replicated:
            kind, options = embedding_optimizer(optim.embedding)
            apply_optimizer_in_backward(kind, [bag.weight], options)
    module = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(rt.group),
        device=rt.device,
        plan=plan,
        sharders=[Sharder(qcomm_codecs_registry=codecs(sharding, rt.device, rows_per_rank))],
        # TorchRec's default is a static graph: DDP then delays the first step's all-reduce to a hook on the output's
        # tensors, which it finds in tuples and dicts only. Behind a dataclass the hook is lost, and so, silently, is
        # the first all-reduce: the ranks' dense weights drift apart for good (measured).
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    begin = Beginning(tables, config.seed)
    _initialise(module, begin)
    ahead, kernels = LookAhead(module, sharding.pipeline, rt.device), Kernels(module, config.seed, rt.rank)
    return ShardedModel(module, _optimizers(module, tables, optim), schedule, begin, ahead, kernels, ids)


@torch.no_grad()
def _initialise(module: DistributedModelParallel, begin: Beginning) -> None:
    """Fill every shard of every table on this rank, in place."""
    for name, value in module.state_dict().items():
        if (table := table_name(name)) is None:
            continue
        for part in _shards(value):
            begin.whole(part, table)


@dataclass(frozen=True)
class _Shard:
    """The part of a weight, or of its optimizer state, that this rank holds, and where it begins."""

    tensor: torch.Tensor
    first_row: int = 0
    first_column: int = 0

    def local(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of the table's rows that are here, counted from the first one here."""
        rows = rows.to(self.tensor.device) - self.first_row
        return rows[(rows >= 0) & (rows < self.tensor.shape[0])]


def _shards(value: Any) -> list[_Shard]:
    """A state dict's entry as what this rank holds of it: the shards of a table, or a replicated weight whole."""
    if hasattr(value, "local_shards"):
        return [_Shard(part.tensor, *part.metadata.shard_offsets) for part in value.local_shards()]
    return [_Shard(value)]


def _held(state: dict[str, Any]) -> dict[str, tuple[list[_Shard], list[_Shard]]]:
    """By table: the parts of its weights and of its optimizer states that this rank holds."""
    found: dict[str, tuple[list[_Shard], list[_Shard]]] = {}
    for name, value in state["model"].items():
        if (table := table_name(name)) is not None:
            found[table] = (_shards(value), [])
    for name, states in state["optimizer"]["state"].items():
        if (table := table_name(name)) is not None:
            found[table][1].extend(part for one in states.values() for part in _shards(one) if part.tensor.dim())
    return found


def _check_agreement(plan: ShardingPlan, rt: Runtime) -> None:
    """Every rank must have made the same plan."""
    digests = torch.zeros(rt.size, dtype=torch.int64, device=rt.device)
    digests[rt.rank] = plan_digest(plan)
    rt.all_reduce(digests)
    if (digests != digests[0]).any():
        raise InternalError(
            "ranks made different sharding plans; are torchrec and the configuration the same everywhere?"
        )
