"""R2, R3: a run that was killed and started again ends with the same bits; on another world size, in the same state."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.harness import ROOT, Cluster, Running, events, run_script, wait_for
from tests.support.workers import assemble, commit_state, error_of_train, state_after, train

STEPS, EVERY = 94, 20  # two epochs of 3,000 rows in steps of 64, a commit every 20 steps and at the end
LAST = f"checkpoints/step-{STEPS:010d}"


def settings(folder: Path, run: str, *overrides: str, sharding: str = "row_wise") -> Config:
    """The configuration of run `folder/run`; every step is told; dropout is on, so that noise must resume as well."""
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "train.epochs=2", "model.dropout=0.2")
    return samples.config(folder, *fixed, f"train.checkpoint_every={EVERY}", *overrides, sharding=sharding)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 500, seed=1)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict:
    """A run that was never killed: its table and its final weights."""
    [table, _] = Cluster(2).run(train, settings(folder, "whole"))
    assert [e["step"] for e in events(folder / "whole", "step")] == list(range(1, STEPS + 1))
    assert [e["step"] for e in events(folder / "whole", "commit")] == [20, 40, 60, 80, STEPS]
    assert table["ctr"]["auc"]["value"] > 0.6  # it has learnt, so equal weights say something
    return {"table": table, "state": commit_state(folder / "whole" / LAST)}


def assert_same_bits(run: Path, whole: dict) -> None:
    """The final commit of `run` holds exactly the tensors of the uninterrupted run."""
    state = commit_state(run / LAST)
    assert state.keys() == whole["state"].keys() and len(state) > 40
    different = [name for name, value in state.items() if value.tobytes() != whole["state"][name].tobytes()]
    assert not different, f"{len(different)} of {len(state)} tensors differ, e.g. {different[:3]}"


def kill_at(running: Running, run: Path, event: str, step: int, victims: tuple[int, ...]) -> int:
    """SIGKILL at the first such event; the other ranks must end by themselves. Returns the newest commit's step."""
    seen = len(events(run))
    wait_for(run, lambda e: (e["event"], e.get("step")) == (event, step), running)
    running.kill(*victims)
    exits = running.wait(30)
    assert all(exits[v].code == -signal.SIGKILL for v in victims)
    assert all(e.code not in (0, None) for e in exits), "a rank went on without its peer"
    told = events(run)
    assert len(told) > seen and not any(e["event"] in ("done", "evaluation") for e in told), "killed too late"
    last = max(e["step"] for e in told if e["event"] == "step")
    newest = max((int(p.parent.name[5:]) for p in run.glob("checkpoints/step-*/commit.json")), default=0)
    print(f"killed {victims} at {event} {step}: last step told {last}, newest commit {newest} of {STEPS}")
    assert step <= last < STEPS and newest < STEPS
    return newest


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 5, (0, 1))],  # before the first commit
        [("commit", 20, (1,))],  # right after it
        [("step", 33, (0,)), ("step", 58, (1,))],  # between commits, twice
        [("step", 80, (0, 1))],  # while step 80 is being committed, or about to be
    ],
    ids=["before", "after", "twice", "saving"],
)
def test_killed_and_started_again(folder: Path, whole: dict, kills: list, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    run, config = folder / name, settings(folder, name)
    resumed = []
    for event, step, victims in kills:
        resumed.append(kill_at(Cluster(2).start(train, config), run, event, step, victims))
    tables = Cluster(2).run(train, config)
    assert [e["step"] for e in events(run, "resume")] == [r for r in resumed if r]
    assert tables == [whole["table"]] * 2
    assert_same_bits(run, whole)
    counts = [{k: e[k] for k in ("dropped", "clamped")} for r in (run, folder / "whole") for e in events(r, "counts")]
    assert counts[0] == counts[1] and counts[0]["clamped"] > 0  # over all restarts, each row counted once


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += family(int(stat.parent.name)) if int(fields[1]) == pid else []
    return found


def test_a_whole_torchrun_tree_killed_and_started_again(folder: Path, whole: dict) -> None:
    """The real command, with the agent and every rank killed between two commits."""
    run = folder / "torchrun"
    tree = settings(folder, "torchrun").model_dump(mode="json", exclude_unset=True)
    path = samples.write_toml(folder / "torchrun.toml", tree)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(ROOT / "launch" / "train.py"), str(path)]
    output = (folder / "torchrun.log").open("w")
    process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while not any(e["step"] >= 27 for e in events(run, "step")):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "torchrun.log").read_text()
            time.sleep(0.005)
    finally:
        killed = family(process.pid)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        process.wait(30)
    assert len(killed) == 3 and process.returncode == -signal.SIGKILL
    assert not events(run, "done") and not (run / LAST).exists()

    again = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert [e["step"] for e in events(run, "resume")] == [20]
    assert again.stdout.count("CTCVR") == 1  # one table, not two
    assert_same_bits(run, whole)


