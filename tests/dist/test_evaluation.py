"""R10 on real ranks: evaluation against scikit-learn, prediction equal to evaluation, on 1, 2 and 4 ranks."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.config import Config
from dist_mtl.data.files import manifest
from dist_mtl.data.files.disk import alone
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.task import TaskMetrics, compute
from dist_mtl.scoring.evaluate import Evaluation
from dist_mtl.scoring.predict import read_about
from tests.support import samples
from tests.support.harness import Cluster, run_script
from tests.support.score_workers import evaluated, predicted, whole

TASKS = ("ctr", "cvr", "ctcvr")
METRICS = ("metrics.slices=['age', 'tag']", "metrics.groups=['user']", "metrics.max_slices=8")


def settings(folder: Path, run: str, *overrides: str) -> Config:
    """Run `folder/run` on the folder's logs, told about by slice and within users."""
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "train.epochs=2", "data.violations='drop'")
    return samples.config(folder, *fixed, *METRICS, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    test = samples.logs(700, seed=1)
    # Dirty rows, which both must leave out: a conversion without a click.
    dirty = test.column("conversion").to_numpy().copy()
    dirty[np.flatnonzero(test.column("click").to_numpy() == 0)[:5]] = 1
    write_dataset(folder / "test", [test.set_column(10, "conversion", pa.array(dirty))], row_group_rows=100)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Evaluation:
    """A run on 2 ranks; its final evaluation."""
    first, second = Cluster(2).run(whole, settings(folder, "run"))
    assert first == second
    return first


def predictions(folder: Path) -> pd.DataFrame:
    return pq.read_table([p for p in sorted(folder.glob("*.parquet"))]).to_pandas()


def spaces(rows: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, str]]:
    """Each task's rows and label, by the definitions; dirty rows are in none."""
    clean = rows[rows.conversion <= rows.click]
    return {"ctr": (clean, "click"), "cvr": (clean[clean.click == 1], "conversion"), "ctcvr": (clean, "conversion")}


def assert_right(found: TaskMetrics, rows: pd.DataFrame, label: str, task: str) -> None:
    """Against scikit-learn on the predicted rows."""
    y, logits = rows[label].to_numpy(), rows[f"logit_{task}"].to_numpy().astype(float)
    assert (found.rows, found.positives) == (len(y), y.sum())
    if 0 < y.sum() < len(y):
        p = 1 / (1 + np.exp(-logits))
        assert abs(found.auc.value - roc_auc_score(y, logits)) <= found.auc.error + 1e-12
        assert math.isclose(found.logloss, log_loss(y, p), rel_tol=1e-6)
        assert math.isclose(found.pcoc, p.sum() / y.sum(), rel_tol=1e-6)
    else:
        assert math.isnan(found.auc.value)


@pytest.fixture(scope="module", params=[1, 2, 4])
def both(request: pytest.FixtureRequest, folder: Path, run: Evaluation) -> tuple[Evaluation, Path, int]:
    """The run evaluated and its predictions, on 1, 2 and 4 ranks."""
    world, out = request.param, folder / f"predicted-{request.param}"
    found = Cluster(world).run(evaluated, str(folder / "run"), str(folder / "test"))
    Cluster(world).run(predicted, str(folder / "run"), str(folder / "test"), out)
    assert all(one == found[0] for one in found), "ranks report different metrics"
    return found[0], out, world


def test_predict_equals_evaluate_to_the_bit(both: tuple) -> None:
    evaluation, out, _ = both
    rows = predictions(out)
    histogram = LogitHistogram(3, torch.device("cpu"))
    clean = (rows.conversion <= rows.click).to_numpy()
    columns = {
        "logits": [rows[f"logit_{task}"] for task in TASKS],
        "labels": [rows.click, rows.conversion, rows.conversion],
        "weights": [clean, clean & (rows.click == 1), clean],
    }
    histogram.update(*(torch.tensor(np.stack(c, axis=1), dtype=torch.float32) for c in columns.values()))
    assert dict(zip(TASKS, compute(histogram), strict=True)) == evaluation.tasks
    assert evaluation.dropped == 5 and evaluation.rows == 700


