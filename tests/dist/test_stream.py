"""A stream of days: one after the other, each tested before it is trained, whatever the restarts and the world size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.config import Config
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import ConfigError
from dist_mtl.tools.report.event_log import read
from tests.support import samples
from tests.support.harness import Cluster, events, wait_for
from tests.support.score_workers import evaluated
from tests.support.workers import commit_state, error_of_train, trace, train

DAYS = {"2": 500, "3": 700, "10": 130, "11": 640}  # rows; as text, 10 would come before 2
ENDS = [8, 19, 22, 32]  # the last steps of the days, of 64 rows each
LAST = f"checkpoints/step-{ENDS[-1]:010d}"


def write_days(folder: Path, days: dict[str, int]) -> Path:
    """Days as partitions, each of two files; `row` counts on over the days of DAYS."""
    first = 0
    for seed, (day, rows) in enumerate(DAYS.items()):
        if day in days:
            table = samples.logs(rows, seed)
            table = table.set_column(0, "row", pa.array(np.arange(first, first + rows)))
            write_dataset(folder / f"day={day}", [table], file_rows=rows // 2 + 1, row_group_rows=100)
        first += rows
    manifest.write(folder, manifest.build(folder))
    return folder


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", "data.stream.by='day'", "train.checkpoint_every=5", "train.keep=20")
    return samples.config(folder, *fixed, "model.dropout=0.2", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_days(folder / "train", DAYS)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that was never killed."""
    assert Cluster(2).run(train, settings(folder, "whole")) == [None, None]  # there is no data.test
    return folder / "whole"


def test_days_are_trained_one_after_the_other_under_every_world(folder: Path) -> None:
    config = settings(folder, "traced")
    orders = []
    for world in (1, 2, 4):
        ranks = Cluster(world).run(trace, config, ENDS[-1])
        orders.append(np.concatenate([rank.rows for rank in ranks], axis=1))
    assert all(np.array_equal(orders[0], order) for order in orders[1:])
    first, start = 0, 0
    for rows, end in zip(DAYS.values(), ENDS, strict=True):
        day = orders[0][start:end]
        padding = day < 0
        assert sorted(day[~padding]) == list(range(first, first + rows)), "every row of the day, no other, each once"
        assert not padding[:-1].any() and padding[-1].sum() == len(day) * 64 - rows
        first, start = first + rows, end


def test_each_day_is_tested_by_the_model_of_the_days_before(folder: Path, whole: Path) -> None:
    told = events(whole, "evaluation")
    assert [(e["partition"], e["step"], e["rows"]) for e in told] == [
        (day, step, DAYS[day]) for day, step in zip(["3", "10", "11"], ENDS, strict=False)
    ]
    assert [e["step"] for e in events(whole, "commit") if e["reason"] == "partition"] == ENDS[:-1]
    for e in told:
        assert e["data"] == f"{folder / 'train'}?day={e['partition']}..{e['partition']}", "what a user may write again"
        [found, _] = Cluster(2).run(evaluated, str(whole), e["data"], str(e["step"]))
        for task, metrics in found.tasks.items():
            assert metrics.auc.value == e["tasks"][task]["auc"]["value"]
            assert metrics.logloss == e["tasks"][task]["logloss"]


def test_the_end_tells_all_days_in_one(whole: Path) -> None:
    [told], days = events(whole, "progressive"), events(whole, "evaluation")
    assert (told["by"], told["partitions"], told["rows"]) == ("day", 3, 1_470)
    for task, found in told["tasks"].items():
        metrics = [e["tasks"][task] for e in days]
        aucs, rows = [m["auc"]["value"] for m in metrics], [m["rows"] for m in metrics]
        assert found["auc"] == pytest.approx(np.mean(aucs))
        assert (found["lowest_auc"], found["lowest_partition"]) == min(
            (auc, e["partition"]) for auc, e in zip(aucs, days, strict=True)
        )
        assert found["logloss"] == pytest.approx(np.average([m["logloss"] for m in metrics], weights=rows))
        predicted = sum(m["pcoc"] * m["positives"] for m in metrics)
        assert found["pcoc"] == pytest.approx(predicted / sum(m["positives"] for m in metrics))
        entropies = [m["logloss"] / m["normalised_entropy"] for m in metrics]
        assert found["normalised_entropy"] == pytest.approx(found["logloss"] / np.average(entropies, weights=rows))
    commit = json.loads((whole / LAST / "commit.json").read_text())
    assert [one["partition"] for one in commit["tested"]] == ["3", "10", "11"]