def test_a_finished_run_trains_nothing_and_tells_the_same(folder: Path, whole: dict) -> None:
    run = folder / "finished"
    shutil.copytree(folder / "whole", run)
    (run / "events.jsonl").unlink()
    before = {p: p.stat().st_mtime_ns for p in run.rglob("checkpoints/**/*")}
    assert Cluster(2).run(train, settings(folder, "finished")) == [whole["table"]] * 2
    assert [e["step"] for e in events(run, "resume")] == [STEPS]
    assert events(run, "step") == [] and events(run, "commit") == []
    assert {p: p.stat().st_mtime_ns for p in run.rglob("checkpoints/**/*")} == before


def test_evaluate_prints_the_same_table(folder: Path, whole: dict) -> None:
    [first, second] = run_script(2, "evaluate.py", str(folder / "whole"))
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    for task in ("CTR", "CVR", "CTCVR"):
        assert f"{whole['table'][task.lower()]['auc']['value']:.4f}" in first.stdout
    assert second.stdout == ""


@pytest.mark.parametrize(
    ("override", "reason", "words"),
    [
        ("optim.dense.lr=0.5", "other optimizers", "optim.dense.lr: 0.001 -> 0.5"),
        ("seed=9", "another seed", "seed: 1 -> 9"),
        ("data.shuffle=false", "another reading of the data", "data.shuffle"),
    ],
)
def test_a_changed_configuration_is_refused(folder: Path, whole: dict, override: str, reason: str, words: str) -> None:
    for name, message, code in Cluster(2).run(error_of_train, settings(folder, "whole", override)):
        assert (name, code) == ("CheckpointError", 66)
        assert f"made with {reason}, so" in message and words in message and "Choose another run.dir" in message


def test_a_run_that_is_longer_than_asked_for_is_refused(folder: Path, whole: dict) -> None:
    for name, message, code in Cluster(2).run(error_of_train, settings(folder, "whole", "train.max_steps=50")):
        assert (name, code) == ("CheckpointError", 66)
        assert f"trained {STEPS} steps, more than the 50" in message


def test_changed_data_are_refused_and_moved_data_are_not(folder: Path, whole: dict) -> None:
    samples.write_logs(folder / "other", 3_000, seed=2)
    config = settings(folder, "whole", f"data.train='{folder / 'other'}'")
    for name, message, code in Cluster(2).run(error_of_train, config):
        assert (name, code) == ("CheckpointError", 66)
        assert "made with other data, so" in message and f"data.train: {folder / 'train'} (manifest " in message
        assert f" -> {folder / 'other'} (manifest " in message
    shutil.copytree(folder / "train", folder / "moved")
    config = settings(folder, "whole", f"data.train='{folder / 'moved'}'")
    assert Cluster(2).run(train, config) == [whole["table"]] * 2


@pytest.mark.parametrize(
    ("world", "sharding"),
    [(1, "table_wise"), (4, "row_wise"), (2, "table_row_wise"), (4, "auto"), (2, "data_parallel")],
)
def test_a_commit_of_two_ranks_loads_bit_for_bit(folder: Path, whole: dict, world: int, sharding: str) -> None:
    config = settings(folder, "whole", sharding=sharding)
    state = assemble(Cluster(world).run(state_after, config, str(folder / "whole" / LAST)))
    assert state.keys() == {name for name in whole["state"] if not name.startswith("window/")}
    different = [n for n, value in state.items() if not np.array_equal(value, whole["state"][n])]
    assert not different, different


def test_two_ranks_then_one_then_four(folder: Path, whole: dict) -> None:
    """The world may change at every restart: the same losses within 1e-5, the same rows (a lost one would show)."""
    for world, steps in ((2, 30), (1, 60), (4, STEPS)):
        Cluster(world).run(train, settings(folder, "elastic", f"train.max_steps={steps}"))
    assert [e["step"] for e in events(folder / "elastic", "resume")] == [30, 60]
    ours, reference = ({e["step"]: e["losses"] for e in events(folder / run, "step")} for run in ("elastic", "whole"))
    assert ours.keys() == reference.keys()
    gap = max(abs(ours[s][label] - reference[s][label]) for s in ours for label in ("click", "conversion"))
    print(f"2 -> 1 -> 4 ranks: max difference of {STEPS} steps' losses {gap:.1e}")
    assert gap < 1e-5


@pytest.mark.parametrize("sharding", ["row_wise", "data_parallel"] if LONG else ["row_wise"])
def test_four_ranks_go_on_with_the_same_bits(folder: Path, sharding: str) -> None:
    """Two ranks can not tell: a + b = b + a. Of four, a sum has other last bits in another order, and where in a bucket
    a gradient stands decides its order.
    """
    for run, ends in (("four", (12,)), ("four-parts", (5, 12))):
        for steps in ends:
            config = settings(folder, f"{run}-{sharding}", f"train.max_steps={steps}", sharding=sharding)
            Cluster(4).run(train, config, timeout=180)
    one, other = (
        commit_state(folder / f"{run}-{sharding}/checkpoints/step-0000000012") for run in ("four", "four-parts")
    )
    assert [e["step"] for e in events(folder / f"four-parts-{sharding}", "resume")] == [5]
    assert [name for name, value in one.items() if value.tobytes() != other[name].tobytes()] == []