def test_predictions_are_the_dataset_in_its_order(folder: Path, both: tuple) -> None:
    _, out, world = both
    rows, data = predictions(out), pq.read_table(sorted((folder / "test").glob("*.parquet"))).to_pandas()
    assert rows.row_number.tolist() == list(range(700))
    for column in ("click", "conversion", "age", "tag", "user", "row", "item"):
        pd.testing.assert_series_equal(rows[column], data[column])
    for task in TASKS:
        p = 1 / (1 + np.exp(-rows[f"logit_{task}"].astype(float)))
        np.testing.assert_array_equal(rows[f"p_{task}"], p.astype(np.float32))
    assert manifest.read(out) == manifest.build(out)  # each rank has described its own files
    about = read_about(out)
    assert set(about.columns) == {"click", "conversion", "age", "tag", "user", "row", "item"}
    assert (about.world, about.rows, about.tasks, about.step) == (world, 700, TASKS, 94)


def test_the_scores_do_not_depend_on_the_ranks(folder: Path, both: tuple) -> None:
    _, out, _ = both
    alone = folder / "predicted-1"
    gap = max(abs(predictions(out)[f"logit_{task}"] - predictions(alone)[f"logit_{task}"]).max() for task in TASKS)
    print(f"largest difference of a logit to 1 rank: {gap:.1e}")
    assert gap < 2e-5


def test_every_slice_is_right(both: tuple) -> None:
    evaluation, out, _ = both
    rows = predictions(out)
    buckets = pd.cut(rows.age, [-np.inf, 20, 30, 45.5, 60, np.inf], right=False,
                     labels=["< 20", "20 to 30", "30 to 45.5", "45.5 to 60", ">= 60"])  # fmt: skip
    rows["age"] = buckets.cat.add_categories("null").fillna("null")
    tags = rows.tag.fillna("null")
    largest = sorted(tags.value_counts().items(), key=lambda pair: (-pair[1], pair[0]))[:7]
    rows["tag"] = tags.where(tags.isin([tag for tag, _ in largest]), "other")
    for column in ("age", "tag"):
        assert set(evaluation.slices[column]) == set(rows[column])
        for value, tasks in evaluation.slices[column].items():
            for task, (space, label) in spaces(rows[rows[column] == value]).items():
                assert_right(tasks[task], space, label, task)


def test_whole_set_and_groups_are_right(both: tuple) -> None:
    evaluation, out, _ = both
    for task, (rows, label) in spaces(predictions(out)).items():
        assert_right(evaluation.tasks[task], rows, label, task)
        found = evaluation.groups["user"][task]
        aucs, sizes = [], []
        for _, group in rows.dropna(subset="user").groupby("user"):
            if 0 < group[label].sum() < len(group):
                aucs.append(roc_auc_score(group[label], group[f"logit_{task}"]))
                sizes.append(len(group))
        assert found.groups == len(aucs) > 10
        assert math.isclose(found.gauc, np.average(aucs, weights=sizes), rel_tol=1e-9)
        assert math.isclose(found.gauc_unweighted, np.mean(aucs), rel_tol=1e-9)


def test_training_ends_with_the_same_evaluation(run: Evaluation, both: tuple) -> None:
    evaluation, _, world = both
    if world == 2:
        assert evaluation == run


def test_rows_without_labels_get_the_same_scores(folder: Path, run: Evaluation) -> None:
    table = pq.read_table(sorted((folder / "test").glob("*.parquet")))
    write_dataset(folder / "unlabelled", [table.drop_columns(["click", "conversion"])])
    [done] = run_script(1, "predict.py", folder / "run", folder / "unlabelled", folder / "scored", "--keep", "item")
    assert done.code == 0 and "700 rows scored by step 94" in done.stdout, done.stderr
    rows, labelled = predictions(folder / "scored"), predictions(folder / "predicted-1")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "scored"), rows)
    assert "click" not in rows and rows.item.equals(labelled.item)
    assert rows.logit_ctcvr.equals(labelled.logit_ctcvr)
    for again in run_script(2, "predict.py", folder / "run", folder / "unlabelled", folder / "scored"):
        assert again.code == 65
    assert not list(folder.glob(".staged*"))


