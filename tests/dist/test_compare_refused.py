"""`dist-mtl compare`: what it warns of, and what it refuses, with real runs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.manifest import read as manifest_of
from dist_mtl.data.files.writer import write_dataset
from tests.support import samples
from tests.support.compare_runs import STEPS, compare, error, scores, settings, three_runs
from tests.support.harness import Cluster, Exit, run_script
from tests.support.score_workers import recalibrated
from tests.support.workers import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_runs(tmp_path_factory.mktemp("compared"))


def rewritten(source: Path, target: Path, **columns: object) -> Manifest:
    """A dataset with some columns made anew."""
    table = pa.concat_tables([pq.read_table(source / file.path) for file in manifest_of(source).files])
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values(table[name].to_numpy())))
    return write_dataset(target, [table])


def test_warnings(folder: Path) -> None:
    """Judged by trained rows or those that chose the commit, trained on other data, shares, weights, few positives."""
    first = compare(folder, "one", "two", data=str(folder / "train"))
    assert sum("was trained on these very rows" in warning for warning in first.verdict.warnings) == 2
    assert first.verdict.overall.endswith("Do not rely on it before reading the warnings.")

    samples.write_logs(folder / "train2", 1_000, seed=5)
    changes = (f"data.train='{folder / 'train2'}'", "data.kept=[0.5,1.0]", "data.weight='importance'")
    chosen = ("train.evaluate_every=15", "select={metrics={'ctr.auc'=1.0}}")
    Cluster(2).run(train, settings(folder, "kept", *changes, *chosen))
    rewritten(folder / "test", folder / "few", conversion=lambda x: x * (np.cumsum(x) <= 20))
    found = compare(folder, "one", "kept", data=str(folder / "few"))
    for words in (
        "trained on different data",
        "data.kept differs (none and (0.5, 1.0))",
        "data.weight differs (`none` and `importance`)",
        "CTCVR: 20 positives only",
    ):
        assert any(words in warning for warning in found.verdict.warnings), found.verdict.warnings
    changed = {"data.kept", "data.train", "data.weight", "train.evaluate_every", "select"}
    assert set(found.differences.config) == changed

    weighted = compare(folder, "kept", "one")
    assert any("kept: its best commit was selected on these rows" in warning for warning in weighted.verdict.warnings)
    table = scores(folder, "kept", weighted.a.step)
    columns = (table[name].to_numpy() for name in ("click", "logit_ctr", "importance"))
    labels, logits, weights = (column[table["importance"].to_numpy() > 0] for column in columns)
    expected = roc_auc_score(labels, logits, sample_weight=weights)
    print(f"weighted CTR AUC {expected:.4f}, {abs(weighted.tasks['ctr'].auc.a - expected):.1e} from scikit-learn")
    assert weighted.replicates == 1000 and weighted.tasks["ctr"].auc.a == pytest.approx(expected, abs=1e-12)


def test_rows_that_a_side_was_fitted_or_chosen_on_are_warned_of_in_any_folder(folder: Path) -> None:
    shutil.copytree(folder / "one", folder / "fitted")
    Cluster(2).run(recalibrated, str(folder / "fitted"), str(folder / "test"), "isotonic")
    shutil.copytree(folder / "test", folder / "copied")
    for data in ("test", "copied"):
        found = compare(folder, "one", "fitted", data=str(folder / data))
        [warning] = found.verdict.warnings
        print(warning)
        assert warning.startswith(f"{folder / 'fitted'} was recalibrated on these rows, which flatters its logloss")
        assert found.verdict.overall.endswith("Do not rely on it before reading the warnings.")
    raw = compare(folder, "one", "fitted", raw=True)
    assert raw.verdict.warnings == () and raw.verdict.overall.startswith("Overall: identical")

    samples.write_logs(folder / "validation", 500, seed=9)
    chosen = (
        f"data.validation='{folder / 'validation'}'",
        "train.evaluate_every=15",
        "select={metrics={'ctr.auc'=1.0}}",
    )
    Cluster(2).run(train, settings(folder, "chosen", *chosen))
    shutil.move(folder / "validation", folder / "moved")
    found = compare(folder, "one", "chosen", data=str(folder / "moved"))
    assert any("chosen: its best commit was selected on these rows" in warning for warning in found.verdict.warnings)


@pytest.mark.parametrize(
    ("other", "options", "kind", "code", "words"),
    [
        ("two", {"by": "usr"}, "ConfigError", 64, r"--by `usr`: .*test has no column `usr`; did you mean `user`\?"),
        ("two", {"by": "price"}, "DataError", 65, r"column `price` is double"),
        ("two", {"slices": ("nothing",)}, "ConfigError", 64, r"--slices `nothing`: .* has no column `nothing`"),
        ("two", {"which": "7"}, "CheckpointError", 66, r"one: no commit `7`; .* the steps .*94"),
        ("two", {"replicates": 10}, "ConfigError", 64, r"--replicates 10: 100 at least"),
        ("absent", {}, "CheckpointError", 66, r"absent: no complete commit in it"),
        ("two", {"data": "nowhere"}, "DataError", 65, r"nowhere/_manifest.json: there is no such file"),
        ("clicks", {}, "ConfigError", 64, r"data.labels: .* has \['click', 'conversion'\], .*clicks has \['click'\]"),
        (
            "untested",
            {},
            "ConfigError",
            64,
            r"no data.test in common \(.*test in .*one, none in .*untested\); .*--data",
        ),
    ],
)
def test_errors_in_words(folder: Path, other: str, options: dict, kind: str, code: int, words: str) -> None:
    if other in ("clicks", "untested") and not (folder / other).exists():
        change = ("data.labels=['click']",) if other == "clicks" else ()
        config = settings(folder, other, "train.max_steps=1", *change)
        if other == "untested":
            config = config.model_copy(update={"data": config.data.model_copy(update={"test": None})})
        Cluster(2).run(train, config)
    name, message, exit_code = error(folder, "one", other, **options)
    print(message)
    assert (name, exit_code) == (kind, code) and re.search(words, message)


def test_a_folder_of_someone_else_is_left_alone(folder: Path) -> None:
    shutil.copytree(folder / "one", folder / "owned")
    shutil.rmtree(folder / "owned" / "predictions", ignore_errors=True)
    digest = manifest_of(folder / "test").digest
    theirs = folder / "owned" / "predictions" / f"step-{STEPS:010d}-{digest[:12]}"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("mine")
    name, message, _ = error(folder, "owned", "two")
    assert name == "DataError" and "none made it; move or remove the folder" in message
    assert (theirs / "notes.txt").read_text() == "mine"


def test_a_missing_argument_is_told(folder: Path) -> None:
    exits: list[Exit] = run_script(1, "compare.py", str(folder / "one"))
    assert exits[0].code == 64 and "RUN_B" in exits[0].stderr
