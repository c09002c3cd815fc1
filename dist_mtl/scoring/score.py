"""Rows -> scores, with the weights at hand: what evaluation and prediction share, so that they agree to the bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.data.batch import Batch, Carried
from dist_mtl.data.frame import FrameRows
from dist_mtl.data.funnel import spaces
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import NonFiniteError
from dist_mtl.metrics.recalibration import Recalibration
from dist_mtl.model.heads import funnel, logit_of
from dist_mtl.model.sampling_correction import undo_sampling
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.terminal.wording import plural


@dataclass(frozen=True)
class Adjustment:
    """What is done to the network's probabilities: the correction for down-sampled logs, then each task's map."""

    kept: tuple[float, ...] | None = None
    maps: tuple[Recalibration | None, ...] = ()  # by task; empty: none


AS_IT_IS = Adjustment()
NO_EXTENSIONS = Extensions()


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


@torch.no_grad()
def read(
    logits_BT: Tensor, labels_BT: Tensor, weight_B: Tensor, head: str, adjustment: Adjustment = AS_IT_IS
) -> Readings:
    """What the towers say of B rows: each task on its own space."""
    chances = funnel(logits_BT, head)
    if adjustment.kept is not None:
        chances = undo_sampling(chances, adjustment.kept)
    logs, labels, weights = [], [], []
    for space in spaces(labels_BT.shape[1], head != "independent"):
        everywhere = space.given is None
        logs.append((chances.joint_BT if everywhere else chances.conditional_BT)[:, space.label])
        labels.append(labels_BT[:, space.label])
        weights.append(weight_B if everywhere else weight_B * labels_BT[:, space.given])
    logits_BM = logit_of(torch.stack(logs, dim=1))
    for m, recalibrated in enumerate(adjustment.maps):
        if recalibrated is not None:
            logits_BM[:, m] = recalibrated.apply(logits_BM[:, m])
    return Readings(logits_BM, torch.stack(labels, dim=1), torch.stack(weights, dim=1))


@dataclass(frozen=True)
class Scored:
    """A batch that was scored; `carried` holds its rows without the padding. Its logits are finite."""

    readings: Readings
    carried: Carried
    dropped: int
    clamped: int


def _nothing() -> None:
    """What a consumer checks who can not fail."""


class Scorable(Protocol):
    """A model to score with: sharded over ranks, or whole on one device."""

    module: nn.Module

    def look_up(self, batch: Batch) -> Batch:
        """The batch with rows for the keys of dynamic tables."""


@torch.no_grad()
def score(
    model: Scorable,
    dataset: Dataset | FrameRows,
    config: Config,
    rt: Runtime,
    adjustment: Adjustment,
    check: Callable[[], None] = _nothing,
) -> Iterator[Scored]:
    """One pass over a dataset that was opened to be scored, batch by batch. The model's mode is restored at the end.

    The ranks agree at the end of each window, not at each step: there all raise NonFiniteError if a score of one was
    not finite (until then a finite number stands in its place), and what `check` raises on one: a consumer can keep a
    fault of its own for it.
    """
    was_training, order = model.module.training, dataset.order
    model.module.eval()
    try:
        start, bad = None, torch.zeros((), dtype=torch.int64, device=rt.device)
        for batch in batches(dataset, rt):
            batch = model.look_up(batch).to(rt.device)
            rows, logits_BT = batch.carried, model.module(batch).logits_BT
            readings = read(logits_BT, batch.labels_BT, batch.weight_B, config.model.head, adjustment)
            start = rows.first_row if start is None else start
            bad += (~readings.logits_BM[: rows.num_rows].isfinite()).sum()
            finite = replace(readings, logits_BM=readings.logits_BM.nan_to_num())
            yield Scored(finite, rows, batch.dropped, batch.clamped)
            if batch.step % order.steps_per_window == 0 or batch.step == order.steps_per_epoch:
                where = f"{dataset.folder}, rows {start:,} to {rows.first_row + rows.num_rows - 1:,}"
                rt.all_ranks(partial(_check_window, where, int(bad), check))
                start = None
    finally:
        model.module.train(was_training)


def probabilities(logits_NM: Tensor) -> Tensor:
    """Of logits; float32, computed in float64."""
    return torch.sigmoid(logits_NM.double()).float()


def _check_window(where: str, bad: int, check: Callable[[], None]) -> None:
    check()
    if bad:
        raise NonFiniteError(
            f"{where}: {plural(bad, 'score is', 'scores are')} not finite; look for extreme values in these "
            "rows, or take an older commit"
        )
