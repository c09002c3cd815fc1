"""What training found in its rows is part of every commit: whatever is scored by one is treated as those rows were."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.scoring.evaluate import Evaluation
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.score_workers import evaluated, predicted, whole
from tests.support.workers import error_of_train

ASKING = (
    "features.age={kind='bucket', quantiles=8, dim=8}",
    "features.price={kind='dense', clip=[0.0, 50.0], log=true, scale='standard', null='indicator'}",
    "features.importance={kind='dense', scale='minmax'}",
    "features.pair={kind='cross', of=['age', 'tag'], table='tag'}",
)
FITTED = ("age", "price", "importance")


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'other'}'", "train.max_steps=24")
    return samples.config(folder, *fixed, "metrics.slices=['age']", *ASKING, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows, and rows that are distributed quite differently."""
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 2_000)
    other = samples.logs(500, seed=1)
    moved = {"age": pc.add(pc.divide(other.column("age"), 3), 40), "price": pc.multiply(other.column("price"), 30)}
    moved["importance"] = pc.subtract(other.column("importance"), 4)
    for name, column in moved.items():
        other = other.set_column(other.column_names.index(name), name, column)
    write_dataset(folder / "other", [other], row_group_rows=100)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Evaluation:
    """Trained on 2 ranks; the evaluation of the other rows at its end."""
    first, second = Cluster(2).run(whole, settings(folder, "run"))
    assert first == second
    return first


def fitted(run: Path) -> dict[str, list[float]]:
    """What the newest commit of a run holds."""
    path = sorted(run.glob("checkpoints/step-*/commit.json"))[-1]
    features = json.loads(path.read_text())["config"]["features"]
    return {name: features[name]["fitted"] for name in FITTED}


def scores(folder: Path) -> np.ndarray:
    rows = pq.read_table(sorted(folder.glob("*.parquet")))
    return np.stack([rows.column(f"logit_{task}").to_numpy() for task in ("ctr", "cvr", "ctcvr")])


def test_a_commit_holds_what_the_training_rows_say(folder: Path, run: Evaluation) -> None:
    rows, found = samples.rows_of(folder / "train"), fitted(folder / "run")
    ages = np.sort(rows.column("age").drop_null().to_numpy())
    assert found["age"] == ages[np.arange(1, 8) * len(ages) // 8].tolist()
    logs = np.log1p(rows.column("price").drop_null().to_numpy().clip(0, 50))
    np.testing.assert_allclose(found["price"], (logs.mean(), logs.std()), rtol=1e-12)
    assert found["importance"] == [0, 1.5]
    [told] = events(folder / "run", "fitted")
    assert told["features"] == found
    assert events(folder / "run", "start")[0]["config"]["features"]["age"]["fitted"] == found["age"]


def test_evaluate_and_predict_treat_other_rows_as_the_training_rows_were(folder: Path, run: Evaluation) -> None:
    """The same bits as a run whose configuration gives the very numbers; other bits with those of the other rows."""
    found = fitted(folder / "run")
    (mean, std), (low, high) = found["price"], found["importance"]
    given = (
        f"features.age={{kind='bucket', boundaries={found['age']}, dim=8}}",
        f"features.price={{kind='dense', clip=[0.0, 50.0], log=true, mean={mean}, std={std}, null='indicator'}}",
        f"features.importance={{kind='dense', minimum={low}, maximum={high}}}",
    )
    same, _ = Cluster(2).run(whole, settings(folder, "given", *given))
    assert same == run
    for name in ("run", "given"):
        Cluster(2).run(predicted, str(folder / name), str(folder / "other"), folder / f"by-{name}")
    ours, theirs = scores(folder / "by-run"), scores(folder / "by-given")
    assert ours.tobytes() == theirs.tobytes()
    alone = Cluster(1).run(evaluated, str(folder / "run"), str(folder / "other"))[0]
    assert alone.slices["age"].keys() == run.slices["age"].keys()
    ages = samples.rows_of(folder / "other").column("age").drop_null().to_numpy()
    own = np.sort(ages)[np.arange(1, 8) * len(ages) // 8]
    print(f"boundaries of the training rows {found['age']}, of the scored rows {own.round(1).tolist()}")
    assert max(found["age"]) > own[-1] and np.abs(np.array(found["age"]) - own).max() > 10
    assert events(folder / "given", "fitted") == []


def test_the_number_of_ranks_changes_nothing(folder: Path, run: Evaluation) -> None:
    Cluster(1).run(whole, settings(folder, "alone", "train.max_steps=1"))
    assert fitted(folder / "alone") == fitted(folder / "run")


def test_a_run_that_goes_on_takes_what_its_commit_has(folder: Path) -> None:
    Cluster(2).run(whole, settings(folder, "resumed", "train.max_steps=5"))
    before = fitted(folder / "resumed")
    Cluster(1).run(whole, settings(folder, "resumed", "train.max_steps=9"))
    assert len(events(folder / "resumed", "fitted")) == 1  # the rows were read for it once
    assert fitted(folder / "resumed") == before and events(folder / "resumed", "commit")[-1]["step"] == 9
    other = settings(folder, "resumed", "features.age.quantiles=9")
    for kind, words, code in Cluster(2).run(error_of_train, other):
        assert (kind, code) == ("CheckpointError", 66) and "features.age.quantiles: 8 -> 9" in words


def test_a_column_that_tells_nothing_is_told(folder: Path, tmp_path: Path) -> None:
    rows = samples.rows_of(folder / "train")
    for name in ("age", "importance"):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array([3.0] * len(rows)))
    write_dataset(tmp_path / "train", [rows], row_group_rows=100)
    config = samples.config(tmp_path, *ASKING, "train.max_steps=1")
    Cluster(2).run(whole, config)
    told = [e["message"] for e in events(tmp_path / "run", "warning") if "tells nothing" in e["message"]]
    print(*told, sep="\n")
    assert [message.split(":")[0] for message in told] == ["features.age", "features.importance"]
