"""No hang: a rank that is stopped, asleep, or dead ends every rank within its bound, and each says what it knows."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.guard_workers import failing_step, run_cli, sleeping_reader, sleeping_step, slow_start
from tests.support.harness import Cluster, Exit, Running, events, wait_for
from tests.support.workers import train

TIMEOUT = 3  # run.step_timeout, seconds
# What a rank has from its last move to its end: its bound, the watchdog's grace of 5 s, and a busy machine.
BOUND = TIMEOUT + 5 + 17


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 500, seed=1)
    return folder


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", f"run.step_timeout={TIMEOUT}", "train.max_steps=30")
    return samples.config(folder, *fixed, "train.checkpoint_every=5", "data.shuffle_rows=256", *overrides)


def step_is_told(run: Path, step: int, running: Running) -> None:
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", step), running)


def ended(running: Running, since: float, ranks: tuple[int, ...] = (0, 1)) -> list[Exit]:
    exits = running.wait(BOUND)
    print(f"all had ended {time.monotonic() - since:.1f} s after the fault; step_timeout = {TIMEOUT} s")
    for rank in ranks:
        print(f"rank {rank}, exit code {exits[rank].code}: {exits[rank].stderr[-1500:]}")
        assert exits[rank].code == 70
    return exits


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank(folder: Path, rank: int) -> None:
    """SIGSTOP: its peer waits in a collective until `run.step_timeout`, and says where; the launcher kills it."""
    run = f"stopped {rank}"
    running = Cluster(2).start(run_cli, settings(folder, run))
    step_is_told(folder / run, 7, running)
    os.kill(running.processes[rank].pid, signal.SIGSTOP)
    since = time.monotonic()
    running.processes[1 - rank].join(BOUND)
    running.kill(rank)
    exits = ended(running, since, (1 - rank,))
    assert "another rank has stopped or does not answer at step " in exits[1 - rank].stderr
    assert f"error: [rank {1 - rank}] " in exits[1 - rank].stderr and "Traceback" not in exits[1 - rank].stderr
    assert max(e["step"] for e in events(folder / run, "commit")) >= 5


def test_a_reader_that_never_returns(folder: Path) -> None:
    """One rank waits for its rows, the other for it: both end, and the one at fault shows where it waits."""
    running = Cluster(2).start(sleeping_reader, settings(folder, "reader"), 1, 3)
    step_is_told(folder / "reader", 8, running)
    first, second = ended(running, time.monotonic())
    assert "another rank has stopped or does not answer at step 8, in reading" in first.stderr
    assert "error: [rank 1] at step 8, in reading: nothing has moved for 3 s (run.step_timeout = 3)" in second.stderr
    assert "in sleeping_reader" in second.stderr or "in window" in second.stderr, "the reader's stack"


@pytest.mark.skipif(not LONG, reason="waits for real timeouts; make faults")
def test_a_rank_that_sleeps_between_collectives(folder: Path) -> None:
    running = Cluster(2).start(sleeping_step, settings(folder, "sleeping"), 0, 7)
    step_is_told(folder / "sleeping", 6, running)
    first, second = ended(running, time.monotonic())
    assert "error: [rank 0] at step 7, in training: nothing has moved" in first.stderr
    assert ", line " in first.stderr and "in shares" in first.stderr and "so this rank ends" in first.stderr
    assert "another rank has stopped or does not answer at step 7, in training" in second.stderr


@pytest.mark.skipif(not LONG, reason="waits for real timeouts; make faults")
def test_one_rank_alone_ends_by_its_watchdog(folder: Path) -> None:
    """No collective would ever fail here."""
    running = Cluster(1).start(sleeping_step, settings(folder, "alone"), 0, 7)
    step_is_told(folder / "alone", 6, running)
    [alone] = ended(running, time.monotonic(), (0,))
    assert "error: at step 7, in training: nothing has moved" in alone.stderr and "in shares" in alone.stderr


@pytest.mark.skipif(not LONG, reason="waits for real timeouts; make faults")
def test_a_start_that_never_ends(folder: Path) -> None:
    """A rank that sleeps uses no processor; `run.start_timeout` bounds it."""
    running = Cluster(1).start(slow_start, settings(folder, "start", "run.start_timeout=3"), 10_000.0)
    began = time.monotonic()
    [alone] = ended(running, began, (0,))
    assert "error: in start: nothing has moved" in alone.stderr and "run.start_timeout = 3" in alone.stderr
    assert "in build" in alone.stderr


def test_a_rank_at_work_is_left_alone(folder: Path) -> None:
    """Off, or with steps, evaluations and commits well within the bound: nobody is ended, and nothing is said."""
    busy = ("train.evaluate_every=5", f"data.validation='{folder / 'test'}'", "run.step_timeout=30")
    for run, options in (("on", busy), ("off", ("run.watchdog=false",))):
        exits = Cluster(2).start(run_cli, settings(folder, run, *options)).wait(60)
        assert [e.code for e in exits] == [0, 0], exits[0].stderr
        assert "nothing has moved" not in exits[0].stderr + exits[1].stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_a_defect_on_one_rank(folder: Path, rank: int) -> None:
    """An exception between collectives: its rank keeps the traceback, its peer says that it has gone, both at once."""
    run = f"defect {rank}"
    running = Cluster(2).start(failing_step, settings(folder, run), rank, 7)
    step_is_told(folder / run, 6, running)
    exits = ended(running, time.monotonic())
    assert "ZeroDivisionError: a defect\nat step 7, in training" in exits[rank].stderr
    other = exits[1 - rank].stderr
    assert "another rank has stopped or does not answer at step 7, in training" in other and "Traceback" not in other


def test_three_attempts_without_progress_and_no_fourth(folder: Path) -> None:
    """Killed three times from the same commit; a step of progress, an error with a name and an end start afresh."""
    config, run = settings(folder, "storm"), folder / "storm"
    kept = run / "attempts.json"

    def killed(step: int) -> None:
        running = Cluster(2).start(failing_step, config, 1, step)
        assert [e.code for e in running.wait(60)] == [70, 70]

    killed(3)  # from the beginning
    killed(9)  # from the beginning, to the commit of step 5
    assert json.loads(kept.read_text())["start"] == "the beginning" and len(json.loads(kept.read_text())["began"]) == 2
    for times in (1, 2):
        killed(8)
        told = json.loads(kept.read_text())
        assert told["start"] == "step-0000000005" and len(told["began"]) == times
    [e.code for e in Cluster(2).start(run_cli, settings(folder, "storm", "seed=2")).wait(60)]
    assert not kept.exists(), "a wrong configuration is an end in words"
    for _ in range(3):
        killed(8)
    seen = len(events(run))
    exits = Cluster(2).start(run_cli, config).wait(60)
    print(exits[0].stderr)
    assert [e.code for e in exits] == [70, 70] and exits[1].stderr == ""
    said = [line for line in exits[0].stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "3 attempts from step-0000000005 have died without a further commit" in said[0]
    assert f"remove {kept} to start again" in said[0]
    assert len(events(run)) == seen, "it began to train"
    Cluster(2).run(train, settings(folder, "storm", "run.attempts=4"))
    assert not kept.exists() and events(run, "done")[-1]["step"] == 30
