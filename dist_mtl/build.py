"""A configuration's parts on this rank: its datasets, its model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dist_mtl.checkpoint.memory_check import check_model
from dist_mtl.config import Config
from dist_mtl.config.training import EmbeddingOptim, OptimConfig
from dist_mtl.data.base_rates import count_labels, rates_of
from dist_mtl.data.column_class import TrainedOn
from dist_mtl.data.features.fit import Found, find, merged, sketch, unfitted
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.capabilities import check_compiler
from dist_mtl.parallel.dynamic_tables import DynamicIds
from dist_mtl.parallel.optimizers import Schedule
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel, shard
from dist_mtl.parallel.world import World

STATELESS = OptimConfig(embedding=EmbeddingOptim(kind="sgd"))  # of a model that is only scored by


def check_world(config: Config) -> None:
    """Raise ConfigError if the ranks can not share a step evenly."""
    size, rows = World.from_env().size, config.train.global_batch
    if rows % size:
        near = [n for n in (rows - rows % size, rows + size - rows % size) if n]
        raise ConfigError(
            f"train.global_batch = {rows} can not be cut evenly over {size} ranks; use {' or '.join(map(str, near))}"
        )


def open_dataset(folder: str, config: Config, shuffle: bool, rt: Runtime) -> Dataset:
    """Open a dataset to train on it, and check its files, each rank its share.

    Raises DataError on every rank if any file is bad.
    """
    return _verified(lambda: Dataset.open(folder, config, shuffle), config, rt)


def open_to_score(
    folder: str,
    config: Config,
    rt: Runtime,
    carry: Sequence[str] = (),
    labelled: bool = True,
    trained_on: TrainedOn | None = None,
) -> Dataset:
    """The same to score a dataset in the order of its files; see `Dataset.open_to_score`."""
    return _verified(lambda: Dataset.open_to_score(folder, config, carry, labelled, trained_on), config, rt)


def _verified(opening: Callable[[], Dataset], config: Config, rt: Runtime) -> Dataset:
    dataset = rt.all_ranks(opening)
    rt.all_ranks(lambda: dataset.verify(rt.rank, rt.size, full=config.data.verify == "full"))
    return dataset


def fit(config: Config, dataset: Dataset, rt: Runtime) -> tuple[Found, list[str]]:
    """What the features ask of the training rows, and warnings: the same bits on every rank and any number of ranks.

    Each rank reads its share, the first one decides. Raises DataError on every rank.
    """
    columns = {name: config.columns_of(name)[0] for name in unfitted(config)}
    mine = rt.all_ranks(lambda: sketch(dataset, columns.values(), rt.rank, rt.size))
    whole = {column: merged(rt.gather(one)) for column, one in mine.items()}
    results = rt.from_first(lambda: {n: find(n, config.features[n], whole[column]) for n, column in columns.items()})
    found = {name: values for name, (values, _) in results.items()}
    return found, [warning for _, warning in results.values() if warning]


def base_rates(config: Config, dataset: Dataset, rt: Runtime) -> list[float]:
    """The base rate of each tower's label on the training rows: the same bits on every rank and any number of ranks.

    Collective; raises DataError on every rank.
    """
    is_conditional = config.model.head in ("esmm", "clicked")
    counts = rt.all_ranks(lambda: count_labels(dataset, is_conditional, rt.rank, rt.size))
    return rates_of(rt.all_reduce(torch.from_numpy(counts).to(rt.device)).cpu().numpy())


def build(config: Config, rt: Runtime, steps: int, commit: Path | None = None) -> ShardedModel:
    """The model of a configuration for a run of `steps` steps, sharded, with initial weights that ignore the ranks.

    `commit`: whose configuration it is; see `room`. Raises ConfigError, or CheckpointError for a commit's, on every
    rank before anything is allocated: the model cannot fit here, or is not the one that the commit's files hold.
    """
    return _build(config, config.optim, steps, rt, commit, scoring=False)


def build_for_scoring(config: Config, rt: Runtime, commit: Path | None = None) -> ShardedModel:
    """The model without optimizer states and without the parts that only a loss needs.

    One trained on CUDA with the Adam family can so be scored on a CPU, on any number of ranks: what says where rows are
    at work, and when, is left out. What says in which precision stays, or scores would not be those of the run: but for
    what does not travel, gradients, and on one rank all (TorchRec packs nothing there).
    """
    forward = config.sharding.forward if rt.size > 1 else "fp32"
    still = {"plan": None, "pipeline": "base", "forward": forward, "backward": "fp32"}
    placed = config.sharding.model_copy(update=still)
    tables = config.tables
    if rt.device.type == "cpu":
        free = {"kernel": "auto", "cache_share": None}
        tables = {name: table.model_copy(update=free) for name, table in tables.items()}
    config = config.model_copy(update={"sharding": placed, "tables": tables})
    return _build(config, STATELESS, 1, rt, commit, scoring=True)


def _build(
    config: Config, optim: OptimConfig, steps: int, rt: Runtime, commit: Path | None, scoring: bool
) -> ShardedModel:
    check_model(config, optim, scoring, rt, commit)
    if config.train.compile and not scoring:
        rt.all_ranks(lambda: check_compiler(rt.device))
    model = MultiTaskModel(config, torch.device("meta"), scoring)
    ids = DynamicIds.of(config, rt, learns=not scoring)
    return shard(model, config, Schedule(optim, steps), rt, ids)
