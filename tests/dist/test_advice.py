"""What a run says of itself where its figures mean nothing: few steps, constant predictions, losses beyond reason."""

import json
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.harness import Cluster, events, run_script
from tests.support.workers import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 1_000, seed=1)
    return folder


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "train.log_every=10")
    return samples.config(folder, *fixed, *overrides)


def test_few_steps_are_named_at_the_start_and_behind_every_evaluation(folder: Path) -> None:
    tree = samples.tree(folder) | {"train": {"global_batch": 300, "log_every": 10}}
    tree["run"]["dir"], tree["data"]["test"] = str(folder / "few"), str(folder / "test")
    path = samples.write_toml(folder / "few.toml", tree)
    [trained] = run_script(1, "train.py", str(path))
    assert trained.code == 0, trained.stderr
    words = "10 steps; at 300 rows a step the model has hardly moved"
    assert f"advice       {words}" in trained.stderr and f"advice: {words}" in trained.stdout
    [evaluated] = run_script(1, "evaluate.py", str(folder / "few"), "--json", str(folder / "few.json"))
    assert f"advice: {words}" in evaluated.stdout
    assert json.loads((folder / "few.json").read_text())["advice"][0].startswith(words)


def test_a_run_of_enough_steps_is_given_no_advice(folder: Path) -> None:
    Cluster(1).run(train, settings(folder, "enough", "train.epochs=3"))
    [final] = events(folder / "enough", "evaluation")
    assert not events(folder / "enough", "advice") and final["advice"] == []


def test_constant_predictions_are_named_in_the_evaluation(folder: Path) -> None:
    """At a learning rate of 1 all hidden units die in the first steps: what is left is a bias."""
    Cluster(2).run(train, settings(folder, "dead", "train.epochs=3", "optim.dense.lr=1.0"))
    [final] = events(folder / "dead", "evaluation")
    assert final["tasks"]["ctr"]["auc"]["value"] == 0.5
    told = " ".join(final["advice"])
    assert "predictions of ctr are constant" in told and "Lower optim.dense.lr" in told


@pytest.mark.parametrize("every", [3, 50])
def test_a_loss_beyond_reason_is_named_once_at_the_first_steps_or_lines(folder: Path, every: int) -> None:
    wild = ("optim.embedding.lr=1e6", "optim.dense.lr=10.0", f"train.log_every={every}")
    Cluster(2).run(train, settings(folder, f"wild {every}", *wild))
    told = [e for e in events(folder / f"wild {every}", "warning") if "times the entropy" in e["message"]]
    assert told and told[0]["step"] <= (9 if every == 3 else 47) and len(told) < 12
    assert "the loss of `c" in told[0]["message"] and "Lower optim.dense.lr" in told[0]["message"]