def test_the_second_of_two_predictions_into_one_folder_ends(folder: Path, run: Evaluation) -> None:
    staged = folder / ".staged-twice"
    with alone(staged):
        (staged / "part-00000-00000.parquet").write_text("the first one's")
        for done in run_script(2, "predict.py", folder / "run", folder / "test", folder / "twice"):
            assert done.code == 65 and "Traceback" not in done.stderr
        assert (staged / "part-00000-00000.parquet").read_text() == "the first one's"
    [done] = run_script(1, "predict.py", folder / "run", folder / "test", folder / "twice")
    assert done.code == 0 and not staged.exists() and manifest.read(folder / "twice").num_rows == 700, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--keep", "itme"], 65, "there is no column `itme` to carry along. did you mean `item`?"),
        (["--commit", "17"], 66, "no commit `17`; there are `best`, `latest` and the steps 94"),
    ],
)
def test_mistakes_in_words(folder: Path, run: Evaluation, arguments: list[str], code: int, words: str) -> None:
    for done in run_script(2, "predict.py", folder / "run", folder / "test", folder / "never", *arguments):
        assert done.code == code
    assert not (folder / "never").exists()
    [alone] = run_script(1, "predict.py", folder / "run", folder / "test", folder / "never", *arguments)
    assert words in alone.stderr and "Traceback" not in alone.stderr


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["--set=metrics.slices=['price']"], 65, 'declare a feature of kind = "bucket"'),
        (["--set=metrics.groups=['usr']"], 65, "there is no column `usr`"),
        (["--set=metrics.groups=['age']"], 65, "groups are users or searches, and need their ids"),
        (["--set=train.epochs=3"], 64, "only metrics.* can be set here"),
    ],
)
def test_mistakes_in_metrics(folder: Path, run: Evaluation, overrides: list[str], code: int, words: str) -> None:
    [done] = run_script(1, "evaluate.py", folder / "run", *overrides)
    assert done.code == code and words in done.stderr and "Traceback" not in done.stderr


def test_other_slices_after_training(folder: Path, run: Evaluation) -> None:
    target = folder / "evaluation.json"
    [done] = run_script(1, "evaluate.py", folder / "run", "--set=metrics.slices=['importance_level', 'item']",
                        "--json", target)  # fmt: skip
    assert done.code == 65 and not target.exists()  # no such column
    [done] = run_script(1, "evaluate.py", folder / "run", "--set=metrics.slices=['item']", "--json", target)
    assert done.code == 0 and "by item" in done.stdout and "within user" in done.stdout
    assert '"slices"' in target.read_text()


def test_an_evaluation_leaves_no_trace_in_the_run(folder: Path, run: Evaluation) -> None:
    """So it can be of a run that one may only read, groups included."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "run", *(folder / "run").rglob("*"))}

    before = files()
    done = run_script(2, "evaluate.py", folder / "run")
    assert done[0].code == 0 and "within user" in done[0].stdout and files() == before


def test_a_score_that_is_not_finite_ends_all_ranks_alike(folder: Path) -> None:
    """A feature of 3e38, which the cross layers square, in the second rank's second window."""
    config = settings(folder, "crossed", "model.interaction={kind='dcn'}", "train.max_steps=2")
    Cluster(2).run(whole, config)
    table = samples.logs(1_000, seed=2)
    row = table.column("row").to_numpy().astype(float)
    row[990] = 3e38 * 4096
    write_dataset(folder / "extreme", [table.set_column(0, "row", pa.array(row))])
    run, data = folder / "crossed", folder / "extreme"
    for name, *arguments in (("evaluate.py", "--data", data), ("predict.py", data, folder / "bad"),
                             ("recalibrate.py", data)):  # fmt: skip
        first, second = run_script(2, name, run, *arguments)
        print(first.stderr)
        assert (first.code, second.code, second.stderr) == (65, 65, ""), second.stderr
        assert re.search(r"rank 1: .*extreme, rows 820 to 999: 3 scores are not finite", first.stderr)
    assert not (folder / "bad").exists() and not list(folder.glob(".staged*"))


def test_down_sampled_logs_are_corrected(folder: Path) -> None:
    """Trained on a fifth of the non-clicks and half of the clicks without a conversion; scored on all traffic."""
    kept, table = (0.2, 0.5), samples.logs(20_000, seed=5)
    level = table.column("click").to_numpy() + table.column("conversion").to_numpy()
    left = np.random.default_rng(0).random(len(level)) < np.array([*kept, 1.0])[level]
    write_dataset(folder / "sampled", [table.filter(pa.array(left))])
    samples.write_logs(folder / "traffic", 6_000, seed=6)
    config = settings(folder, "sampled-run", f"data.train='{folder / 'sampled'}'", f"data.test='{folder / 'traffic'}'",
                      f"data.kept={list(kept)}")  # fmt: skip
    [corrected] = Cluster(1).run(whole, config)
    [raw] = Cluster(1).run(evaluated, str(folder / "sampled-run"), str(folder / "traffic"), "best", (), True)
    for task in TASKS:
        found, naive = corrected.tasks[task].pcoc, raw.tasks[task].pcoc
        print(f"{task}: PCOC {naive:.3f} as trained, {found:.3f} corrected")
        assert abs(math.log(found)) < 0.15 < 0.25 < math.log(naive)
