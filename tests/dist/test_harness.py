"""The harness itself: a hang is bounded and shown, a failure tells every rank's story, nothing is left running."""

import os
import signal
import time

import pytest
import torch.distributed as dist

from dist_mtl.config.training import RunConfig
from dist_mtl.parallel.runtime import runtime
from tests.support.harness import Cluster, RankFailure, Running

ALONE = RunConfig(dir="unused", device="cpu", start_timeout=60)


def meet_and_fail(guilty: int) -> int:
    """All ranks meet; then one raises while the others wait for it."""
    with runtime(ALONE) as rt:
        rt.barrier()
        if rt.rank == guilty:
            raise ValueError("the reason")
        dist.barrier()
        return rt.rank


def hang(seconds: float) -> None:
    time.sleep(seconds)


def environment() -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    return {name: os.environ[name] for name in names}


def assert_reaped(pids: list[int]) -> None:
    """No such process is left, not even a zombie."""
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def start(world: int, function: object, *args: object) -> tuple[Running, list[int]]:
    running = Cluster(world).start(function, *args)
    return running, [p.pid for p in running.processes]


def test_ranks_are_told_who_they_are() -> None:
    ranks = Cluster(4, local_world=2).run(environment)
    assert [r["RANK"] for r in ranks] == ["0", "1", "2", "3"]
    assert [r["LOCAL_RANK"] for r in ranks] == ["0", "1", "0", "1"]
    assert {(r["WORLD_SIZE"], r["LOCAL_WORLD_SIZE"], r["OMP_NUM_THREADS"]) for r in ranks} == {("4", "2", "1")}


def test_a_failure_shows_the_traceback_and_ends_the_others() -> None:
    with pytest.raises(RankFailure, match="ValueError: the reason") as caught:
        Cluster(2).run(meet_and_fail, 1)
    assert [e.code for e in caught.value.exits] == [1, 1]
    assert Cluster(2).run(meet_and_fail, 7) == [0, 1]


def test_a_hang_is_bounded_and_shows_its_stack() -> None:
    running, pids = start(2, hang, 600)
    with pytest.raises(RankFailure, match=r"not all ranks ended in 1 s") as caught:
        running.wait(1)
    assert all("in hang" in e.stderr and e.code == -signal.SIGKILL for e in caught.value.exits)
    assert_reaped(pids)


def test_a_killed_rank_is_seen() -> None:
    running, pids = start(2, hang, 0.5)
    running.kill(1)
    assert [e.code for e in running.wait(30)] == [0, -signal.SIGKILL]
    assert_reaped(pids)
