"""`torchx run -s slurm dist.ddp` on a real Slurm of two nodes: from the command to the commit, through faults.

`make slurm-test` runs them, about ten minutes on two cores; `make test` leaves them out.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.lab import NODES, Job, Lab, lab
from tests.support import samples
from tests.support.harness import events

pytestmark = pytest.mark.skipif(os.environ.get("SLURM_LANE") != "inside", reason="a Slurm of its own: make slurm-test")

SMALL = "dist.ddp -j 2x2 --cpu 8 --memMB 4000 --max_retries 1 launch/train.py".split()
STEPS, EVERY = 188, 10  # four epochs of 3,000 rows in steps of 64, a commit every 10 steps


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with lab() as made:
        samples.write_logs(made.work / "train", 3000)
        samples.write_logs(made.work / "test", 500, seed=5)
        yield made


@pytest.fixture(scope="module")
def whole(cluster: Lab) -> dict[int, str]:
    """The digest of every commit that a run in 2x2 makes when nothing happens to it, by step."""
    job = cluster.torchx(*SMALL, settings(cluster, "whole", keep=1000))
    job.until(lambda: job.ended("COMPLETED"), 300)
    return digests(cluster, "whole")


def settings(cluster: Lab, name: str, **train: Any) -> str:
    """Write `name`.toml for a run in `work`/`name`; dropout is on, so that noise must resume as well."""
    tree = samples.tree(cluster.work, "row_wise")
    for table in tree["tables"].values():
        table["rows"] = 160  # row-wise sharding leaves none of 16 ranks without a row
    tree["run"] |= {"dir": name, "start_timeout": 300, "step_timeout": 120}
    tree["data"]["test"] = str(cluster.work / "test")
    tree["model"]["dropout"] = 0.2
    tree["train"] |= {"epochs": 4, "checkpoint_every": EVERY, **train}
    return samples.write_toml(cluster.work / f"{name}.toml", tree).name


def digests(cluster: Lab, name: str) -> dict[int, str]:
    """What `python -m dist_mtl verify` says of each commit's whole state, by step."""
    told = cluster.call("python", "-m", "dist_mtl", "verify", name)
    return {int(step): digest for step, digest in re.findall(r"step (\d+) +sound, .*, state (\w+)", told)}


def last_step(run: Path) -> int:
    return max((e["step"] for e in events(run, "step")), default=0)


def agent_of(job: Job, node: str) -> int:
    """The process id of a node's torchrun."""
    [(agent, _)] = job.processes("torchrun", node=node).items()
    return agent


def test_two_nodes_of_eight(cluster: Lab) -> None:
    line = "dist.ddp -j 2x8 --cpu 8 --memMB 8000 --max_retries 1 launch/train.py"
    job = cluster.torchx(*line.split(), settings(cluster, "wide", epochs=1, max_steps=20))
    job.until(lambda: len(job.processes(env="RANK")) == 16 or job.ended("COMPLETED"), 300)
    placed = list(job.processes(env="RANK").values())
    assert {node: placed.count(node) for node in NODES} == {"n1": 8, "n2": 8}
    job.until(lambda: job.ended("COMPLETED"), 400)
    assert job.accounted("State") == ["COMPLETED"] * 2 and job.accounted("NodeList") == ["n1", "n2"]
    assert job.accounted("ReqCPUS") == ["8", "8"] and job.accounted("ReqMem") == ["8000M", "8000M"]
    run = cluster.work / "wide"
    [start], [done] = events(run, "start"), events(run, "done")
    assert (start["world"], done["step"], list(digests(cluster, "wide"))[-1]) == (16, 20, 20)
    told = job.told("out")
    assert told.count("CTCVR") == 1 and told.count("wide: ") == 1, told  # the table, by the first rank alone
    print(f"2x8: first step {events(run, 'step')[0]['time'] - job.submitted:.0f} s after the command")


