"""Processes side by side. A job that has its result is not run; one that another process is at work on is waited for.

Each job has a lock file, whose descriptor its process inherits: a training that outlives a killed study keeps the lock,
so that the next study lets it end and takes its result, instead of training in the same folder beside it.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dist_mtl.tools.study.progress import Progress

PAUSE = 0.1  # seconds between two looks at the processes; the shortest job takes some seconds
GRACE = 10.0  # seconds that a process has to end before it is killed


@dataclass(frozen=True)
class Job:
    """`command` behind `python`. `done`: is its result there? `prepare`: before it starts. `tidy`: once it is done."""

    name: str
    command: tuple[str, ...]
    lock: Path  # jobs with the same one run one after another
    log: Path  # LOG.out and LOG.err
    done: Callable[[], bool]
    prepare: Callable[[], None]
    tidy: Callable[[], None]


@dataclass(frozen=True)
class Failure:
    """A job that ended without its result; `reason` in its own words."""

    name: str
    code: int
    reason: str
    log: str


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen
    lock: IO
    started: float


def run_jobs(jobs: Sequence[Job], slots: int, threads: int, progress: Progress) -> list[Failure]:
    """Run them, `slots` at a time, each with `threads` threads. Those that fail stop no other; returns them.

    If it is interrupted itself, it ends its processes and waits for them.
    """
    waiting, running, failures = deque(jobs), [], []
    try:
        while waiting or running:
            for _ in range(len(waiting)):
                if len(running) == slots:
                    break
                job = waiting.popleft()
                lock = _locked(job)
                if lock is None:
                    if job.lock not in {one.job.lock for one in running}:
                        progress.waits(job.name, job.lock)
                    waiting.append(job)
                elif job.done():
                    job.tidy()
                    lock.close()
                else:
                    running.append(_start(job, lock, threads))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                failure = _end(one)
                progress.ended(one.job.name, time.monotonic() - one.started, failure and failure.reason)
                failures += [failure] if failure else []
            if running or waiting:
                time.sleep(PAUSE)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            _reap(one.process)
    return failures


def _locked(job: Job) -> IO | None:
    """The job's lock file, held; None while another process holds it."""
    job.lock.parent.mkdir(parents=True, exist_ok=True)
    file = job.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _start(job: Job, lock: IO, threads: int) -> _Running:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.prepare()
    with Path(f"{job.log}.out").open("wb") as out, Path(f"{job.log}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            pass_fds=(lock.fileno(),),
        )
    lock.truncate(0)
    lock.write(f"{process.pid}\n")  # for a person who looks for the process that is waited for
    lock.flush()
    return _Running(job, process, lock, time.monotonic())


def _end(one: _Running) -> Failure | None:
    """What a process that has ended leaves: its result, or why not."""
    job, code = one.job, one.process.returncode
    try:
        if job.done():
            job.tidy()
            return None
        return Failure(job.name, code, _reason(Path(f"{job.log}.err"), code), f"{job.log}.err")
    finally:
        one.lock.close()


def _reason(path: Path, code: int) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {' '.join(told) or (lines[-1] if lines else 'no word')}"


def _reap(process: subprocess.Popen) -> None:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
