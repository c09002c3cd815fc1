"""What the ranks of a fault case run: commits under a microscope, and the system calls that they consist of."""

import errno
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from dist_mtl.build import build
from dist_mtl.checkpoint import durable_io, staging, store
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.checkpoint.train_state import Progress, Selection
from dist_mtl.config import Config
from dist_mtl.errors import DistMtlError
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.train import train
from tests.support.guard_workers import in_step, trained

# Every call into the kernel that a commit makes from Python.
CALLS = frozenset(
    (os.open, os.write, os.fsync, os.close, os.read, os.rename, os.mkdir, os.rmdir, os.unlink, os.scandir, os.fstat)
)
DISK_CALLS = frozenset((os.open, os.write, os.fsync, os.rename, os.mkdir))  # those that a full disk may refuse


@contextmanager
def watched(calls: frozenset, on_call: Callable[[int, str, str], None]) -> Iterator[list[int]]:
    """Within, `on_call(number, "before" | "after", name)` for each of `calls`, in every thread; gives their count.

    An `on_call` that raises makes the call fail, but Python then looks no more.
    """
    count, numbers, mine = [0], itertools.count(1), threading.local()  # calls of two threads may lie in each other

    def look(_: Any, event: str, function: Any) -> None:
        if event in ("c_call", "c_return", "c_exception") and function in calls:
            if event == "c_call":
                count[0] = mine.number = next(numbers)
            on_call(mine.number, "before" if event == "c_call" else "after", function.__name__)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def changed(model: ShardedModel, step: int) -> None:
    """Every number of the state as if it had been trained: another one at each step, the same on all ranks."""
    with torch.no_grad():
        for one in held(model.state()).values():
            for part in one.parts:
                part.tensor.fill_(step) if not part.tensor.is_floating_point() else part.tensor.add_(1 / (step + 1))


def save(model: ShardedModel, step: int, config: Config, rt: Runtime) -> Path:
    return store.save(model, Progress(step), {}, "periodic", config, "digest", rt)


def commits_of_steps(config: Config, *steps: int) -> None:
    """A run's commits, without the training."""
    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        model.materialise_states()
        for step in steps:
            changed(model, step)
            save(model, step, config, rt)


def calls_of_a_commit(config: Config) -> int:
    """How many system calls the third commit makes on this rank: the first one has to go for it."""
    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        model.materialise_states()
        for step in (1, 2):
            changed(model, step)
            save(model, step, config, rt)
        changed(model, 3)
        with watched(CALLS, lambda *_: None) as count:
            save(model, 3, config, rt)
        return count[0]


def killed_at_a_call(config: Config, victim: int, number: int, when: str) -> None:
    """The same, but the victim is killed before or after its call of that number."""

    def kill(call: int, moment: str, _: str) -> None:
        if (call, moment) == (number, when):
            os.kill(os.getpid(), signal.SIGKILL)

    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        model.materialise_states()
        for step in (1, 2):
            changed(model, step)
            save(model, step, config, rt)
        changed(model, 3)
        with watched(CALLS, kill if rt.rank == victim else lambda *_: None):
            save(model, 3, config, rt)


def refused_at_a_call(config: Config, victim: int, numbers: tuple[int, ...], code: int = errno.ENOSPC) -> list:
    """For each number a commit of which the victim's call of that number is refused, then one that is not.

    What each attempt came to: the error's class and words, or None; and what was left beside the commits.
    """
    found = []
    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        model.materialise_states()
        root, step = Path(config.run.dir) / store.FOLDER, 1
        save(model, step, config, rt)
        for number in numbers:
            step += 1
            changed(model, step)

            def refuse(call: int, moment: str, _: str, number: int = number) -> None:
                if (call, moment) == (number, "before"):
                    raise OSError(code, os.strerror(code), "the disk")

            told = None
            try:
                with watched(DISK_CALLS, refuse if rt.rank == victim else lambda *_: None):
                    save(model, step, config, rt)
            except DistMtlError as error:
                told = type(error).__name__, str(error)
            rt.barrier()
            found.append((told, sorted(path.name for path in root.iterdir())))
            rt.barrier()
    return found


def train_with_a_full_disk(config: Config, victim: int, steps: tuple[int, ...]) -> tuple[str, str, int] | None:
    """A training of which the victim's kernel takes 1 KB a file at most while a commit of these steps is being made.

    Returns the error that ended it.
    """
    root = Path(config.run.dir) / store.FOLDER
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(_: int, moment: str, __: str) -> None:
        full = moment == "before" and any((root / f".staged-{step:010d}").exists() for step in steps)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 if full else most, most))

    try:
        with watched(CALLS, limit if int(os.environ["RANK"]) == victim else lambda *_: None):
            train(config)
    except DistMtlError as error:
        return type(error).__name__, str(error), error.exit_code
    return None


def stopped_with_a_full_disk(config: Config, step: int) -> None:
    """A run whose disk is full from the step on in which a signal asks it to stop."""

    def stop() -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        os.kill(os.getpid(), signal.SIGTERM)

    in_step(config, 1, step, stop)


def behind_a_slow_disk(config: Config, step: int, seconds: float) -> None:
    """A run whose rank 1 writes for so long at each commit, and meets a value that is no number in a step."""
    original = os.fsync

    def fsync(file: int) -> None:
        time.sleep(seconds)
        original(file)

    if int(os.environ["RANK"]) == 1:
        os.fsync = fsync
    trained(config, {step: ("logits", 1)})


def slow_to_read(config: Config, seconds: float) -> None:
    """A run whose rank 1 reads for so long what it goes on from."""
    original = durable_io.measure

    def measure(path: Path) -> durable_io.Stored:
        time.sleep(seconds)
        return original(path)

    if int(os.environ["RANK"]) == 1:
        durable_io.measure = measure
    train(config)


def without_memory(config: Config) -> None:
    """A run whose rank 1 has no memory for the copies of commits in the background."""
    if int(os.environ["RANK"]) == 1:

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] can't allocate memory: you tried to allocate much")

        staging.torch = SimpleNamespace(empty=refuse, bfloat16=torch.bfloat16)
    train(config)


def best_of_each(config: Config, steps: dict[int, int]) -> tuple[list[str], list[str]]:
    """Commits of steps that name a best one each; which there are then. And the warnings of one more whose old ones can
    not be renamed away."""

    def refuse(call: int, moment: str, _: str) -> None:
        if call > 1 and moment == "before":  # the first one publishes
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), "an old one")

    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        for step, best in steps.items():
            progress = Progress(step, selection=Selection(best_step=best))
            store.save(model, progress, {}, "periodic", config, "digest", rt)
        names = [path.name for path in staging.complete(Path(config.run.dir) / store.FOLDER)]
        last = max(steps) + 1
        staged = store.stage(model, Progress(last), {}, config, rt)
        with watched(frozenset((os.rename,)), refuse):
            _, warnings = store.publish(staged, staged.write, model, Progress(last), "periodic", config, "digest", rt)
        assert store.exists(config.run.dir, last)
    return names, warnings


def saved_again(config: Config, commit: str) -> None:
    """A commit, loaded on these ranks under this plan and committed anew, in another run.dir."""
    with runtime(config.run) as rt:
        model = build(config, rt, 100)
        window = {"sums": torch.zeros(3)}
        store.load(model, Path(commit), rt)
        store.save(model, Progress(commits.read(Path(commit)).step), window, "periodic", config, "digest", rt)
