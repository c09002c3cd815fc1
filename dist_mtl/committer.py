"""Makes the commits of a run, in the foreground or behind the training; a disk that is full for a while ends no run.

In the background a commit is copied in memory, written by a thread of each rank, and made complete by the training
threads once all ranks have written: no collective leaves them, so a commit and a step can not get in each other's way.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import Staging
from dist_mtl.checkpoint.store import Progress
from dist_mtl.config import Config
from dist_mtl.errors import CheckpointError, DistMtlError
from dist_mtl.observe import Observer
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

    def __init__(
        self, config: Config, rt: Runtime, observer: Observer, model: ShardedModel, digest_at: Callable[[int], str]
    ) -> None:
        self._config, self._rt, self._observer, self._model, self._digest_at = config, rt, observer, model, digest_at
        self._pending: Pending | None = None
        self._failed = 0  # in a row
        self._room: dict[str, torch.Tensor] = {}  # the copies of a commit in the background, kept for the next one
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def commit(self, progress: Progress, window: store.Tensors, reason: str) -> Progress:
        """Commit the state after a step, or begin to. Returns the progress, with the best commit that there is.

        Raises CheckpointError if the disk has refused more than `train.failed_commits` in a row, or the last one;
        NonFiniteError if a weight is not finite.
        """
        progress = self._complete(progress)
        if self._rt.from_first(lambda: store.exists(self._config.run.dir, progress.step)):
            return progress  # a run that ends where it began
        begun = time.monotonic()
        try:
            staged = store.stage(self._model, progress, window, self._config, self._rt)
        except CheckpointError as error:
            return self._refused(progress, progress.step, reason, error)
        waits = self._config.train.commit == "blocking" or reason in LAST
        writing = _done(staged.write) if waits else self._writer.submit(staged.copied(self._room).write)
        self._pending = Pending(staged, writing, progress, reason, time.monotonic() - begun, begun)
        return self._complete(progress) if waits else progress

    def look(self, progress: Progress) -> Progress:
        """After a step: complete the commit that was being written, if every rank has. Costs nothing if none is."""
        if self._pending is None or not self._all_written():
            return progress
        return self._complete(progress)

    def _all_written(self) -> bool:
        waiting = torch.tensor([not self._pending.writing.done()], dtype=torch.int64, device=self._rt.device)
        return not bool(self._rt.all_reduce(waiting))

    def _complete(self, progress: Progress) -> Progress:
        """Wait for what is being written, and publish it."""
        if (one := self._pending) is None:
            return progress
        self._pending, begun = None, time.monotonic()
        digest = self._digest_at(one.progress.step)
        try:
            folder = store.publish(
                one.staged, one.writing.result, self._model, one.progress, one.reason, self._config, digest, self._rt
            )
        except CheckpointError as error:
            return self._refused(progress, one.progress.step, one.reason, error)
        self._failed, now = 0, time.monotonic()
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
        return replace(progress, selection=self._rt.from_first(lambda: self._best_on_disk(progress)))

    def _best_on_disk(self, progress: Progress) -> store.Selection:
        """The selection without a best commit that is none."""
        newest = store.latest(self._config.run.dir)
        known = store.Selection() if newest is None else commits.read(newest).selection
        return replace(progress.selection, best_step=known.best_step, best_score=known.best_score)


def _done(action: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
    """Do it now: what comes of it, or its error, for later."""
    future: Future[dict[str, str]] = Future()
    try:
        future.set_result(action())
    except DistMtlError as error:
        future.set_exception(error)
    return future
