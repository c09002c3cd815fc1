"""`dist-mtl study` for real: tuned, killed twice, continued, compared; a broken method stops nothing else."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dist_mtl.metrics.paired import holm
from tests.support import samples
from tests.support.harness import ROOT, events

SEEDS = (1, 2)
STUDY = """
base = "{folder}/base.toml"
dir = "{folder}/study"
seeds = [1, 2]
metrics = ["ctr.auc", "ctcvr.logloss"]
delong = false
[tune]
fit = "{folder}/fit"
validation = "{folder}/validation"
seeds = [11]
metrics = {{ "ctr.auc" = 1.0, "ctcvr.auc" = 0.5 }}
[settings]
"train.max_steps" = 40
"train.checkpoint_every" = 10
[backbones.mmoe]
"model.backbone" = {{ kind = "mmoe", experts = 2, hidden = [16, 8] }}
[backbones.shared]
"model.backbone" = {{ kind = "shared_bottom", hidden = [16, 8] }}
[methods.plain]
candidates = [{{ "optim.dense.lr" = 1e-5 }}, {{ "optim.dense.lr" = 1e-2 }}]
[methods.heavy]
"model.task_weights" = [1.0, 3.0]
candidates = [{{ "optim.dense.lr" = 1e-5 }}, {{ "optim.dense.lr" = 1e-2 }}]
"""
BROKEN = """
[methods.broken]
"features.price" = { kind = "dense", column = "nowhere" }
"""


class Study:
    """A study's files, and its process."""

    def __init__(self, folder: Path) -> None:
        self.path, self.dir = folder / "study.toml", folder / "study"
        self.cells = self.dir / "cells"

    def start(self) -> subprocess.Popen:
        """In a session of its own, so that it can be killed with all its cells."""
        command = [sys.executable, "-m", "dist_mtl", "study", str(self.path), "--jobs", "2"]
        log = self.path.with_suffix(".log").open("ab")
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def run(self) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "dist_mtl", "study", str(self.path), "--jobs", "2"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def told(self) -> dict:
        return json.loads((self.dir / "study.json").read_text())

    def is_training(self) -> bool:
        """Whether a cell has a commit, and more than one to come."""
        return any(10 < len(events(path, "step")) < 30 for path in self.cells.glob("*"))

    def started(self) -> list[str]:
        """The cells that have begun to train, and are not finished."""
        return [p.name for p in self.cells.glob("*") if events(p, "start") and p.name not in self.finished()]

    def finished(self) -> dict[str, int]:
        """The size of the events of every cell that has its final evaluation."""
        found = [path for path in self.cells.glob("*") if any(e["final"] for e in events(path, "evaluation"))]
        return {path.name: (path / "events.jsonl").stat().st_size for path in found}


