"""SIGTERM and SIGINT: every rank stops after the same step, commits, and ends with 75; resumed, the run is exact."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.guard_workers import run_cli, slow_reader, slow_start, slow_step, slow_steps
from tests.support.harness import ROOT, Cluster, Exit, Running, events, wait_for
from tests.support.workers import commit_state, train

STEPS = 40
LAST = f"checkpoints/step-{STEPS:010d}"
SLACK = 20.0  # seconds for what takes one: the machine may be busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 1_000, seed=1)
    return folder


def options(folder: Path, run: str) -> tuple[str, ...]:
    """Windows of 4 steps, an evaluation every 10 steps that selects, a commit every 25: stops fall in between."""
    fixed = (f"run.dir='{folder / run}'", f"data.validation='{folder / 'test'}'", f"train.max_steps={STEPS}")
    often = ("train.checkpoint_every=25", "train.evaluate_every=10", "select.metrics={'ctcvr.logloss'=1.0}")
    return (*fixed, *often, "data.shuffle_rows=256", "model.dropout=0.2")


def settings(folder: Path, run: str, *overrides: str) -> Config:
    return samples.config(folder, *options(folder, run), *overrides, sharding="row_wise")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict:
    """A run that was never stopped: its final weights, and what it selected."""
    Cluster(2).run(train, settings(folder, "whole"))
    return {"state": commit_state(folder / "whole" / LAST), "scores": scores(folder / "whole")}


def scores(run: Path) -> dict[int, float]:
    return {e["step"]: e["score"] for e in events(run, "evaluation") if e["score"] is not None}


def send(running: Running, number: signal.Signals, *ranks: int) -> None:
    for rank in ranks:
        os.kill(running.processes[rank].pid, number)


def assert_preempted(exits: list[Exit], run: Path) -> int | None:
    """Every rank has ended with 75, told once; the step that was committed for it."""
    print(exits[0].stderr[-600:], exits[1].stderr[-600:])
    assert [e.code for e in exits] == [75, 75]
    said = [line for e in exits for line in e.stderr.splitlines() if line.startswith("preempted: ")]
    assert len(said) == 1 and "run the same command again to go on" in said[0]
    assert "Traceback" not in exits[0].stderr + exits[1].stderr
    assert events(run)[-1]["event"] == "preempted" and not (run / "attempts.json").exists()
    return max((e["step"] for e in events(run, "commit") if e["reason"] == "preempted"), default=None)


def assert_goes_on(config: Config, whole: dict) -> None:
    """Started again, it ends with the bits, and with the evaluations, of the run that was never stopped."""
    run = Path(config.run.dir)
    Cluster(2).run(train, config)
    state = commit_state(run / LAST)
    different = [n for n, value in state.items() if value.tobytes() != whole["state"][n].tobytes()]
    assert state.keys() == whole["state"].keys() and not different
    assert scores(run) == whole["scores"]
    told = events(run, "evaluation")
    assert len([e for e in told if e["score"] is not None]) == len(whole["scores"]), "an evaluation was made twice"


@pytest.mark.parametrize(
    ("name", "ranks", "step"),
    [("both", (0, 1), 7), ("one of two", (1,), 13), ("with an evaluation due", (0, 1), 9)],
    ids=["both", "one", "due"],
)
def test_a_signal_in_a_step(folder: Path, whole: dict, name: str, ranks: tuple, step: int) -> None:
    config, run = settings(folder, name), folder / name
    running = Cluster(2).start(run_cli, config)
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", step), running)
    send(running, signal.SIGTERM, *ranks)
    committed = assert_preempted(running.wait(SLACK), run)
    last = events(run, "step")[-1]["step"]
    print(f"SIGTERM to {ranks} when step {step} was told: the run has ended after step {last}")
    assert committed == last and step <= last <= step + 6
    assert_goes_on(config, whole)
    assert [e["step"] for e in events(run, "resume")] == [committed]


@pytest.mark.parametrize("step", [1, 10, 40] if LONG else [1, 40])
def test_a_signal_inside_a_step(folder: Path, whole: dict, step: int) -> None:
    """In the first one, in one whose evaluation is due, in the last one: that step is the last, on both ranks."""
    name = f"inside {step}"
    config, run = settings(folder, name), folder / name
    running = Cluster(2).start(slow_step, config, step, 1.0)
    until(lambda: (run / "in-step").exists())
    send(running, signal.SIGTERM, 1)
    committed = assert_preempted(running.wait(SLACK), run)
    assert events(run, "step")[-1]["step"] == step
    assert committed == (None if step == STEPS else step)  # the last commit has to name the best one
    assert_goes_on(config, whole)


@pytest.mark.parametrize("evaluation", [10, 40], ids=["on the way", "after the last step"])
def test_a_signal_while_evaluating(folder: Path, whole: dict, evaluation: int) -> None:
    """The evaluation is given up, and made when the run goes on: once, and with the same score."""
    name = f"evaluating {evaluation}"
    config, run = settings(folder, name), folder / name
    running = Cluster(2).start(slow_steps, config, 0.3)
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", evaluation), running)
    time.sleep(0.5)
    send(running, signal.SIGTERM, 0, 1)
    committed = assert_preempted(running.wait(SLACK), run)
    assert committed == (10 if evaluation == 10 else None)  # the last commit has to name the best one
    assert evaluation not in scores(run)
    assert_goes_on(config, whole)


@pytest.mark.skipif(not LONG, reason="ten seconds; make faults")
def test_a_signal_in_the_final_evaluation(folder: Path, whole: dict) -> None:
    """Everything is committed already."""
    config, run = settings(folder, "final", f"data.test='{folder / 'test'}'"), folder / "final"
    running = Cluster(2).start(slow_steps, config, 0.3)
    wait_for(run, lambda e: (e["event"], e.get("reason")) == ("commit", "end"), running)
    send(running, signal.SIGTERM, 0, 1)
    assert assert_preempted(running.wait(SLACK), run) is None
    assert not any(e["final"] for e in events(run, "evaluation"))
    Cluster(2).run(train, config)
    assert [e["final"] for e in events(run, "evaluation")].count(True) == 1


def test_a_second_sigterm_changes_nothing(folder: Path, whole: dict) -> None:
    config, run = settings(folder, "twice"), folder / "twice"
    running = Cluster(2).start(run_cli, config)
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", 12), running)
    for _ in range(40):
        for rank in (0, 1):
            if running.processes[rank].is_alive():
                send(running, signal.SIGTERM, rank)
        time.sleep(0.01)
    committed = assert_preempted(running.wait(SLACK), run)
    assert committed == events(run, "step")[-1]["step"]
    assert_goes_on(config, whole)


def test_ctrl_c_once_commits_and_twice_ends_at_once(folder: Path, whole: dict) -> None:
    config, run = settings(folder, "interrupted"), folder / "interrupted"
    running = Cluster(2).start(run_cli, config)
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", 5), running)
    send(running, signal.SIGINT, 0, 1)
    assert assert_preempted(running.wait(SLACK), run) == events(run, "step")[-1]["step"]
    running = Cluster(2).start(slow_start, config, 60.0)
    until(lambda: all((run / f"building-{rank}").exists() for rank in (0, 1)))
    began = time.monotonic()
    send(running, signal.SIGINT, 0, 1)
    time.sleep(0.3)
    send(running, signal.SIGINT, 0, 1)
    exits = running.wait(SLACK)
    print(f"ended {time.monotonic() - began:.1f} s after the first signal")
    assert [e.code for e in exits] == [130, 130]


def test_a_signal_during_the_start(folder: Path, whole: dict) -> None:
    """Nothing was trained, so nothing is committed."""
    config, run = settings(folder, "start"), folder / "start"
    running = Cluster(2).start(slow_start, config, 1.0)
    until(lambda: all((run / f"building-{rank}").exists() for rank in (0, 1)))
    send(running, signal.SIGTERM, 0, 1)
    assert assert_preempted(running.wait(SLACK), run) is None
    assert not events(run, "step")
    assert_goes_on(config, whole)


@pytest.mark.parametrize("seconds", [8.0, 10_000.0], ids=["slow", "for ever"])
def test_a_signal_while_the_rows_are_waited_for(folder: Path, whole: dict, seconds: float) -> None:
    """The ranks do not wait for the window: they commit the step before it."""
    name = f"waiting {seconds}"
    config, run = settings(folder, name), folder / name
    running = Cluster(2).start(slow_reader, config, seconds)
    wait_for(run, lambda e: (e["event"], e.get("step")) == ("step", 4), running)
    time.sleep(0.5)
    began = time.monotonic()
    send(running, signal.SIGTERM, 0, 1)
    assert assert_preempted(running.wait(SLACK), run) == 4
    print(f"ended {time.monotonic() - began:.1f} s after the signal")
    assert_goes_on(config, whole)


@pytest.mark.skipif(not LONG, reason="ten seconds; make faults")
def test_torchrun_passes_it_on(folder: Path, whole: dict) -> None:
    """The real command. torchrun itself ends with 1; the last event says what has happened."""
    run = folder / "torchrun"
    path = samples.write_toml(folder / "torchrun.toml", samples.tree(folder, "row_wise"))
    overrides = [f"--set={text}" for text in options(folder, "torchrun")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with (folder / "torchrun.log").open("w") as log:
        command = [*launcher, str(ROOT / "launch" / "train.py"), str(path), *overrides]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            until(lambda: any(e["step"] >= 5 for e in events(run, "step")))
            process.terminate()
            code = process.wait(60)
        finally:
            process.kill()
    print((folder / "torchrun.log").read_text()[-1500:])
    assert code == 1 and events(run)[-1]["event"] == "preempted"
    assert events(run, "commit")[-1]["step"] == events(run, "step")[-1]["step"] < STEPS
    assert_goes_on(settings(folder, "torchrun"), whole)


def until(test: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
