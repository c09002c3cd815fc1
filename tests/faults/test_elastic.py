"""What the launcher restarts, and what it does not: a rank under torchrun's agent, a whole node, a permanent error.

The real command each time. `make faults` kills five ranks and five nodes, `make test` one of each.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG, cases
from tests.support.harness import ROOT, Cluster, events, run_script
from tests.support.workers import commit_state, train

KILLS = cases(1, 5)
STEPS, EVERY = 94, 20  # two epochs of 3,000 rows in steps of 64, a commit every 20 steps and at the end
LAST = f"checkpoints/step-{STEPS:010d}"
AGENT_ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # of dist_mtl.torchx_components, which needs torchx
State = dict[str, bytes]


def settings(folder: Path, run: str) -> Config:
    """The configuration of run `folder/run`: every step is told; dropout is on, so that noise must resume as well."""
    fixed = (f"run.dir='{folder / run}'", "train.epochs=2", "model.dropout=0.2", f"train.checkpoint_every={EVERY}")
    return samples.config(folder, *fixed, sharding="row_wise")


def state_of(run: Path) -> State:
    """The bits of every tensor of the last commit."""
    return {name: value.tobytes() for name, value in commit_state(run / LAST).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> State:
    """What a run that was never killed ends with."""
    Cluster(2).run(train, settings(folder, "whole"))
    return state_of(folder / "whole")


@contextmanager
def launched(
    folder: Path, run: str, *options: str, overrides: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen]:
    """`torchrun --standalone --nproc_per_node 2 OPTIONS launch/train.py CONFIG`; who is left at the end is killed.

    What it says goes to `folder/run.log`.
    """
    tree = settings(folder, run).model_dump(mode="json", exclude_unset=True)
    path = samples.write_toml(folder / f"{run}.toml", tree)
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options]
    script = [str(ROOT / "launch" / "train.py"), str(path), *(f"--set={text}" for text in overrides)]
    env = {name: value for name, value in os.environ.items() if name not in AGENT_ENV} | environment
    with (folder / f"{run}.log").open("ab") as log:
        process = subprocess.Popen([*agent, *script], stdout=log, stderr=log, cwd=folder, env=env)
    try:
        yield process
    finally:
        for pid in (*ranks_of(process.pid), process.pid):
            kill(pid)
        process.wait(30)


def ranks_of(agent: int) -> list[int]:
    """The children of an agent, by rank: it starts them in this order."""
    children = Path(f"/proc/{agent}/task/{agent}/children")
    return sorted(map(int, children.read_text().split())) if children.exists() else []


def kill(pid: int) -> None:
    """SIGKILL; nothing for a process that has gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_alive(pid: int) -> bool:
    """Whether a process that is not our child is still at work; one that nobody has reaped is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(test: Callable[[], bool], process: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    """Wait until `test` holds. Raises AssertionError, with what was said, when the launcher ends before."""
    deadline = time.monotonic() + seconds
    while not test():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def last_step(run: Path) -> int:
    return max((e["step"] for e in events(run, "step")), default=0)


def first_step_after(run: Path, moment: float) -> float:
    """Seconds from `moment` to the first step that was trained after it."""
    return min(e["time"] for e in events(run, "step") if e["time"] > moment) - moment


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_rank_is_restarted_by_the_agent(folder: Path, whole: State, number: int) -> None:
    """SIGKILL of one rank: the agent starts both again, once, and the final bits are those of a run without a fault.

    By turns in the environment of a bare torchrun, and in that which our dist.ddp makes.
    """
    draw, name = random.Random(number), f"rank-{number}"
    run, log, step, victim = folder / name, folder / f"{name}.log", draw.randrange(22, 75), draw.randrange(2)
    with launched(folder, name, "--max-restarts", "3", **(AGENT_ENV if number % 2 else {})) as agent:
        until(lambda: last_step(run) >= step, agent, log)
        before, killed = ranks_of(agent.pid), time.time()
        kill(before[victim])
        until(lambda: agent.poll() is not None or events(run, "resume"), agent, log)
        assert len(before) == 2 and set(ranks_of(agent.pid)).isdisjoint(before), "a rank of the old attempt is left"
        assert agent.wait(120) == 0, log.read_text()
    last = max(e["step"] for e in events(run, "step") if e["time"] <= killed + 0.5 and e["step"] < STEPS)
    starts, [resumed] = events(run, "start"), events(run, "resume")
    assert step <= last < STEPS and len(starts) == 2, "killed too late, or the ranks did not meet at once"
    assert resumed["step"] in (last // EVERY * EVERY, (last - 1) // EVERY * EVERY, (last + 1) // EVERY * EVERY)
    assert state_of(run) == whole
    print(
        f"rank {victim} killed after step {last}, from commit {resumed['step']}: resumed after "
        f"{resumed['time'] - killed:.1f} s, a new step after {first_step_after(run, resumed['time']):.1f} s more"
    )


@pytest.mark.parametrize("number", range(KILLS))
def test_a_whole_node_is_killed_and_the_command_run_again(folder: Path, whole: State, number: int) -> None:
    """SIGKILL of the agent and its ranks; nothing is left to restart them but who started them."""
    draw, name = random.Random(100 + number), f"node-{number}"
    run, log, step = folder / name, folder / f"{name}.log", draw.randrange(5, 75)
    with launched(folder, name) as agent:
        until(lambda: last_step(run) >= step, agent, log)
        for pid in (agent.pid, *ranks_of(agent.pid)):
            kill(pid)
        assert agent.wait(30) == -signal.SIGKILL
    last, began = last_step(run), time.time()
    assert step <= last < STEPS and not events(run, "done"), "killed too late"
    with launched(folder, name) as agent:
        assert agent.wait(120) == 0, log.read_text()
    committed = [e["step"] for e in events(run, "resume")]
    assert state_of(run) == whole and committed == ([last // EVERY * EVERY] if last >= EVERY + 1 else committed)
    print(f"node killed after step {last}, from {committed}: a new step {first_step_after(run, began):.1f} s later")


@pytest.mark.skipif(not LONG, reason="half a minute each; make faults")
def test_where_the_agent_alone_is_killed_its_ranks_keep_their_folder(folder: Path, whole: State) -> None:
    """They train on to the end, for they need no agent; a second run in their folder is refused meanwhile."""
    name = "orphans"
    run, log = folder / name, folder / f"{name}.log"
    with launched(folder, name) as agent:
        until(lambda: last_step(run) >= 5, agent, log)
        ranks = ranks_of(agent.pid)
        kill(agent.pid)
        try:
            for rank in ranks:
                os.kill(rank, signal.SIGSTOP)  # so that they can not end too early for the second run
            last, ended = last_step(run), run_script(2, "train.py", str(folder / f"{name}.toml"))
            assert [e.code for e in ended] == [64, 64]
            told = "".join(e.stderr for e in ended)
            assert told.count("another process trains in this folder") == 1
            assert last < STEPS and last_step(run) == last
        finally:
            for rank in ranks:
                os.kill(rank, signal.SIGCONT)
        deadline = time.monotonic() + 90
        while any(map(is_alive, ranks)):
            if time.monotonic() > deadline:
                for rank in ranks:
                    kill(rank)
                raise AssertionError(log.read_text())
            time.sleep(0.05)
    assert state_of(run) == whole
    print(f"agent killed after step {last}: a second run refused, its ranks trained on to {STEPS}")


@pytest.mark.skipif(not LONG, reason="half a minute each; make faults")
def test_restarts_are_bounded_where_a_failure_comes_again(folder: Path) -> None:
    """torchrun restarts whatever ends with a code that is not 0; what can not be mended costs that many starts.

    And each start says why: torchrun ends the rank that is to speak as soon as another one has ended.
    """
    name = "wrong"
    with launched(folder, name, "--max-restarts", "1", overrides=("train.epochs=0",)) as agent:
        began = time.monotonic()
        assert agent.wait(120) == 1
    told = (folder / f"{name}.log").read_text()
    print(f"a wrong configuration, 2 attempts: {time.monotonic() - began:.1f} s")
    assert told.count("train.epochs: Input should be greater than 0") == 2 and "exitcode  : 64" in told
    assert not (folder / name).exists()
