"""R5: a kill before or after any system call of a commit, on any rank, leaves the old commit or the new one, whole."""

import errno
import signal
from collections import Counter
from pathlib import Path

import pytest

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.verify import verify
from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG, cases
from tests.support.fault_workers import calls_of_a_commit, commits_of_steps, killed_at_a_call, refused_at_a_call
from tests.support.harness import Cluster

STATES = (2, 3)  # the commit that was there, and the one that was being made


def settings(folder: Path, run: str) -> Config:
    return samples.config(folder, f"run.dir='{folder / run}'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 100)
    return folder


@pytest.fixture(scope="module")
def digests(folder: Path) -> dict[int, str]:
    """Of the states of steps 2 and 3."""
    Cluster(2).run(commits_of_steps, settings(folder, "whole"), 1, *STATES)
    verdicts = [verify(one) for one in complete(folder / "whole" / store.FOLDER)]
    assert [v.step for v in verdicts] == list(STATES) and not any(v.damage for v in verdicts)
    assert verdicts[0].state != verdicts[1].state
    return {v.step: v.state for v in verdicts}


def test_a_kill_at_each_call(folder: Path, digests: dict[int, str]) -> None:
    calls = Cluster(2).run(calls_of_a_commit, settings(folder, "count"))
    every = [
        (rank, call, when) for rank in (0, 1) for call in range(1, calls[rank] + 1) for when in ("before", "after")
    ]
    chosen = every if LONG else every[:: len(every) // 10]
    left: Counter[str] = Counter()
    for number, (rank, call, when) in enumerate(chosen):
        config = settings(folder, f"kill-{number}")
        exits = Cluster(2).start(killed_at_a_call, config, rank, call, when).wait(60)
        assert exits[rank].code == -signal.SIGKILL, f"rank {rank} was not killed {when} call {call}"
        assert exits[1 - rank].code not in (None, 0) or call > calls[rank] - 3, "the other rank did not notice"
        newest = verify(complete(Path(config.run.dir) / store.FOLDER)[-1])
        assert newest.damage is None and newest.state == digests[newest.step], f"{when} call {call} of rank {rank}"
        left[f"rank {rank}: step {newest.step}"] += 1
        if number % 5 == 0:  # and the next run makes commits as if nothing had been
            Cluster(2).run(commits_of_steps, config, 4, 5)
            names = sorted(path.name for path in (Path(config.run.dir) / store.FOLDER).iterdir())
            assert names == ["step-0000000004", "step-0000000005"]
    print(f"{calls} calls of rank 0, 1; {len(chosen)} kills before or after one: newest commit {dict(left)}")
    assert {name[-1] for name in left} == set("23")  # some kills came too early, some too late to prevent it


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_at_any_call(folder: Path, digests: dict[int, str], rank: int) -> None:
    """The attempt is given up on both ranks, nothing of it is left, the old commits stay, and the next one works."""
    numbers = tuple(range(1, 1 + cases(12, 12)))
    first, second = Cluster(2).run(refused_at_a_call, settings(folder, f"full-{rank}"), rank, numbers)
    assert [told for told, _ in first] == [told for told, _ in second]
    refused = [told for told, _ in first if told is not None]
    for told, names in first:
        assert all(name.startswith("step-") for name in names), names
        assert told is None or (told[0] == "CheckpointError" and "No space left" in told[1]), told
    print(f"rank {rank}: {len(refused)} of {len(numbers)} commits refused by a full disk at one of their calls")
    assert len(refused) >= (4 if rank else 8)
    for one in complete(folder / f"full-{rank}" / store.FOLDER):
        assert verify(one).damage is None


def test_an_io_error_is_told_as_one(folder: Path) -> None:
    config = settings(folder, "eio")
    [(told, _)], _ = Cluster(2).run(refused_at_a_call, config, 1, (2,), errno.EIO)
    assert told[0] == "CheckpointError" and "older commits are intact" in told[1] and told[1].startswith("rank 1: ")
