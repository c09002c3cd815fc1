"""What a run does beside its training steps: open its data, resume, judge, commit, conclude, and tell of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dist_mtl.build import base_rates
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.manager import Committer
from dist_mtl.checkpoint.train_state import Progress, Selection, over_all
from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.column_class import TrainedOn
from dist_mtl.data.features.same_ids import check_same_ids
from dist_mtl.errors import CheckpointError
from dist_mtl.model.mtl import begin_at
from dist_mtl.observability.events import Observer
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import Outcome
from dist_mtl.scoring.evaluate import Evaluation, TestSet, evaluate
from dist_mtl.scoring.score import Adjustment
from dist_mtl.training.datasets import Data
from dist_mtl.training.leakage import FirstRows
from dist_mtl.training.monitor import Pace
from dist_mtl.training.progressive_validation import tested


@contextmanager
def observing(config: Config, rt: Runtime) -> Iterator[Observer]:
    """The observer of a run; it speaks on the first rank."""
    observer = rt.all_ranks(lambda: Observer(config.run, speaking=rt.world.is_first))
    try:
        yield observer
    finally:
        observer.close()


@dataclass(frozen=True)
class Session:
    """One run at work. Every verb is collective: all ranks do it, and come to the same result."""

    config: Config
    rt: Runtime
    observer: Observer
    data: Data
    model: ShardedModel
    pace: Pace
    steps: int
    first_rows: FirstRows
    committer: Committer

    def resume(self) -> Progress:
        """Load the newest commit, if any, into the model and the pace. Returns the progress: step 0 for a fresh run."""
        with self.rt.committing():
            return self._resumed()

    def _resumed(self) -> Progress:
        rt, fresh = self.rt, Selection.begin(self.config.select, self._validation_digest)
        folder = self._where_to_go_on()
        if folder is None:
            progress = Progress(selection=fresh)
            if self.config.model.initial_bias == "base_rate":
                self._begin_at_base_rates()
            self.committer.went_on(progress)
            return progress
        commit = rt.all_ranks(lambda: commits.read(folder))
        digest = self.data.train.digest_at(commit.step)
        rt.all_ranks(lambda: commits.check_extensions(commit, self.config.extensions, folder, exactly=True))
        rt.all_ranks(lambda: commits.check_same_run(commit, self.config, digest, self.steps, folder))
        # A partition has the class of all its values, and there may be more of them than when the run began.
        on, train = TrainedOn(str(folder), commit.columns), self.data.train
        rt.all_ranks(lambda: check_same_ids(self.config, on, train.schema, str(train.folder)))
        window = self.pace.window.state()
        store.load(self.model, folder, rt, window, verified=True)
        self.pace.window.load(window)
        compares = fresh.compares_with(commit.selection)
        selection = commit.selection if compares else fresh
        progress = Progress(commit.step, commit.counts, selection, commit.lost, commit.tested, commit.judged)
        self.pace.resumed(progress)
        self.committer.went_on(progress)
        self.observer.event("resume", step=commit.step, folder=str(folder))
        if commit.selection.best_step is not None and not compares:
            self.observer.event("selection_reset", step=commit.step, best_step=commit.selection.best_step)
        return progress

    def _begin_at_base_rates(self) -> None:
        """A bias is a weight: a run that resumes has it from its checkpoint, and counts nothing."""
        started = time.monotonic()
        rates = base_rates(self.config, self.data.train, self.rt)
        begin_at(self.model.module, rates)
        named = dict(zip(self.config.data.labels, rates, strict=True))
        self.observer.event("base_rates", rates=named, seconds=time.monotonic() - started)

    def _where_to_go_on(self) -> Path | None:
        """The newest sound commit, as far as `run.resume` lets it be used. Raises CheckpointError."""
        run = self.config.run
        if run.resume == "off":
            if self.rt.from_first(lambda: store.latest(run.dir)) is not None:
                raise _for_all(
                    f"{run.dir}: has commits, and run.resume = 'off' does not go on from them; choose another run.dir"
                )
            return None
        folder = store.newest_sound(run.dir, self.rt, self._tell_of_damage)
        if folder is None and run.resume == "required":
            raise _for_all(f"{run.dir}: has no commit to go on from, and run.resume = 'required'; correct run.dir")
        return folder

    def _tell_of_damage(self, place: Path, reason: str) -> None:
        self.observer.event("damaged_commit", folder=str(place), message=reason)

    @property
    def _validation_digest(self) -> str | None:
        validation = self.data.validation
        return None if validation is None else validation.dataset.manifest.digest

    def examine(self, batch: Batch, outcome: Outcome) -> None:
        """Look for mistakes in the data, once, when the first steps are done. Raises DataError, on every rank."""
        if outcome.flaw is not None:  # none of its rows, for their logits may be of no number
            batch = replace(batch, weight_B=torch.zeros_like(batch.weight_B))
        losses = [] if outcome.flaw is not None else outcome.terms_L[: len(self.config.data.labels)].tolist()
        if self.first_rows.add(batch, outcome.outputs.logits_BT, losses, outcome.weight):
            for message in self.first_rows.look(self.rt):
                self.observer.event("warning", step=batch.step, message=message)

    def look_ahead(self, progress: Progress, step: int) -> Progress:
        """Before the first step of a partition: evaluate on it. The first one has no model to test."""
        ahead = self.data.ahead
        name = None if ahead is None else ahead.name(step)
        if name is None:
            return progress
        test = ahead.test_set(name, self.config, self.rt)
        evaluation = self._evaluate(test)
        self._tell(evaluation, test, progress.step, final=False, score=None, partition=name)
        self.pace.watch.lap("evaluation")
        return replace(progress, tested=(*progress.tested, tested(evaluation, name, progress.step)))

    def judge(self, progress: Progress) -> Progress:
        """Evaluate on the way, and note whether this is the best step so far. The model is as it was."""
        select = self.config.select
        evaluation = self._evaluate(self.data.validation)
        score = None
        if select is not None:
            score = self.rt.all_ranks(lambda: evaluation.score(select))
            progress = replace(progress, selection=progress.selection.after(progress.step, score, select))
        progress = replace(progress, judged=True)
        self._tell(evaluation, self.data.validation, progress.step, final=False, score=score)
        self.pace.watch.lap("evaluation")
        return progress

    def commit(self, progress: Progress, reason: str) -> Progress:
        """Commit the state after this step. Returns the progress with the counts until now."""
        progress = replace(progress, counts=self.pace.counts(), lost=self.pace.lost)
        with self.rt.committing():
            progress = self.committer.commit(progress, self.pace.window_state(), reason)
        self.pace.watch.lap("commit")
        return progress

    def conclude(self, progress: Progress) -> Evaluation | None:
        """Evaluate `data.test` once training has ended; with `select`, by the weights of the best commit.

        Of a stream tell first what all its evaluations found.
        """
        if progress.tested:
            by = self.config.data.stream.by
            self.observer.event("progressive", step=progress.step, by=by, **over_all(progress.tested))
        if self.data.test is None:
            return None
        step = progress.step
        if (best := progress.selection.best_step) not in (None, step):
            folder = self.rt.from_first(lambda: store.find(self.observer.run_dir() or self.config.run.dir, "best"))
            with self.rt.committing():
                store.load(self.model, folder, self.rt, weights_only=True)
            step = best
        evaluation = self._evaluate(self.data.test).with_advice(self.config.few_steps(self.steps))
        self._tell(evaluation, self.data.test, step, final=True, score=None)
        return evaluation

    def _evaluate(self, test: TestSet) -> Evaluation:
        self.rt.watchdog.alive("evaluation")
        return evaluate(self.model, test, self.config, self.rt, Adjustment(self.config.data.kept))

    def _tell(
        self, evaluation: Evaluation, test: TestSet, step: int, final: bool, score: float | None, **more: str
    ) -> None:
        told = asdict(evaluation) | more
        folder = str(test.dataset.folder)
        self.observer.event("evaluation", step=step, data=folder, final=final, score=score, **told)

    def summary(self) -> dict:
        """What the run starts from, for its first event."""
        data, config = self.data, self.config
        sets = {"train": data.train}
        sets |= {name: test.dataset for name in ("validation", "test") if (test := getattr(data, name)) is not None}
        return {
            "rows": data.train.manifest.num_rows,
            "steps": self.steps,
            "global_batch": config.train.global_batch,
            "world": self.rt.size,
            "device": self.rt.device.type,
            "idle_gpus": torch.cuda.device_count() if self.rt.device.type == "cpu" else 0,
            "table_bytes": sum(t.rows * t.dim * 4 for t in config.all_tables.values()),
            "plan": self.model.plan,
            "data": {name: {"folder": str(d.folder), **d.manifest.summary()} for name, d in sets.items()},
            "config": config.model_dump(mode="json"),
            "versions": commits.versions(),
        }


def _for_all(message: str) -> CheckpointError:
    """An error that every rank comes to by itself."""
    error = CheckpointError(message)
    error.all_ranks = True
    return error
