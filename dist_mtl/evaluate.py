"""Score a dataset with the weights at hand: every task's metrics on its own space."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from dist_mtl.assemble import build_for_scoring, check_world, open_dataset
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config, RunConfig
from dist_mtl.config_file import parse
from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import CheckpointError, ConfigError, NonFiniteError
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.task import TaskMetrics, compute
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.tower import funnel, logit_of
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel


@dataclass(frozen=True)
class Evaluation:
    """Metrics by task name, in the order ctr, cvr, ctcvr, and the ceiling of the AUC where it is known."""

    tasks: dict[str, TaskMetrics]
    ceiling: dict[str, float]
    rows: int
    dropped: int  # rows left out because they break the funnel
    clamped: int  # ids that the policy `clamp` moved


def task_names(labels: tuple[str, ...]) -> list[str]:
    """Names of what is reported for a funnel: `ctr`, `cvr`, `ctcvr` for two labels; else P(b|a) and P(b) by label."""
    if len(labels) == 2:
        return ["ctr", "cvr", "ctcvr"]
    rest = [name for before, label in pairwise(labels) for name in (f"{label}|{before}", label)]
    return [labels[0], *rest]


def readings(outputs: Outputs, batch: Batch, head: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and weights (B, M) of the M reported tasks, in the order of `task_names`.

    P(b|a) counts on the rows whose label a is set, P(b) on all impressions.
    """
    chances = funnel(outputs.logits_BT, head)
    logits, labels, weights = [chances.joint_BT[:, 0]], [batch.labels_BT[:, 0]], [batch.weight_B]
    for t in range(1, batch.labels_BT.shape[1]):
        logits += [chances.conditional_BT[:, t], chances.joint_BT[:, t]]
        labels += [batch.labels_BT[:, t]] * 2
        weights += [batch.weight_B * batch.labels_BT[:, t - 1], batch.weight_B]
    return logit_of(torch.stack(logits, dim=1)), torch.stack(labels, dim=1), torch.stack(weights, dim=1)


@torch.no_grad()
def evaluate(model: ShardedModel, dataset: Dataset, config: Config, rt: Runtime) -> Evaluation:
    """Evaluate one pass over `dataset` on all ranks; the result is the same on each. The model's mode is restored.

    Raises NonFiniteError on every rank if a score is not finite.
    """
    names = task_names(config.data.labels)
    histogram = LogitHistogram(len(names), rt.device)
    was_training = model.module.training
    counts = torch.zeros(3, dtype=torch.int64, device=rt.device)
    model.module.eval()
    for batch in batches(dataset, rt):
        batch = batch.to(rt.device)
        logits_BM, labels_BM, weights_BM = readings(model.module(batch), batch, config.model.head)
        counts += counts.new_tensor([batch.dropped, batch.clamped, 0])
        counts[2] += (~logits_BM.isfinite()).sum()
        histogram.update(logits_BM.nan_to_num(), labels_BM, weights_BM)
    model.module.train(was_training)
    for sums in (histogram.bins_M2K, histogram.sums_MS, counts):
        rt.all_reduce(sums)
    dropped, clamped, bad = counts.tolist()
    if bad:
        rt.all_ranks(lambda: _refuse_scores(bad))
    tasks = dict(zip(names, compute(histogram), strict=True))
    return Evaluation(tasks, dict(dataset.manifest.ceiling), dataset.manifest.num_rows, dropped, clamped)


def _refuse_scores(count: int) -> None:
    raise NonFiniteError(f"{count} scores are not finite; train again from an older commit with lower learning rates")


def evaluate_run(run_dir: str, data: str | None = None) -> tuple[Evaluation, str]:
    """Evaluate a run's newest commit on `data` (default: its own data.test), on any number of ranks.

    Returns the evaluation and a title. Raises CheckpointError if the run has no commit, ConfigError without data.
    """
    with runtime(RunConfig(dir=run_dir)) as rt:
        folder = rt.from_first(lambda: _newest(run_dir))
        config = rt.all_ranks(lambda: _config_of(folder, data))
        dataset = open_dataset(config.data.test, config, False, rt)
        model = build_for_scoring(config, rt)
        store.load(model, folder, weights_only=True)
        evaluation = evaluate(model, dataset, config, rt)
    return evaluation, f"{folder}: {config.data.test}, {evaluation.rows:,} rows"


def _newest(run_dir: str) -> Path:
    if (folder := store.latest(run_dir)) is None:
        raise CheckpointError(f"{run_dir}: no complete commit in it; train first, or correct the path")
    return folder


def _config_of(folder: Path, data: str | None) -> Config:
    """The configuration of a commit, with `data` as its test set, for this world."""
    config = parse(commits.read(folder).config, source=str(folder))
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"test": data})})
    if config.data.test is None:
        raise ConfigError(f"{folder}: its configuration has no data.test; name a dataset with --data")
    check_world(config)
    return config
