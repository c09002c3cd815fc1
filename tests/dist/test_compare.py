"""`dist-mtl compare` with real runs: the figures are those of the two folders of predictions."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.checkpoint.format import write_recalibration
from dist_mtl.metrics.paired import holm
from dist_mtl.metrics.recalibration import Fit, Platt
from tests.support.compare_runs import STEPS, TASKS, assert_close, by_hand, compare, evaluated, settings, three_runs
from tests.support.harness import Cluster, run_script
from tests.support.workers import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_runs(tmp_path_factory.mktemp("compared"))


def test_two_seeds(folder: Path) -> None:
    """Everything against the plain computation; the words are those of the figures."""
    found = compare(folder, "one", "two")
    expected = by_hand(folder, "one", "two")
    adjusted = holm(np.array([expected[task]["auc"].p_value for task in TASKS]))
    for task, p in zip(TASKS, adjusted, strict=True):
        ours, plain = found.tasks[task], expected[task]
        gap = max(assert_close(getattr(ours, m), plain[m]) for m in ("auc", "logloss", "pcoc"))
        gap = max(gap, abs(ours.auc.a - plain["sklearn"][0]), abs(ours.auc.b - plain["sklearn"][1]))
        print(f"{task}: {ours.auc.a:.4f} and {ours.auc.b:.4f}, p = {p:.3f} after Holm; {gap:.1e} from by hand")
        assert gap < 1e-9 and ours.rows == plain["rows"] and ours.auc_adjusted == pytest.approx(p, abs=1e-9)
        told = found.verdict.tasks[task]
        better = None if p >= 0.05 else "B" if plain["auc"].difference > 0 else "A"
        assert told.better == better
        assert told.detectable == pytest.approx(2.8016 * plain["auc"].standard_error, rel=1e-4)
        assert ("no difference can be told" in told.words) == (better is None)
        assert f"{told.detectable:.4f} could be (80 % power)" in told.words or better is not None
        gap = max(gap, *evaluated(folder, "one", found, "a", task), *evaluated(folder, "two", found, "b", task))
        print(f"{task}: at most {gap:.1e} from what the runs' own evaluations say")
        assert gap < 1e-6
    assert found.by == "user" and found.tasks["ctr"].clusters > 40 and found.replicates is None
    assert set(found.differences.config) == {"seed"} and not found.differences.plan and not found.differences.versions
    assert list(found.slices) == ["age"] and "null" in found.slices["age"]
    by_age = [one["ctr"] for one in found.slices["age"].values()]
    assert sum(one.rows for one in by_age) == 2_000
    assert found.verdict.slices is not None and "Holm over" in found.verdict.slices
    assert found.verdict.warnings == ()


def test_a_run_against_itself(folder: Path) -> None:
    found = compare(folder, "one", "one")
    for task, one in found.tasks.items():
        assert one.identical and one.auc_adjusted == 1
        metrics = (one.auc, one.logloss, one.normalised_entropy, one.pcoc, *one.groups["user"].values())
        assert all((m.difference, m.standard_error, m.p_value) == (0, 0, 1) for m in metrics)
        assert "identical" in found.verdict.tasks[task].words
    assert found.verdict.overall == "Overall: identical; A and B give every row the same scores."
    assert found.differences.config == {} and found.differences.bytes_by_rank[0] == found.differences.bytes_by_rank[1]


def test_a_run_that_learnt_nothing_is_worse(folder: Path) -> None:
    found = compare(folder, "one", "lame", by="")
    ctr = found.verdict.tasks["ctr"]
    print(ctr.words, found.verdict.overall)
    assert ctr.better == "A" and re.match(
        r"CTR AUC: A is better by 0\.\d+ \(95 % interval 0\.\d+ to 0\.\d+, p", ctr.words
    )
    assert found.verdict.overall.startswith("Overall: A is better in CTR")
    assert "A is better by" in found.verdict.slices
    assert list(found.differences.config) == ["optim.embedding.lr", "optim.dense.lr"]
    assert found.differences.config["optim.dense.lr"].a == "0.001" and found.by is None
    flipped = compare(folder, "lame", "one", by="")
    assert flipped.verdict.tasks["ctr"].words == ctr.words.replace("A is better", "B is better")


def files(folder: Path, run: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / run / "predictions").rglob("*") if path.is_file()}


def test_predictions_are_made_once_for_a_commit(folder: Path) -> None:
    """The same on 1 rank from predictions of 2, then from its own; made anew for other columns and another commit."""
    shutil.copytree(folder / "one", folder / "mine")
    shutil.rmtree(folder / "mine" / "predictions", ignore_errors=True)
    first = compare(folder, "mine", "two")
    made = files(folder, "mine")
    assert len(made) > 2
    assert repr(compare(folder, "mine", "two", world=1)) == repr(first)  # a NaN is not equal to itself
    assert files(folder, "mine") == made
    shutil.rmtree(folder / "mine" / "predictions")
    alone = compare(folder, "mine", "two", world=1)
    assert alone.verdict == first.verdict
    gap = max(abs(alone.tasks[t].auc.difference - first.tasks[t].auc.difference) for t in TASKS)
    print(f"AUC differences scored on 1 and 2 ranks: {gap:.1e} apart")
    assert gap < 1e-9

    made = files(folder, "mine")
    compare(folder, "mine", "two", by="item")
    assert files(folder, "mine") != made
    made = files(folder, "mine")
    compare(folder, "mine", "two", slices=("item",))
    compare(folder, "mine", "two", by="")
    assert files(folder, "mine") == made

    newest = folder / "mine" / "checkpoints" / f"step-{STEPS:010d}" / "commit.json"
    shutil.copy(newest, newest.with_suffix(".copy"))
    newest.with_suffix(".copy").replace(newest)  # as a run that was made afresh: the same step, another commit
    compare(folder, "mine", "two")
    assert files(folder, "mine").keys() == made.keys() and not set(files(folder, "mine").values()) & set(made.values())
    made = files(folder, "mine")
    Cluster(2).run(train, settings(folder, "mine", "train.epochs=3"))
    assert compare(folder, "mine", "two").a.step > STEPS
    assert made.items() < files(folder, "mine").items()  # those of the older commit are still there


def test_the_command(folder: Path) -> None:
    """What it prints, once; the JSON has it all, without a NaN."""
    told = folder / "told.json"
    arguments = (folder / "one", folder / "two", "--slices=tag", f"--json={told}", "--replicates=200", "--raw")
    first, second = run_script(2, "compare.py", *map(str, arguments))
    assert (first.code, second.code, second.stdout) == (0, 0, ""), first.stderr + second.stderr
    print(first.stdout)
    tree = json.loads(told.read_text(), parse_constant=pytest.fail)
    assert set(tree["slices"]) == {"age", "tag"} and tree["replicates"] == 200
    verdict = [*(tree["verdict"]["tasks"][task]["words"] for task in TASKS), tree["verdict"]["overall"]]
    printed = " ".join(first.stdout.split())
    for words in (
        "seed",
        "rows of one `user` are taken together",
        "200 bootstrap replicates",
        "within user",
        "by tag",
        *verdict,
    ):
        assert words in printed, words
    assert all(len(line) <= 120 for line in first.stdout.splitlines())
    assert list((folder / "one" / "predictions").glob("step-*-raw"))


def test_a_recalibrated_commit_is_scored_anew_and_ranks_alike(folder: Path) -> None:
    shutil.copytree(folder / "one", folder / "scaled")
    shutil.rmtree(folder / "scaled" / "predictions", ignore_errors=True)
    compare(folder, "one", "scaled")
    made = files(folder, "scaled")
    twice = {task: Platt(slope=2.0, intercept=0.0) for task in TASKS}  # a power of two: no new tie
    fit = Fit("platt", "held/out", "d1" * 32, dict.fromkeys(TASKS, 100.0), twice)
    write_recalibration(folder / "scaled" / "checkpoints" / f"step-{STEPS:010d}", fit)
    found = compare(folder, "one", "scaled")
    change = found.differences.config.pop("recalibration")
    told = "{method = platt, data = held/out, digest = d1d1d1d1d1d1, tasks = [ctr, cvr, ctcvr]}"
    assert (change.a, change.b) == ("none", told) and not found.differences.config
    assert not set(made.values()) & set(files(folder, "scaled").values())
    for task, one in found.tasks.items():
        assert (one.identical, one.auc.difference, one.auc.p_value) == (False, 0, 1)
        assert "A and B rank the rows alike" in found.verdict.tasks[task].words
    assert found.tasks["ctr"].logloss.p_value < 0.05
    assert found.verdict.overall == "Overall: no difference of AUC can be told in any task."
    raw = compare(folder, "one", "scaled", raw=True)
    assert raw.verdict.overall.startswith("Overall: identical") and not raw.differences.config
