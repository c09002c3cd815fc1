"""Rows -> scores, with the weights at hand: what evaluation and prediction share, so that they agree to the bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config, RunConfig
from dist_mtl.config_file import parse
from dist_mtl.data.batch import Batch, Carried
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError
from dist_mtl.metrics.recalibration import Recalibration
from dist_mtl.model.correction import undo_sampling
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.tower import funnel, logit_of
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel


@dataclass(frozen=True)
class Adjustment:
    """What is done to the network's probabilities: the correction for down-sampled logs, then each task's recalibration."""

    kept: tuple[float, ...] | None = None
    maps: tuple[Recalibration | None, ...] = ()  # by task; empty: none


AS_IT_IS = Adjustment()


@dataclass(frozen=True)
class Readings:
    """The M reported tasks of B rows, in the order of `Config.tasks`: logits, labels, weights (0 outside the space)."""

    logits_BM: Tensor
    labels_BM: Tensor
    weights_BM: Tensor

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels, weights: the arguments of every histogram."""
        return self.logits_BM, self.labels_BM, self.weights_BM


def read(outputs: Outputs, batch: Batch, head: str, adjustment: Adjustment = AS_IT_IS) -> Readings:
    """What the towers say of a batch. P(b|a) counts on the rows whose label a is set, P(b) on all impressions."""
    chances = funnel(outputs.logits_BT.detach(), head)
    if adjustment.kept is not None:
        chances = undo_sampling(chances, adjustment.kept)
    logs, labels, weights = [chances.joint_BT[:, 0]], [batch.labels_BT[:, 0]], [batch.weight_B]
    for t in range(1, batch.labels_BT.shape[1]):
        logs += [chances.conditional_BT[:, t], chances.joint_BT[:, t]]
        labels += [batch.labels_BT[:, t]] * 2
        weights += [batch.weight_B * batch.labels_BT[:, t - 1], batch.weight_B]
    logits_BM = logit_of(torch.stack(logs, dim=1))
    for m, recalibrated in enumerate(adjustment.maps):
        if recalibrated is not None:
            logits_BM[:, m] = recalibrated.apply(logits_BM[:, m])
    return Readings(logits_BM, torch.stack(labels, dim=1), torch.stack(weights, dim=1))


@dataclass(frozen=True)
class Scored:
    """A batch that was scored; `carried` holds its rows without the padding."""

    readings: Readings
    carried: Carried
    dropped: int
    clamped: int


@torch.no_grad()
def score(
    model: ShardedModel, dataset: Dataset, config: Config, rt: Runtime, adjustment: Adjustment
) -> Iterator[Scored]:
    """One pass over a dataset that was opened to be scored, batch by batch. The model's mode is restored at the end."""
    was_training = model.module.training
    model.module.eval()
    try:
        for batch in batches(dataset, rt):
            batch = batch.to(rt.device)
            readings = read(model.module(batch), batch, config.model.head, adjustment)
            yield Scored(readings, batch.carried, batch.dropped, batch.clamped)
    finally:
        model.module.train(was_training)


@dataclass(frozen=True)
class Trained:
    """A commit of a run, ready to be built: its folder, its configuration, what is done to its probabilities."""

    folder: Path
    config: Config
    adjustment: Adjustment


def find(run_dir: str, which: str, overrides: tuple[str, ...], raw: bool, rt: Runtime) -> Trained:
    """A commit of a run: `which` is `best`, `latest`, or a step. The same on every rank.

    `overrides`: of metrics.* alone. `raw`: the network's own probabilities. Raises CheckpointError, ConfigError.
    """
    folder = rt.from_first(lambda: store.find(run_dir, which))  # one rank looks: file systems may show others less
    return rt.all_ranks(lambda: _read(folder, run_dir, overrides, raw))


def _read(folder: Path, run_dir: str, overrides: tuple[str, ...], raw: bool) -> Trained:
    for text in overrides:
        if not text.startswith("metrics."):
            raise ConfigError(f"--set={text}: a trained model keeps its configuration; only metrics.* can be set here")
    config = parse(commits.read(folder).config, overrides, source=str(folder))
    # Where it was trained is not where it is scored: another folder, another device.
    config = config.model_copy(update={"run": RunConfig(dir=run_dir)})
    maps = () if raw else tuple(commits.read_recalibration(folder).get(task) for task in config.tasks)
    return Trained(folder, config, AS_IT_IS if raw else Adjustment(config.data.kept, maps))
