"""THE LOOP: a configuration -> trained weights, committed on the way, and their evaluation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from dist_mtl.assemble import build, check_world, open_dataset
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.data import manifest
from dist_mtl.data.loader import Dataset
from dist_mtl.data.synthetic import write_sample
from dist_mtl.errors import DataError
from dist_mtl.evaluate import Evaluation, evaluate
from dist_mtl.model.loss import TaskObjective
from dist_mtl.observe import Observer
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.pipeline import Outcome, train_step
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel


def train(config: Config) -> Evaluation | None:
    """Train to the end, from the newest commit if there is one, and evaluate `data.test`.

    The same on every rank; None without `data.test`. Raises any DistMtlError, on all ranks alike wherever one rank's
    fault can be told to the others.
    """
    check_world(config)
    with runtime(config.run) as rt, observing(config, rt) as observer:
        dataset = open_train(config, rt, observer)
        test = config.data.test and open_dataset(config.data.test, config, False, rt)  # now: a mistake must not wait
        steps = num_steps(config, dataset)
        model = build(config, rt, steps)
        step, counts = resume(model, config, dataset, steps, rt, observer)
        objective = TaskObjective.of(config.model, len(config.data.labels))
        pace = Pace(config, rt, observer, steps, step, counts)
        observer.event("start", **_summary(config, dataset, model, steps, rt))
        with observer.progress(step, steps):
            for batch in pace.timed(batches(dataset, rt, step, steps)):
                outcome = train_step(model, objective, batch, rt)
                pace.after(outcome, batch.dropped, batch.clamped)
                if outcome.step % config.train.checkpoint_every == 0 or outcome.step == steps:
                    save(model, outcome.step, config, dataset, pace.counts(), rt, observer)
        pace.finish()
        evaluation = evaluate(model, test, config, rt) if test else None
        if evaluation is not None:
            observer.event("evaluation", step=steps, **asdict(evaluation))
    return evaluation


@contextmanager
def observing(config: Config, rt: Runtime) -> Iterator[Observer]:
    """The observer of a run; it speaks on the first rank."""
    observer = rt.all_ranks(lambda: Observer(config.run.dir, speaking=rt.world.is_first))
    try:
        yield observer
    finally:
        observer.close()


def open_train(config: Config, rt: Runtime, observer: Observer) -> Dataset:
    """Open and verify `data.train`; where it does not exist and `data.sample` describes it, the first rank makes it."""
    if config.data.sample is not None:
        rt.from_first(lambda: _make_sample(config, observer))
    return open_dataset(config.data.train, config, config.data.shuffle, rt)


def _make_sample(config: Config, observer: Observer) -> None:
    if (Path(config.data.train) / manifest.NAME).exists():
        return
    started = time.monotonic()
    try:
        write_sample(config.data.sample, config.data.train, config.data.test)
    except OSError as error:
        raise DataError(f"{error.filename}: the sample logs can not be written: {error.strerror}") from None
    seconds = time.monotonic() - started
    observer.event("sample_logs", train=config.data.train, test=config.data.test, seconds=seconds)


def num_steps(config: Config, dataset: Dataset) -> int:
    """Global steps of the whole run."""
    steps = config.train.epochs * dataset.order.steps_per_epoch
    return min(steps, config.train.max_steps or steps)


def resume(
    model: ShardedModel, config: Config, dataset: Dataset, steps: int, rt: Runtime, observer: Observer
) -> tuple[int, dict[str, int]]:
    """Load the newest commit, if any. Returns the last trained step (0 for a fresh run) and the counts until then."""
    folder = rt.from_first(lambda: store.latest(config.run.dir))  # one rank looks: file systems may show others less
    if folder is None:
        return 0, {}
    commit = rt.all_ranks(lambda: commits.read(folder))
    rt.all_ranks(lambda: commits.check_same_run(commit, config, dataset.manifest.digest, steps, folder))
    store.load(model, folder)
    observer.event("resume", step=commit.step, folder=str(folder))
    return commit.step, commit.counts


def save(
    model: ShardedModel,
    step: int,
    config: Config,
    dataset: Dataset,
    counts: dict[str, int],
    rt: Runtime,
    observer: Observer,
) -> None:
    """Commit and tell."""
    started = time.monotonic()
    folder = store.save(model, step, config, dataset.manifest.digest, counts, rt)
    observer.event("commit", step=step, seconds=time.monotonic() - started, folder=str(folder))


COUNTS = ("dropped", "clamped")


class Pace:
    """Speed, waiting for data, and counts since the last `step` event. Clocks are read here only: no rank decides by one."""

    def __init__(
        self, config: Config, rt: Runtime, observer: Observer, steps: int, done: int, counts: dict[str, int]
    ) -> None:
        self._config, self._rt, self._observer, self._steps = config, rt, observer, steps
        self._started = self._mark = time.monotonic()
        self._first, self._last, self._wait = done, done, 0.0
        self._before = counts
        self._counts = torch.zeros(len(COUNTS), dtype=torch.float64)

    def timed(self, source: Iterator) -> Iterator:
        """`source`, with the time spent waiting for it measured."""
        while True:
            started = time.monotonic()
            batch = next(source, None)
            self._wait += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def after(self, outcome: Outcome, dropped: int, clamped: int) -> None:
        """Count a trained step; emit a `step` event every `log_every` steps and at the last."""
        self._counts += torch.tensor([dropped, clamped])
        step = outcome.step
        if step == self._first + 1:
            self._rt.started()
        if step % self._config.train.log_every and step != self._steps:
            return
        now = time.monotonic()
        seconds = now - self._mark
        losses = dict(zip(self._config.data.labels, outcome.losses_T.tolist(), strict=True))
        self._observer.event(
            "step",
            step=step,
            steps=self._steps,
            losses=losses,
            rows_per_second=(step - self._last) * self._config.train.global_batch / seconds,
            data_wait=self._wait / seconds,
            eta_seconds=(self._steps - step) * (now - self._started) / (step - self._first),
        )
        self._mark, self._last, self._wait = now, step, 0.0

    def counts(self) -> dict[str, int]:
        """What the data policies did to the rows trained since the run began, over all ranks and restarts. Collective."""
        here = self._rt.all_reduce(self._counts.to(self._rt.device, copy=True)).tolist()
        return {name: self._before.get(name, 0) + int(count) for name, count in zip(COUNTS, here, strict=True)}

    def finish(self) -> None:
        """Tell the counts and the time of the whole run."""
        self._observer.event("counts", **self.counts())
        self._observer.event("done", steps=self._last - self._first, seconds=time.monotonic() - self._started)


def _summary(config: Config, dataset: Dataset, model: ShardedModel, steps: int, rt: Runtime) -> dict:
    return {
        "rows": dataset.manifest.num_rows,
        "steps": steps,
        "global_batch": config.train.global_batch,
        "world": rt.size,
        "device": rt.device.type,
        "idle_gpus": torch.cuda.device_count() if rt.device.type == "cpu" else 0,
        "table_bytes": sum(t.rows * t.dim * 4 for t in config.all_tables.values()),
        "plan": model.plan,
        "config": config.model_dump(mode="json"),
        "versions": commits.versions(),
    }
