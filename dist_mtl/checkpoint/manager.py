"""Makes the commits of a run, in the foreground or behind the training; a disk that is full for a while ends no run.

In the background a commit is copied in memory, written by a thread of each rank, and made complete by the training
threads once all ranks have written: no collective leaves them, so a commit and a step can not get in each other's way.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import Staging, discard
from dist_mtl.checkpoint.train_state import Progress, Selection
from dist_mtl.config import Config
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import CheckpointError, NonFiniteError
from dist_mtl.observability.events import Observer
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

LAST = ("end", "stopped", "preempted")  # after these nothing comes: they are waited for, and must not fail


@dataclass(frozen=True)
class Pending:
    """A commit that is being written."""

    staged: Staging
    writing: Future[dict[str, str]]
    progress: Progress
    reason: str
    blocked: float  # seconds that training has waited for it
    begun: float


class Committer:
    """The commits of one run. Every verb is collective."""

    def __init__(self, config: Config, rt: Runtime, observer: Observer, model: ShardedModel, train: Dataset) -> None:
        self._config, self._rt, self._observer, self._model, self._train = config, rt, observer, model, train
        self._pending: Pending | None = None
        self._failed = 0  # in a row
        self._has_commits = False
        self._on_disk = Selection()  # as the newest commit has it
        self._room: dict[str, torch.Tensor] = {}  # the copies of a commit in the background, kept for the next one
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        rt.remains.callback(self._writer.shutdown)  # a process that lives on may train here again

    def went_on(self, progress: Progress) -> None:
        """From this commit, or from the beginning."""
        self._on_disk = progress.selection
        self._has_commits = progress.step > 0

    def move(self, run_dir: Path) -> None:
        """The run's folder has another path from now on, also for what is being written."""
        run = self._config.run.model_copy(update={"dir": str(run_dir)})
        self._config = self._config.model_copy(update={"run": run})
        if (one := self._pending) is not None:
            self._pending = replace(one, staged=replace(one.staged, root=run_dir / store.FOLDER))

    def commit(self, progress: Progress, window: store.Tensors, reason: str) -> Progress:
        """Commit the state after a step, or begin to. Returns the progress, with the best commit that there is.

        Raises CheckpointError if the disk has refused more than `train.failed_commits` in a row, or the last one;
        NonFiniteError if a weight is not finite.
        """
        progress = self._complete(progress)
        if self._rt.from_first(lambda: store.exists(self._config.run.dir, progress.step)):
            return progress  # a run that ends where it began
        if self._has_commits and self._rt.from_first(lambda: store.latest(self._config.run.dir)) is None:
            self._has_commits = False
            message = f"{self._config.run.dir}: its commits were removed while the run was at work; it makes new ones"
            self._observer.event("warning", step=progress.step, message=message)
        begun, waits = time.monotonic(), self._config.train.commit == "blocking" or reason in LAST
        staged = None
        try:
            staged = store.stage(self._model, progress, window, self._config, self._rt)
            written = staged if waits else self._rt.all_ranks(lambda: staged.copied(self._room))
        except CheckpointError as error:
            if staged is not None:
                self._rt.from_first(lambda: discard(staged))
            return self._refused(progress, progress.step, reason, error)
        writing = _done(staged.write) if waits else self._writer.submit(written.write)
        self._pending = Pending(staged, writing, progress, reason, time.monotonic() - begun, begun)
        return self._complete(progress) if waits else progress

    def look(self, progress: Progress) -> Progress:
        """After a step: complete the commit that was being written, if every rank has. Costs nothing if none is."""
        if self._pending is None or not self._all_written():
            return progress
        with self._rt.committing():
            return self._complete(progress)

    def settle(self, progress: Progress) -> None:
        """Before all ranks end with an error: what was being written becomes a commit, or is told of as a failure."""
        if self._pending is not None:
            try:
                with self._rt.committing():
                    self._complete(progress)
            except (CheckpointError, NonFiniteError) as error:
                self._observer.event("warning", step=progress.step, message=f"not committed: {error}")

    def _all_written(self) -> bool:
        waiting = torch.tensor([not self._pending.writing.done()], dtype=torch.int64, device=self._rt.device)
        return not bool(self._rt.all_reduce(waiting))

    def _complete(self, progress: Progress) -> Progress:
        """Wait for what is being written, and publish it."""
        if (one := self._pending) is None:
            return progress
        self._pending, begun = None, time.monotonic()
        digest, columns = self._train.digest_at(one.progress.step), self._train.trained_on.columns
        try:
            folder, warnings = store.publish(
                one.staged,
                one.writing.result,
                self._model,
                one.progress,
                one.reason,
                self._config,
                digest,
                self._rt,
                columns,
            )
        except CheckpointError as error:
            return self._refused(progress, one.progress.step, one.reason, error)
        self._failed, self._on_disk, now = 0, one.progress.selection, time.monotonic()
        self._has_commits = True
        for message in warnings:
            self._observer.event("warning", step=one.progress.step, message=message)
        self._observer.event(
            "commit",
            step=one.progress.step,
            seconds=now - one.begun,
            blocked=one.blocked + now - begun,
            folder=str(folder),
            reason=one.reason,
        )
        return progress

    def _refused(self, progress: Progress, step: int, reason: str, error: CheckpointError) -> Progress:
        """Go on without this commit, if that may be."""
        self._failed += 1
        if reason in LAST or self._failed > self._config.train.failed_commits:
            raise error
        allowed = self._config.train.failed_commits
        self._observer.event("commit_failed", step=step, message=str(error), failed=self._failed, allowed=allowed)
        if progress.selection.best_step != step:
            return progress
        # The best commit is none: the best is the one that is on the disk.
        return replace(progress, selection=replace(self._on_disk, stale=progress.selection.stale))


def _done(action: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
    """Do it now: what comes of it, or its error, for later, when all ranks hear of it."""
    future: Future[dict[str, str]] = Future()
    try:
        future.set_result(action())
    except Exception as error:
        future.set_exception(error)
    return future