@pytest.mark.parametrize("kind", ["agent", "node"])
def test_a_killed_node_is_requeued_and_nothing_is_lost(cluster: Lab, whole: dict[int, str], kind: str) -> None:
    """SIGKILL of the agent of n2, with its ranks or without: Slurm ends the job, runs it again, the bits are the same.

    Without: the ranks need no agent, hear Slurm's SIGTERM like those of n1, and all commit the step that they are at.
    """
    run = cluster.work / kind
    job = cluster.torchx(*SMALL, settings(cluster, kind))
    job.until(lambda: last_step(run) >= 57, 200)
    ranks = job.processes(env="RANK", node="n2") if kind == "node" else {}
    assert len(ranks) == (2 if kind == "node" else 0)
    killed = time.time()
    for process in (agent_of(job, "n2"), *ranks):
        os.kill(process, signal.SIGKILL)
    job.until(lambda: job.ended("COMPLETED"), 300)
    [resumed], steps = events(run, "resume"), events(run, "step")
    before = max(e["step"] for e in steps if e["time"] < resumed["time"])
    assert 57 <= before < STEPS, "killed too late"
    assert resumed["step"] == (before // EVERY * EVERY if kind == "node" else before)
    assert (job.field("Restarts"), len(events(run, "preempted"))) == ("1", 0 if kind == "node" else 1)
    assert digests(cluster, kind)[STEPS] == whole[STEPS]
    again = min(e["time"] for e in steps if e["time"] > resumed["time"])
    print(f"{kind} killed after step {before}: from commit {resumed['step']}, a step {again - killed:.0f} s later")


def test_sigterm_commits_and_a_retry_goes_on(cluster: Lab, whole: dict[int, str]) -> None:
    """`scancel --signal=TERM`: what preemption and `--signal` send, while there are retries left."""
    run = cluster.work / "term"
    job = cluster.torchx(*SMALL, settings(cluster, "term"))
    job.until(lambda: last_step(run) >= 53, 200)
    cluster.call("scancel", "--signal=TERM", job.number)
    job.until(lambda: job.ended("COMPLETED"), 300)
    [commit] = [e for e in events(run, "commit") if e["reason"] == "preempted"]
    [resumed] = events(run, "resume")
    assert 53 <= commit["step"] == resumed["step"] < STEPS and job.field("Restarts") == "1"
    assert digests(cluster, "term")[STEPS] == whole[STEPS]


def test_the_time_limit_commits_and_ends_the_job(cluster: Lab) -> None:
    """Slurm sends SIGTERM, and SIGKILL after KillWait. There is no retry: torchx's script is ended as well."""
    run = cluster.work / "limit"
    job = cluster.torchx("-cfg", "time=1", *SMALL, settings(cluster, "limit", epochs=1000))
    job.until(lambda: job.ended("TIMEOUT"), 300)
    job.until(lambda: not job.processes(), 60)
    last = last_step(run)
    assert events(run)[-1]["event"] == "preempted" and list(digests(cluster, "limit"))[-1] == last > 0
    assert cluster.call("squeue", "--noheader") == ""


def test_a_signal_ahead_of_the_limit_chains_jobs(cluster: Lab) -> None:
    """SBATCH_SIGNAL, since torchx has no option for it: the run commits, and the script still has time to requeue.

    At last the second life is cancelled, and commits, too.
    """
    run = cluster.work / "ahead"
    line = ("-cfg", "time=2", *SMALL, settings(cluster, "ahead", epochs=1000))
    job = cluster.torchx(*line, SBATCH_SIGNAL="TERM@30")
    job.until(lambda: events(run, "resume"), 300)
    [commit], [resumed] = [e for e in events(run, "commit") if e["reason"] == "preempted"], events(run, "resume")
    assert commit["step"] == resumed["step"] > 0 and job.field("Restarts") == "1"
    job.until(lambda: last_step(run) > resumed["step"] + 1, 60)
    cluster.call("torchx", "cancel", job.handle)
    job.until(lambda: not job.processes(), 60)
    assert set(job.accounted("State")) == {"CANCELLED by 0"}
    assert events(run)[-1]["event"] == "preempted" and list(digests(cluster, "ahead"))[-1] == last_step(run)
