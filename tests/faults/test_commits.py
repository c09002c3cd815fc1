"""R3, R5: what becomes of commits on other ranks, under other plans, in the background, and on a full disk."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.verify import digests, verify
from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.fault_workers import (
    behind_a_slow_disk,
    best_of_each,
    saved_again,
    slow_to_read,
    stopped_with_a_full_disk,
    train_with_a_full_disk,
    without_memory,
)
from tests.support.harness import ROOT, Cluster, RankFailure, events, run_script, script
from tests.support.workers import commit_state, error_of_train, train

STEPS = 94
PLANS = {1: "table_wise", 2: "row_wise", 4: "data_parallel"}
OTHER = {1: "row_wise", 2: "table_wise", 4: "table_wise"}
PAIRS = [(a, b, plan) for a, b in itertools.permutations(PLANS, 2) for plan in (PLANS[b], OTHER[b])]


def settings(folder: Path, run: str, *overrides: str, sharding: str = "row_wise") -> Config:
    fixed = (f"run.dir='{folder / run}'", "train.epochs=2", "train.checkpoint_every=20", "run.attempts=1000")
    return samples.config(folder, *fixed, *overrides, sharding=sharding)


def newest(folder: Path, run: str) -> Path:
    return complete(folder / run / store.FOLDER)[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    """The digest of the state that a run ends with."""
    Cluster(2).run(train, settings(folder, "whole"))
    return verify(newest(folder, "whole")).state


@pytest.mark.parametrize(("before", "after", "plan"), PAIRS if LONG else PAIRS[::4])
def test_other_ranks_and_other_plans(folder: Path, before: int, after: int, plan: str) -> None:
    """The state after a load is equal to the bit; after 50 further steps it has drifted by rounding alone."""
    name, half = f"{before}-{after}-{plan}", STEPS - 50
    first, there = PLANS[before], f"train.max_steps={STEPS}"
    Cluster(before).run(train, settings(folder, name, f"train.max_steps={half}", sharding=first))
    made = newest(folder, name)
    Cluster(after).run(saved_again, settings(folder, f"{name}-again", sharding=plan), str(made))
    old, new = digests(made), digests(newest(folder, f"{name}-again"))
    tensors = {n: d for n, d in old.items() if not n.startswith("window/")}
    assert tensors.items() <= new.items() and len(tensors) > 40
    Cluster(after).run(train, settings(folder, name, there, sharding=plan))
    Cluster(before).run(train, settings(folder, f"{name}-alone", there, sharding=first))
    moved, stayed = commit_state(newest(folder, name)), commit_state(newest(folder, f"{name}-alone"))
    weights = [n for n in moved if n.startswith("model/")]
    drift = max(np.abs(moved[n] - stayed[n]).max() for n in weights)
    losses = [{e["step"]: e["loss"] for e in events(folder / run, "step")} for run in (name, f"{name}-alone")]
    gap = max(abs(losses[0][s] - losses[1][s]) for s in losses[1])
    print(f"{before} {first} -> {after} {plan}: {len(tensors)} tensors equal to the bit; 50 steps on: {drift:.1e}")
    assert drift <= 1e-6 and losses[0].keys() == losses[1].keys() and gap < 1e-5


def test_in_the_background(folder: Path, whole: str) -> None:
    Cluster(2).run(train, settings(folder, "behind", "train.commit='background'"))
    told = events(folder / "behind", "commit")
    assert [e["step"] for e in told] == [20, 40, 60, 80, STEPS]
    assert verify(newest(folder, "behind")).state == whole
    late = [e["step"] for e in events(folder / "behind") if e["event"] in ("commit", "step")]
    assert late != sorted(late), "no step was trained while a commit was being written"


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("commit", ["blocking", "background"])
def test_training_goes_on_when_the_disk_is_full(folder: Path, whole: str, victim: int, commit: str) -> None:
    run = f"full-{victim}-{commit}"
    config = settings(folder, run, f"train.commit='{commit}'")
    assert Cluster(2).run(train_with_a_full_disk, config, victim, (40, 60)) == [None, None]
    failed = events(folder / run, "commit_failed")
    assert [(e["step"], e["failed"], e["allowed"]) for e in failed] == [(40, 1, 3), (60, 2, 3)]
    assert "can not be written: File too large; older commits are intact" in failed[0]["message"]
    assert [e["step"] for e in events(folder / run, "commit")] == [20, 80, STEPS]
    assert verify(newest(folder, run)).state == whole
    assert sorted(p.name for p in (folder / run / store.FOLDER).iterdir()) == [f"step-{80:010d}", f"step-{STEPS:010d}"]


def test_too_many_failed_commits_end_the_run(folder: Path) -> None:
    config = settings(folder, "too-full", "train.failed_commits=1")
    ends = Cluster(2).run(train_with_a_full_disk, config, 1, (40, 60))
    assert ends[0] == ends[1] and ends[0][0] == "CheckpointError" and ends[0][2] == 66
    assert verify(newest(folder, "too-full")).step == 20


def test_the_last_commit_must_not_fail(folder: Path) -> None:
    ends = Cluster(2).run(train_with_a_full_disk, settings(folder, "end-full"), 0, (STEPS,))
    assert ends[0] == ends[1] and ends[0][0] == "CheckpointError"
    assert verify(newest(folder, "end-full")).step == 80


def test_a_signal_on_a_full_disk_is_a_preemption_still(folder: Path) -> None:
    config = settings(folder, "full-stop")
    exits = Cluster(2).start(stopped_with_a_full_disk, config, 30).wait(60)
    told = "".join(e.stderr for e in exits)
    assert [e.code for e in exits] == [75, 75]
    assert "stopped by a signal after step 30, which is not committed: rank 1: " in told and "File too large" in told
    assert verify(newest(folder, "full-stop")).step == 20


def test_an_error_of_all_ranks_loses_no_commit_that_was_being_written(folder: Path) -> None:
    config = settings(folder, "behind-an-error", "train.commit='background'", "model.head='ctcvr'")
    with pytest.raises(RankFailure) as caught:
        Cluster(2).run(behind_a_slow_disk, config, 41, 1.0)
    assert all("NonFiniteError: step 41" in e.trace for e in caught.value.exits)
    assert [e["step"] for e in events(folder / "behind-an-error", "commit")] == [20, 40]
    assert verify(newest(folder, "behind-an-error")).step == 40


def test_the_others_wait_for_a_rank_that_writes_for_longer_than_a_step_may_take(folder: Path, whole: str) -> None:
    short = ("run.step_timeout=2", "train.checkpoint_every=1000")
    Cluster(2).run(behind_a_slow_disk, settings(folder, "slow", *short), STEPS + 1, 5.0)
    assert verify(newest(folder, "slow")).state == whole
    if not LONG:
        return
    late = settings(folder, "too-slow", *short, "run.commit_timeout=3")
    exits = Cluster(2).start(behind_a_slow_disk, late, STEPS + 1, 60.0).wait(40)
    assert all(e.code not in (0, None) for e in exits) and not complete(folder / "too-slow" / store.FOLDER)


@pytest.mark.skipif(not LONG, reason="half a minute; make faults")
def test_the_others_wait_for_a_rank_that_reads_for_longer_than_a_start_may_take(folder: Path, whole: str) -> None:
    first = settings(folder, "slow-start", "train.max_steps=40")
    Cluster(2).run(train, first)
    Cluster(2).run(slow_to_read, settings(folder, "slow-start", "run.start_timeout=12"), 8.0, timeout=120)
    assert [e["step"] for e in events(folder / "slow-start", "resume")] == [40]
    assert verify(newest(folder, "slow-start")).state == whole


def test_without_memory_for_a_copy_training_goes_on(folder: Path, whole: str) -> None:
    config = settings(folder, "no-memory", "train.commit='background'", "train.failed_commits=4")
    Cluster(2).run(without_memory, config)
    failed = events(folder / "no-memory", "commit_failed")
    assert [e["step"] for e in failed] == [20, 40, 60, 80]
    assert "rank 1: step 20: no copy could be made in memory" in failed[0]["message"]
    assert verify(newest(folder, "no-memory")).state == whole  # the last one is not made in the background


def test_the_best_of_each_kept_commit_is_kept_and_what_can_not_go_is_told(folder: Path) -> None:
    [(names, warnings)] = Cluster(1).run(best_of_each, settings(folder, "best"), {1: 1, 2: 2, 3: 1, 4: 4})
    assert names == ["step-0000000001", "step-0000000003", "step-0000000004"]
    assert warnings == [
        f"{folder / 'best' / store.FOLDER / 'step-0000000001'}: an older commit, which can not be removed: "
        f"Operation not permitted; remove it by hand"
    ]


def test_resume_off_and_required(folder: Path, whole: str) -> None:
    required = settings(folder, "nothing", "run.resume='required'")
    for name, message, code in Cluster(2).run(error_of_train, required):
        assert (name, code) == ("CheckpointError", 66) and "has no commit to go on from" in message
    off = settings(folder, "whole", "run.resume='off'")
    for name, message, code in Cluster(2).run(error_of_train, off):
        assert (name, code) == ("CheckpointError", 66) and "has commits, and run.resume = 'off'" in message
    exits = run_script(1, "train.py", "--resume=never")
    assert exits[0].code == 64 and "invalid choice: 'never'" in exits[0].stderr


def test_the_verb_verify(folder: Path, whole: str) -> None:
    [out] = Cluster(1).start(script, str(ROOT / "dist_mtl" / "__main__.py"), "verify", str(folder / "whole")).wait(60)
    print(out.stdout)
    assert out.code == 0 and out.stdout.count("sound") == 2 and f"state {whole}" in out.stdout
    with open(newest(folder, "whole") / "index.json", "r+b") as file:
        file.write(b"[")
    [out] = Cluster(1).start(script, str(ROOT / "dist_mtl" / "__main__.py"), "verify", str(folder / "whole")).wait(60)
    assert out.code == 66 and out.stdout.count("sound") == 1 and "DAMAGED" in out.stdout and "index.json" in out.stdout
