"""Processes of a study side by side: failures, locks, interruptions; and what becomes of their commits."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from dist_mtl.checkpoint import durable_io
from dist_mtl.checkpoint.format import VERSION, Commit
from dist_mtl.checkpoint.train_state import Selection
from dist_mtl.tools.study.jobs import Job, run_jobs
from dist_mtl.tools.study.progress import Progress
from dist_mtl.tools.study.run import prune


def job(folder: Path, name: str, code: str, lock: str | None = None) -> Job:
    """A process that runs `code` in `folder`; its result is the file NAME.done."""
    done = folder / f"{name}.done"

    def nothing() -> None:
        """Leave it."""

    locked = folder / (lock or f"{name}.lock")
    command = ("-c", f"import pathlib, time, sys, os\ndone = pathlib.Path({str(done)!r})\n{code}")
    return Job(name, command, locked, folder / name, done.exists, nothing, nothing)


def test_failures_stop_no_other_job_and_say_why(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "good", "done.touch()"),
        job(tmp_path, "wordless", "sys.exit(3)"),
        job(tmp_path, "told", "print('x\\nerror: data.test is gone\\nerror: make it', file=sys.stderr); sys.exit(65)"),
        job(tmp_path, "killed", "os.kill(os.getpid(), 9)"),
        job(tmp_path, "last", "assert os.environ['OMP_NUM_THREADS'] == '3'; done.touch()"),
    ]
    failures = {one.name: one for one in run_jobs(jobs, 2, 3, Progress())}
    assert {name: one.code for name, one in failures.items()} == {"wordless": 3, "told": 65, "killed": -9}
    assert failures["told"].reason == "exit code 65: data.test is gone make it"
    assert failures["killed"].reason.startswith("killed by signal 9") and failures["told"].log.endswith("told.err")
    assert (tmp_path / "good.done").exists() and (tmp_path / "last.done").exists()


def test_jobs_of_one_lock_never_run_together(tmp_path: Path) -> None:
    code = "(d := done.parent / 'inside').mkdir(); time.sleep(0.2); d.rmdir(); done.touch()"
    jobs = [job(tmp_path, name, code, lock="shared") for name in "abc"]
    assert run_jobs(jobs, 3, 1, Progress()) == []


def test_what_another_process_is_at_is_waited_for_and_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As a study finds it whose predecessor was killed while its cells train on."""
    one = job(tmp_path, "cell", "raise SystemExit('run twice')")
    hold = (
        f"import fcntl, pathlib, time; f = open({str(one.lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        f"f.write('4321'); f.flush(); print(flush=True); time.sleep(1); "
        f"pathlib.Path({str(tmp_path / 'cell.done')!r}).touch()"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    other.stdout.readline()
    assert run_jobs([one], 1, 1, Progress()) == []
    assert other.wait(10) == 0 and not Path(f"{one.log}.err").exists()
    assert "process 4321" in capsys.readouterr().err


def test_an_interrupted_study_ends_its_processes(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    one = job(tmp_path, "long", f"pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); time.sleep(60)")

    def interrupt() -> bool:
        if pids.exists() and pids.read_text():
            raise KeyboardInterrupt
        return False

    watcher = Job("watcher", ("-c", "1"), tmp_path / "w.lock", tmp_path / "watcher", interrupt, one.prepare, one.tidy)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while not run_jobs([one, watcher], 2, 1, Progress()):
            assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_pruning_keeps_what_the_run_is_judged_by(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for step in (10, 20, 30, 40):
        (folder := root / f"step-{step:010d}").mkdir(parents=True)
        commit = Commit(VERSION, step, 1, "digest", {}, {}, [], {}, selection=Selection(20, 0.7, 2))
        stored = durable_io.write_text(folder / "commit.json", json.dumps(asdict(commit)))
        durable_io.write_text(folder / durable_io.SUMS, durable_io.sums_text({"commit.json": stored.checksum}))
    (root / ".staged-0000000050").mkdir()
    prune(tmp_path)
    assert sorted(path.name for path in root.iterdir()) == ["step-0000000020", "step-0000000040"]
    prune(tmp_path)
    prune(tmp_path / "no-run")
    assert len(list(root.iterdir())) == 2
