"""The status of a run: speed, the split of a step's time, memory, counts, and metrics of the rows trained last.

Clocks are read here and in the stopwatch only: no rank decides by one.
"""

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch

from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.features.idmap import TALLY
from dist_mtl.data.funnel import spaces
from dist_mtl.metrics.mean import Mean
from dist_mtl.metrics.task import TaskMetrics
from dist_mtl.metrics.window import TrainingWindow
from dist_mtl.observability.events import Observer
from dist_mtl.parallel.dynamic_tables import DynamicIds
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.step_timer import Stopwatch
from dist_mtl.parallel.train_step import Outcome
from dist_mtl.scoring.score import read
from dist_mtl.training.leakage import far_off

COUNTS = ("dropped", "clamped", "quarantined")
PHASES = ("data", "ids", "forward", "backward", "agree", "tables", "update", "metrics")
# Between two steps the caches hold nothing of the window, and a small operation costs its start; so a few go together.
STEPS_AT_ONCE = 8
PAUSES = ("diagnosis", "evaluation", "commit")


class Pace:
    """What was measured since the last `step` event, and since the run began."""

    def __init__(
        self,
        config: Config,
        rt: Runtime,
        observer: Observer,
        steps: int,
        terms: tuple[str, ...],
        ids: DynamicIds | None = None,
    ) -> None:
        self._config, self._rt, self._observer, self._steps, self._terms = config, rt, observer, steps, terms
        self._ids = ids
        self.window = TrainingWindow(len(config.tasks), rt, weighted=config.data.weight is not None)
        self._far_off: set[str] = set()
        self._losses = Mean(len(terms) + 1)  # of the terms and of their sum, since the last line
        self._unread: list[tuple[torch.Tensor, ...]] = []  # logits, labels, weights of the last steps
        self.watch = Stopwatch()
        self._started = time.monotonic()
        self.resumed(Progress())

    def resumed(self, progress: Progress) -> None:
        """Go on from here; the window was loaded from the commit."""
        self._first = self._last = progress.step
        self._before, self.lost = progress.counts, progress.lost
        self.skipped = progress.counts.get("skipped", 0)  # steps, of the whole run
        self._counts = torch.zeros(len(COUNTS), dtype=torch.float64)

    def timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """`source`, with the time of waiting for it measured; what passes between batches and is no phase is lost."""
        self._started = time.monotonic()
        self.watch.lap("start")
        for batch in source:
            self.watch.lap("data")
            yield batch

    def after(self, outcome: Outcome, batch: Batch) -> None:
        """Count a step; emit a `step` event every `log_every` steps and at the last."""
        self._counts += torch.tensor([batch.dropped, batch.clamped, batch.quarantined])
        self.lost += batch.lost
        for one in batch.lost:
            self._observer.event("quarantine", step=batch.step, **asdict(one))
        if outcome.flaw is None:  # else its losses or its logits may be of no number
            self._losses.add([*outcome.terms_L.tolist(), outcome.loss], outcome.weight)
            self._unread.append((outcome.outputs.logits_BT.detach(), batch.labels_BT, batch.weight_B))
        else:
            self.skipped += 1
        if len(self._unread) == STEPS_AT_ONCE:
            self._read()
        if outcome.step == self._first + 1:
            self._rt.started()
        if outcome.statistics is not None:
            self._observer.event("diagnosis", step=outcome.step, **outcome.statistics)
        if outcome.step % self._config.train.log_every == 0 or outcome.step == self._steps:
            self._tell(outcome)
        self.watch.lap("metrics")

    def _read(self) -> None:
        """Take the steps that wait into the window."""
        if self._unread:
            logits_BT, labels_BT, weight_B = (torch.cat(column) for column in zip(*self._unread, strict=True))
            self._unread.clear()
            self.window.update(*read(logits_BT, labels_BT, weight_B, self._config.model.head).columns)

    def window_state(self) -> dict[str, torch.Tensor]:
        """The window for a commit. Collective."""
        self._read()
        return self.window.state()

    def _tell(self, outcome: Outcome) -> None:
        self._read()
        window = dict(zip(self._config.tasks, self.window.close_part(), strict=True))
        steps, seconds, memory = outcome.step - self._last, self._slowest(), self._memory()
        self._last = outcome.step
        *terms, loss = self._losses.take()
        self._warn(outcome.step, terms, window)
        spent = sum(seconds[phase] for phase in PHASES)
        elapsed = time.monotonic() - self._started
        self._observer.event(
            "step",
            step=outcome.step,
            steps=self._steps,
            loss=loss,
            losses=dict(zip(self._terms, terms, strict=True)),
            rows_per_second=steps * self._config.train.global_batch / spent,
            data_wait=seconds["data"] / spent,
            seconds={phase: seconds[phase] / steps for phase in PHASES if phase != "ids" or self._ids is not None},
            pauses={phase: seconds[phase] for phase in PAUSES},
            eta_seconds=(self._steps - outcome.step) * elapsed / (outcome.step - self._first),
            memory=memory,
            window={task: _brief(metrics) for task, metrics in window.items()},
            **self._dynamic(),
        )

    def _warn(self, step: int, terms: list[float], window: dict[str, TaskMetrics]) -> None:
        """Name the labels whose loss is beyond reason now, and was not at the line before."""
        config = self._config
        conditional = config.model.head == "clicked"
        counts = {}
        for space, metrics in zip(spaces(len(config.data.labels), config.data.funnel), window.values(), strict=True):
            if space.label == 0 or conditional == (space.given is not None):
                counts[space.label] = (metrics.positives, metrics.rows)
        found = far_off(terms, [counts[label] for label in sorted(counts)], config)
        for label in found.keys() - self._far_off:
            self._observer.event("warning", step=step, message=found[label])
        self._far_off = set(found)

    def _slowest(self) -> dict[str, float]:
        """Seconds of each phase since the last time, the largest of all ranks. Collective."""
        mine = self.watch.take()
        names = (*PHASES, *PAUSES)
        seconds = torch.tensor([mine.get(name, 0.0) for name in names], dtype=torch.float64, device=self._rt.device)
        return dict(zip(names, self._rt.largest(seconds).tolist(), strict=True))

    def _memory(self) -> dict[str, int]:
        """Peaks so far, the largest of all ranks. Collective."""
        kilobyte = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
        peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte, 0]
        if self._rt.device.type == "cuda":
            peaks[1] = torch.cuda.max_memory_allocated(self._rt.device)
        host, device = self._rt.largest(torch.tensor(peaks, device=self._rt.device)).tolist()
        return {"host_bytes": host, "device_bytes": device}

    def counts(self) -> dict[str, int]:
        """What data policies did to the rows trained since the run began, over all ranks and restarts. Collective."""
        here = self._rt.all_reduce(self._counts.to(self._rt.device, copy=True)).tolist()
        counts = {name: self._before.get(name, 0) + int(count) for name, count in zip(COUNTS, here, strict=True)}
        tables = self._dynamic().get("dynamic", {})
        counts["skipped"] = self.skipped
        return counts | {_tallied(table, name): told[name] for table, told in tables.items() for name in TALLY}

    def _dynamic(self) -> dict[str, dict[str, dict[str, int]]]:
        """By table: rows taken, what came of its ids since the run began. Empty where none is dynamic. Collective."""
        if self._ids is None:
            return {}
        status = self._ids.status()
        for table, told in status.items():
            told |= {name: told[name] + self._before.get(_tallied(table, name), 0) for name in TALLY}
        return {"dynamic": status}

    def finish(self, step: int) -> None:
        """Tell the counts and the time of the whole run."""
        counts = self.counts()
        told = {name: counts[name] for name in COUNTS} | {"lost": len(self.lost), "skipped": self.skipped}
        self._observer.event("counts", **told, **self._dynamic())
        self._observer.event("done", step=step, steps=step - self._first, seconds=time.monotonic() - self._started)


def _tallied(table: str, name: str) -> str:
    """The name of a dynamic table's count in a commit."""
    return f"tables.{table}.{name}"


def _brief(metrics: TaskMetrics) -> dict[str, float]:
    """The metrics of a window that a curve is drawn of."""
    auc = asdict(metrics.auc)
    names = ("rows", "positives", "logloss", "normalised_entropy", "pcoc")
    return {name: getattr(metrics, name) for name in names} | {
        "auc": auc["value"],
        "auc_low": auc["low"],
        "auc_high": auc["high"],
    }