@pytest.mark.parametrize(
    "kills",
    [[("step", 13)], [("evaluation", 8)], [("commit", 19), ("evaluation", 19)], [("commit", 20), ("step", 22)]],
    ids=["within a day", "while a day is tested", "between two days", "twice"],
)
def test_killed_and_started_again(
    folder: Path, whole: Path, kills: list[tuple[str, int]], request: pytest.FixtureRequest
) -> None:
    """The same weights; the evaluations of the days are neither lost nor counted twice."""
    name = request.node.callspec.id.replace(" ", "-")
    run, config = folder / name, settings(folder, name)
    for event, step in kills:
        seen = len(events(run))
        running = Cluster(2).start(train, config)
        wait_for(run, lambda e, t=event, s=step: (e["event"], e.get("step")) == (t, s), running)
        running.kill(0, 1)
        running.wait(30)
        assert len(events(run)) > seen and not events(run, "done")
    Cluster(2).run(train, config)
    ours, theirs = commit_state(run / LAST), commit_state(whole / LAST)
    assert ours.keys() == theirs.keys()
    assert all(value.tobytes() == theirs[name].tobytes() for name, value in ours.items())
    commits = [json.loads((path / LAST / "commit.json").read_text()) for path in (run, whole)]
    assert commits[0]["tested"] == commits[1]["tested"]
    told = [{k: v for k, v in events(path, "progressive")[0].items() if k != "time"} for path in (run, whole)]
    assert told[0] == told[1]
    seen = [(e.step, e.data) for e in read(str(run)).evaluations]
    assert seen == [(e.step, e.data) for e in read(str(whole)).evaluations], "nor in the report"


def test_another_world_goes_on(folder: Path, whole: Path) -> None:
    for world, steps in ((2, 8), (1, 15), (4, ENDS[-1])):
        Cluster(world).run(train, settings(folder, "elastic", f"train.max_steps={steps}"))
    ours, theirs = ({e["step"]: e["loss"] for e in events(run, "step")} for run in (folder / "elastic", whole))
    gap = max(abs(ours[step] - theirs[step]) for step in theirs)
    print(f"2 -> 1 -> 4 ranks: max difference of {len(theirs)} steps' losses {gap:.1e}")
    assert ours.keys() == theirs.keys() and gap < 1e-5
    assert [e["partition"] for e in events(folder / "elastic", "evaluation")] == ["3", "10", "11"]


@pytest.mark.parametrize("how", ["new files", "a wider range"])
def test_a_day_that_comes_later_is_tested_and_trained(folder: Path, whole: Path, how: str) -> None:
    """The stream goes on where it ended, and ends with the bits of a run that had all days from the beginning."""
    run, logs = folder / how.replace(" ", "-"), folder / f"logs-{how.replace(' ', '-')}"
    early = dict(list(DAYS.items())[:3])
    write_days(logs, early if how == "new files" else DAYS)
    place, config = f"{logs}?day=2..10" if how == "a wider range" else str(logs), settings(folder, run.name)
    Cluster(2).run(train, with_train(config, place))
    assert [e["partition"] for e in events(run, "evaluation")] == ["3", "10"]
    if how == "new files":
        shutil.rmtree(logs)
        write_days(logs, DAYS)
    Cluster(2).run(train, with_train(config, str(logs)))
    assert [e["partition"] for e in events(run, "evaluation")] == ["3", "10", "11"]
    ours, theirs = commit_state(run / LAST), commit_state(whole / LAST)
    assert all(value.tobytes() == theirs[name].tobytes() for name, value in ours.items())


def with_train(config: Config, place: str) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"train": place})})


def test_a_day_that_has_changed_is_refused(folder: Path, whole: Path) -> None:
    write_days(folder / "changed", {day: rows for day, rows in DAYS.items() if day != "3"})
    run = folder / "refused"
    shutil.copytree(whole, run)
    for name, message, code in Cluster(2).run(
        error_of_train, with_train(settings(folder, "refused"), str(folder / "changed"))
    ):
        assert (name, code) == ("CheckpointError", 66), message


def test_mistakes_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs: 2 with data\.stream: a stream is passed once"):
        settings(folder, "twice", "train.epochs=2")
    for key, words in (("dai", "have no partition `dai`; Did you mean `day`"), ("week", "there are day")):
        [(name, message, code)] = Cluster(1).run(error_of_train, settings(folder, "key", f"data.stream.by='{key}'"))
        assert (name, code) == ("DataError", 65) and words.lower() in message.lower(), message
    samples.write_logs(tmp_path / "train", 200)
    [(name, message, code)] = Cluster(1).run(error_of_train, samples.config(tmp_path, "data.stream.by='day'"))
    assert (name, code) == ("DataError", 65) and "folders such as day=2024-01-01" in message
