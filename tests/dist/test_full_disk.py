"""A disk that takes nothing more: what is told, what goes on, and what is not left behind."""

import json
import os
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.score_workers import batches_until_a_fault, predicted_on_a_full_disk, whole

EVENTS = ["base_rates", "start", "advice", "step", "step", "commit", "counts", "done"]  # of two steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 2 ranks with windows of 4 steps, and a test set of 79 steps."""
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 40_000, seed=1)
    Cluster(2).run(whole, settings(folder, "run", "train.max_steps=2"))
    return folder


def settings(folder: Path, run: str, *overrides: str) -> Config:
    sizes = ("train.global_batch=512", "data.shuffle_rows=2048", "train.log_every=1")
    return samples.config(folder, f"run.dir='{folder / run}'", *sizes, *overrides)


def test_training_goes_on_without_its_events(folder: Path) -> None:
    """Told once on stderr, with the number of lost events at the end; the weights are committed all the same."""
    (folder / "mute").mkdir()
    os.symlink("/dev/full", folder / "mute" / "events.jsonl")
    first, second = Cluster(2).start(whole, settings(folder, "mute", "train.max_steps=4")).wait(60)
    print(first.stderr)
    assert (first.code, second.code, second.stderr) == (0, 0, "")
    path = folder / "mute" / "events.jsonl"
    assert f"warning      {path}: No space left on device; events are lost until it can be written" in first.stderr
    lost = len(EVENTS) + 2  # two steps more
    assert f"warning      {lost} events could not be written to {path}" in first.stderr
    assert first.stderr.count("No space left") == 1 and "step       4/4" in first.stderr
    assert (folder / "mute" / "checkpoints" / "step-0000000004" / "commit.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_predictions_that_can_not_be_written_leave_nothing(folder: Path, rank: int) -> None:
    out = folder / "out"
    ends = Cluster(2).run(predicted_on_a_full_disk, str(folder / "run"), str(folder / "test"), str(out), rank, 100_000)
    print(ends[0])
    assert ends[0] == ends[1] and ends[0][0] == "DataError"
    assert ends[0][1].startswith(f"rank {rank}: {folder / '.staged-out'}: can not be written: ")
    assert not out.exists() and not list(folder.glob(".staged*"))


def test_a_fault_ends_scoring_with_its_window(folder: Path) -> None:
    """All ranks score the 4 steps of the first window, not the 79 of the dataset."""
    ends = Cluster(2).run(batches_until_a_fault, str(folder / "run"), str(folder / "test"), 1)
    assert ends == [(4, "rank 1: the first batch")] * 2


def test_the_events_of_a_run_are_all_there(folder: Path) -> None:
    """And each is a line of its own."""
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == EVENTS
    assert events(folder / "run", "step")[-1]["step"] == 2
