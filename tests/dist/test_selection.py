"""Evaluation on the way: it changes no bit of the training, marks the best commit, stops early, and survives kills."""

import json
import shutil
from pathlib import Path

import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.harness import Cluster, events, wait_for
from tests.support.score_workers import evaluated, whole
from tests.support.workers import commit_state

# Steps of 64 of 3,000 rows; high learning rates over-fit soon, so that the best is not the last.
EVERY, STEPS = 20, 470
RATES = ("optim.dense.lr=0.02", "optim.embedding.lr=0.3", "train.epochs=10", "train.log_every=7")
SELECT = (f"train.evaluate_every={EVERY}", "select.metrics={'ctr.ne'=1.0, 'ctcvr.auc'=0.1}", "select.patience=4")


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", *RATES)
    return samples.config(folder, *fixed, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 500, seed=1)
    samples.write_logs(folder / "validation", 1_000, seed=2)
    return folder


@pytest.fixture(scope="module")
def selected(folder: Path) -> dict:
    """A run that stopped early, never killed."""
    config = settings(folder, "selected", *SELECT, f"data.validation='{folder / 'validation'}'")
    first, second = Cluster(2).run(whole, config)
    assert first == second
    return {"evaluation": first, "config": config, "run": folder / "selected"}


def scores(run: Path) -> dict[int, float]:
    return {e["step"]: e["score"] for e in events(run, "evaluation") if not e["final"]}


def commits(run: Path) -> dict[int, dict]:
    found = (json.loads(p.read_text()) for p in run.glob("checkpoints/step-*/commit.json"))
    return {commit["step"]: commit for commit in found}


def test_it_stops_after_patience_and_reports_the_best(folder: Path, selected: dict) -> None:
    told = scores(selected["run"])
    best = max(told, key=told.get)
    print(f"evaluations {[f'{s}: {v:.4f}' for s, v in told.items()]}")
    assert list(told) == list(range(EVERY, best + 4 * EVERY + 1, EVERY)), "4 evaluations without a gain, no more"
    [stop] = events(selected["run"], "early_stop")
    assert (stop["best_step"], stop["stale"], stop["step"]) == (best, 4, best + 4 * EVERY)
    [done] = events(selected["run"], "done")
    assert done["step"] == stop["step"] < STEPS
    assert {best, stop["step"]} <= commits(selected["run"]).keys(), "the best one outlives newer ones"
    final = events(selected["run"], "evaluation")[-1]
    assert final["final"] and final["step"] == best
    for which in ("best", str(best)):
        [found, _] = Cluster(2).run(evaluated, str(selected["run"]), str(folder / "test"), which)
        assert found == selected["evaluation"]
    [newest, _] = Cluster(2).run(evaluated, str(selected["run"]), str(folder / "test"), "latest")
    assert newest != selected["evaluation"]


def test_a_run_that_has_stopped_trains_no_further(selected: dict) -> None:
    before = len(events(selected["run"]))
    again, _ = Cluster(2).run(whole, selected["config"])
    assert again == selected["evaluation"]
    told = events(selected["run"])[before:]
    assert not [e for e in told if e["event"] in ("step", "commit")]
    assert [e["event"] for e in told if e["event"] == "early_stop"], "it says why"


def test_killed_and_resumed_it_selects_the_same(folder: Path, selected: dict) -> None:
    run = folder / "killed"
    config = selected["config"].model_copy(update={"run": selected["config"].run.model_copy(update={"dir": str(run)})})
    config = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": 33})})
    for step in (28, 70):
        running = Cluster(2).start(whole, config)
        wait_for(run, lambda e, s=step: e["event"] == "step" and e["step"] >= s, running)
        running.kill(0, 1)
        running.wait(30)
    again, _ = Cluster(2).run(whole, config)
    assert len(events(run, "resume")) == 2
    assert again == selected["evaluation"]
    assert scores(run) == scores(selected["run"])
    ours, theirs = (commits(r)[events(r, "early_stop")[0]["step"]] for r in (run, selected["run"]))
    assert ours["selection"] == theirs["selection"]
    windows = [{e["step"]: e["window"] for e in events(r, "step")} for r in (run, selected["run"])]
    assert windows[0] == windows[1], "a window that a kill cut is equal to the bit"


def changed(config: Config, **sections: dict) -> Config:
    """The configuration with some keys of its sections changed."""
    parts = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    return config.model_copy(update=parts)


def test_more_patience_goes_on_from_where_it_stopped(folder: Path, selected: dict) -> None:
    run = folder / "patient"
    shutil.copytree(selected["run"], run)
    stopped, before = events(run, "done")[-1]["step"], len(events(run, "evaluation"))
    config = changed(selected["config"], run={"dir": str(run)}, select={"patience": 5})
    Cluster(2).run(whole, config)
    steps = [e["step"] for e in events(run, "evaluation")[before:] if not e["final"]]
    assert steps[0] == stopped + EVERY, "one more evaluation at least"
    assert not events(run, "selection_reset")


@pytest.mark.parametrize("what", ["rows", "metrics"])
def test_scores_of_other_rows_or_metrics_do_not_compare(folder: Path, selected: dict, what: str) -> None:
    run = folder / f"other-{what}"
    shutil.copytree(selected["run"], run)
    config = changed(selected["config"], run={"dir": str(run)})
    if what == "rows":
        config = changed(config, data={"validation": str(folder / "test")}).model_copy()
        config = changed(config, data={"test": None})
    else:
        config = changed(config, select={"metrics": {"ctr.auc": 1.0}})
    config = changed(config, train={"max_steps": events(run, "done")[-1]["step"] + 2 * EVERY})
    Cluster(2).run(whole, config)
    [reset] = events(run, "selection_reset")
    assert reset["best_step"] == events(selected["run"], "early_stop")[0]["best_step"]
    newest = commits(run)[max(commits(run))]["selection"]
    assert newest["best_step"] > reset["step"], "the old best is of another scale"


def test_evaluating_on_the_way_changes_no_bit(folder: Path) -> None:
    short = ("train.epochs=1", "train.max_steps=45")
    Cluster(2).run(whole, settings(folder, "plain", *short))
    Cluster(2).run(whole, settings(folder, "watched", *short, "train.evaluate_every=7", "metrics.groups=['user']"))
    assert len(events(folder / "watched", "evaluation")) == 7 and len(events(folder / "plain", "evaluation")) == 1
    plain, watched = (commit_state(folder / run / "checkpoints" / f"step-{45:010d}") for run in ("plain", "watched"))
    assert all(value.tobytes() == watched[name].tobytes() for name, value in plain.items())


def test_an_undefined_metric_can_not_select(folder: Path) -> None:
    table = samples.logs(200, seed=4)
    from dist_mtl.data.files.writer import write_dataset

    write_dataset(folder / "no-clicks", [table.filter(table.column("click").to_numpy() == 0)])
    config = settings(folder, "undefined", *SELECT, f"data.validation='{folder / 'no-clicks'}'")
    exits = Cluster(2).start(whole, config).wait(60)
    assert all("has one class only for ctcvr, ctr, so their metrics" in e.trace for e in exits)
    assert not events(folder / "undefined", "step"), "told before anything is trained"