def wait_until(test: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not test():
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or nothing happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("study")
    for seed, (name, rows) in enumerate({"train": 3_000, "test": 800, "fit": 2_600, "validation": 600}.items()):
        samples.write_logs(folder / name, rows, seed=seed)
    tree = samples.tree(folder)
    tree["data"]["test"] = str(folder / "test")
    samples.write_toml(folder / "base.toml", tree)
    (folder / "study.toml").write_text(STUDY.format(folder=folder))
    yield Study(folder)


@pytest.fixture(scope="module")
def continued(study: Study) -> dict:
    """The study after two kills: once with its cells in the middle of their training, once without them."""
    first = study.start()
    wait_until(lambda: len(study.finished()) >= 2 and study.is_training(), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    killed = study.started()
    after_first = study.finished()
    second = study.start()
    wait_until(lambda: any("-tune-" not in p.name and events(p, "step") for p in study.cells.glob("*")), second)
    second.kill()
    second.wait()
    orphans = study.started()
    after_second = study.finished()
    done = study.run()
    assert done.returncode == 0, done.stderr
    print(f"killed with {killed} in training, then without {orphans}; {done.stderr}")
    return {"killed": killed, "orphans": orphans, "before": after_first | after_second, "done": done}


def test_what_was_finished_is_not_run_again(study: Study, continued: dict) -> None:
    now = study.finished()
    assert len(now) == 16 and len(continued["before"]) >= 8
    assert all(now[name] == size for name, size in continued["before"].items()), "events were added to a finished cell"
    for name in now:
        assert len(events(study.cells / name, "start")) == (2 if name in continued["killed"] else 1), name
    resumed = [name for name in continued["killed"] if events(study.cells / name, "resume")]
    assert resumed, "a killed cell continues from its newest commit"
    assert continued["orphans"], "cells that outlived their study; each was trained once"
    tuned = {e["data"] for name in now if "-tune-" in name for e in events(study.cells / name, "evaluation")}
    assert tuned == {str(study.path.parent / "validation")}, "tuning sees no test row"
    assert all(len(list((study.cells / name / "checkpoints").iterdir())) == 1 for name in now), "commits are pruned"


def value(study: Study, cell: dict, metric: str) -> float:
    """Straight from the events: the gain of the final evaluation."""
    final = [e for e in events(study.cells / cell["name"], "evaluation") if e["final"]][-1]
    assert final["data"] == str(study.path.parent / "test")
    task, kind = metric.split(".")
    return final["tasks"][task]["auc"]["value"] if kind == "auc" else -final["tasks"][task][kind]


def test_the_tables_are_those_of_the_events(study: Study, continued: dict) -> None:
    told = study.told()
    cells = {(c["backbone"], c["method"], c["seed"]): c for c in told["cells"] if c["stage"] == "final"}
    assert len(cells) == 8 and not told["failures"] and not told["unfinished"]
    for metric in ("ctr.auc", "ctcvr.logloss"):
        for backbone in ("mmoe", "shared"):
            plain, heavy = (
                [value(study, cells[backbone, method, seed], metric) for seed in SEEDS] for method in ("plain", "heavy")
            )
            found, scipy = told["differences"][metric][backbone]["heavy"], stats.ttest_rel(heavy, plain)
            interval = scipy.confidence_interval()
            expected = (np.subtract(heavy, plain).mean(), interval.low, interval.high, scipy.pvalue)
            assert [found[k] for k in ("mean", "low", "high", "p_value")] == pytest.approx(expected, abs=1e-9)
            assert found["adjusted"] == pytest.approx(holm(np.array([scipy.pvalue]))[0])
            print(f"{metric} {backbone}: {found['mean']:+.5f}, p = {found['p_value']:.3f}")
    assert {one["best"] for one in told["choices"]} == {2}, "the learning rate that learns is chosen"
    assert all(one["scores"][1] > one["scores"][0] for one in told["choices"])
    assert all('optim.dense.lr=0.01' in c["command"] for c in cells.values())  # fmt: skip
    text, page = ((study.dir / f"study.{kind}").read_text() for kind in ("md", "html"))
    for words in ("## ctr.auc", "## Every difference", "all backbones", "model.backbone.kind", "dist-mtl study"):
        assert words in text
    assert "<script" not in page and "Every difference" in page


def test_a_broken_method_stops_no_other_and_the_tables_stay_the_same(study: Study, continued: dict) -> None:
    """The cells that were killed are trained again in one go: the same bits. And the noise of the rows is told now.

    One backbone less, to save time: what is no longer asked for is left alone.
    """
    before = study.told()
    for name in continued["killed"]:
        shutil.rmtree(study.cells / name)
    kept = study.finished()
    text = study.path.read_text().replace("delong = false", "delong = true\nallow_unequal_budget = true")
    shared = text[text.index("[backbones.shared]") : text.index("[methods.plain]")]
    study.path.write_text(text.replace(shared, "") + BROKEN)
    done = study.run()
    print(done.stderr)
    assert done.returncode == 70 and "1 job failed" in done.stderr and "Traceback" not in done.stderr
    assert "mmoe-broken-tune-seed11-" in done.stderr and "no column `nowhere`" in done.stderr
    after = study.told()
    assert all(study.finished()[name] == size for name, size in kept.items())
    assert set(continued["killed"]) <= study.finished().keys()
    assert len(after["failures"]) == 1 and any("no candidate can be chosen" in line for line in after["unfinished"])
    assert "Not complete" in (study.dir / "study.md").read_text()
    assert after["spreads"] == {metric: {"mmoe": row["mmoe"]} for metric, row in before["spreads"].items()}
    assert after["choices"][:2] == before["choices"][:2]
    told = [
        json.loads(path.read_text())["tasks"]["ctr"]["auc"]
        for path in sorted(study.cells.glob("mmoe-heavy-seed*/compared-with-*.json"))
    ]
    assert len(told) == len(SEEDS)
    error = math.sqrt(np.mean([one["standard_error"] ** 2 for one in told]))
    for metric, by_rows in (("ctr.auc", pytest.approx(error)), ("ctcvr.logloss", None)):
        was, now = (results["differences"][metric]["mmoe"]["heavy"] for results in (before, after))
        assert now == was | {"row_error": by_rows}
    # The comparison takes the exact scores, the evaluation bins of them.
    change = after["differences"]["ctr.auc"]["mmoe"]["heavy"]
    assert change["mean"] == pytest.approx(np.mean([one["difference"] for one in told]), abs=1e-4)
    print(f"mmoe: {change['mean']:+.5f}, error by seeds {change['standard_error']:.5f}, by rows {error:.5f}")
    assert not list(study.cells.glob("*/predictions"))
