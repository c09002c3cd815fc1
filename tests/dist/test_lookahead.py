"""Batches on their way: `sparse_dist` trains the bits of `base`, and a `semi_sync` run that is stopped its own."""

import os
import signal
from pathlib import Path

import pytest

from dist_mtl.config import Config
from dist_mtl.data.files import manifest
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.guard_workers import run_cli
from tests.support.harness import Cluster, events, wait_for
from tests.support.option_workers import STEPS, assert_same_bits, settings, train_counted, with_logs
from tests.support.workers import error_of_train, train

SEMI = "sharding.pipeline='semi_sync'"
OFTEN = ("train.checkpoint_every=6", "train.evaluate_every=5")  # of 20 steps 5, 6, 10, 12, 15, 18, 20 let nothing pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_logs(tmp_path_factory.mktemp("logs"))


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"] if LONG else ["row_wise"])
def test_sparse_dist_has_the_bits_of_base(folder: Path, sharding: str) -> None:
    early = {}
    for pipeline in ("base", "sparse_dist"):
        config = settings(
            folder, f"{pipeline} {sharding}", *OFTEN, f"sharding.pipeline='{pipeline}'", sharding=sharding
        )
        early[pipeline] = Cluster(2).run(train_counted, config)
    assert early == {"base": [0, 0], "sparse_dist": [STEPS - 7] * 2}  # all but the first, and those behind the six
    assert_same_bits(folder / f"sparse_dist {sharding}", folder / f"base {sharding}")


@pytest.fixture(scope="module")
def semi_sync(folder: Path) -> Path:
    """A run that was never stopped."""
    assert Cluster(2).run(train_counted, settings(folder, "semi", *OFTEN, SEMI)) == [STEPS - 7] * 2
    return folder / "semi"


@pytest.mark.parametrize("step", [6, 7, 14] if LONG else [7])
def test_semi_sync_killed_and_started_again(folder: Path, semi_sync: Path, step: int) -> None:
    config = settings(folder, f"semi {step}", *OFTEN, SEMI)
    running = Cluster(2).start(train, config)
    wait_for(config.run.dir, lambda e: (e["event"], e.get("step")) == ("step", step), running)
    running.kill(0, 1)
    running.wait(30)
    Cluster(2).run(train, config)
    assert all(e["step"] % 6 == 0 for e in events(config.run.dir, "resume"))
    assert_same_bits(folder / f"semi {step}", semi_sync)


@pytest.mark.parametrize("pipeline", ["sparse_dist", "semi_sync"] if LONG else ["semi_sync"])
def test_four_ranks_go_on_with_the_same_bits(folder: Path, pipeline: str) -> None:
    """Of four ranks a process trains the upper half of its first step twice, but looks its next batch up once."""
    runs = [
        settings(folder, f"four {pipeline}{name}", "train.checkpoint_every=5", f"sharding.pipeline='{pipeline}'")
        for name in ("", " killed")
    ]
    assert Cluster(4).run(train_counted, runs[0], timeout=180) == [STEPS - 4] * 4  # not those behind 0, 5, 10, 15
    running = Cluster(4).start(train, runs[1])
    wait_for(runs[1].run.dir, lambda e: (e["event"], e.get("step")) == ("step", 8), running)
    running.kill(0, 1, 2, 3)
    running.wait(30)
    Cluster(4).run(train_counted, runs[1], timeout=180)
    assert [e["step"] for e in events(runs[1].run.dir, "resume")][0] in (5, 10, 15)
    assert_same_bits(*(Path(config.run.dir) for config in runs))


def test_a_day_is_tested_with_nothing_on_its_way(tmp_path: Path) -> None:
    days = {1: 320, 2: 330, 3: 300}  # steps 1 to 5, 6 to 11, 12 to 16
    for day, rows in days.items():
        samples.write_logs(tmp_path / "train" / f"day={day}", rows, seed=day)
    manifest.write(tmp_path / "train", manifest.build(tmp_path / "train"))
    early = {}
    for pipeline in ("base", "sparse_dist", "semi_sync"):
        config = stream(tmp_path, pipeline)
        early[pipeline] = Cluster(2).run(train_counted, config)
        assert [e["step"] for e in events(config.run.dir, "evaluation")] == [5, 11]
    # Of each day neither the first step's batch nor the second's.
    assert early == {"base": [0, 0], "sparse_dist": [16 - 6] * 2, "semi_sync": [16 - 6] * 2}
    assert_same_bits(tmp_path / "sparse_dist", tmp_path / "base")


def stream(folder: Path, pipeline: str) -> Config:
    over = (f"run.dir='{folder / pipeline}'", "data.stream.by='day'", f"sharding.pipeline='{pipeline}'")
    return samples.config(folder, *over, "model.dropout=0.2")


def test_a_signal_under_semi_sync_goes_back_to_a_commit_that_is_exact(folder: Path, semi_sync: Path) -> None:
    config = settings(folder, "semi signal", *OFTEN, SEMI)
    running = Cluster(2).start(run_cli, config)
    wait_for(config.run.dir, lambda e: (e["event"], e.get("step")) == ("step", 7), running)
    for process in running.processes:
        os.kill(process.pid, signal.SIGTERM)
    assert [e.code for e in running.wait(30)] == [75, 75]
    let_pass = {5, 6, 10, 12, 15, 18, 20}
    assert {e["step"] for e in events(config.run.dir, "commit")} <= let_pass
    Cluster(2).run(train, config)
    assert_same_bits(folder / "semi signal", semi_sync)


def test_a_signal_under_sparse_dist_is_committed_at_once(folder: Path) -> None:
    """What is on its way is dropped, and sent again by the run that goes on: with the bits of `base`."""
    reference = settings(folder, "signal base", *OFTEN)
    Cluster(2).run(train, reference)
    config = settings(folder, "signal", *OFTEN, "sharding.pipeline='sparse_dist'")
    running = Cluster(2).start(run_cli, config)
    wait_for(config.run.dir, lambda e: (e["event"], e.get("step")) == ("step", 7), running)
    for process in running.processes:
        os.kill(process.pid, signal.SIGTERM)
    assert [e.code for e in running.wait(30)] == [75, 75]
    assert events(config.run.dir, "commit")[-1]["reason"] == "preempted"
    Cluster(2).run(train, config)
    assert_same_bits(folder / "signal", folder / "signal base")


def test_another_pipeline_goes_on_with_a_commit_only_if_it_trains_the_same(folder: Path, semi_sync: Path) -> None:
    base = settings(folder, "base table_wise", *OFTEN, "sharding.pipeline='base'")
    if not Path(base.run.dir).exists():
        Cluster(2).run(train, base)
    Cluster(2).run(train, settings(folder, "base table_wise", *OFTEN, "sharding.pipeline='sparse_dist'"))
    for name, overrides, words in (
        ("base table_wise", (*OFTEN, SEMI), "sharding.pipeline: "),
        ("semi", ("train.checkpoint_every=7", "train.evaluate_every=5", SEMI), "train.checkpoint_every: 6 -> 7"),
    ):
        [[kind, said, code], _] = Cluster(2).run(error_of_train, settings(folder, name, *overrides))
        assert (kind, code) == ("CheckpointError", 66) and words in said
