"""A model in memory scores a frame as `dist-mtl predict` scores a dataset of the same rows, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dist_mtl as dm
from tests.support import samples
from tests.support.harness import Cluster, run_script

ROW = {"row": 1, "item": 3} | dict.fromkeys(("user", "history", "history_weight", "tag", "age", "price"))
TASKS = ("ctr", "cvr", "ctcvr")
DYNAMIC = {
    "tables.tag.dynamic": {},
    "tables.tag.rows": 128,
    "features.tag.policy": "dynamic",
    "tables.user.precision": "fp16",
    "tables.item.sharding": "data_parallel",
    "train.global_batch": 48,
    "data.shuffle_rows": 96,
    "data.kept": [0.5, 1.0],
    "optim.embedding.kind": "sgd",
}
MODELS = {
    "every kind of feature": {},
    "dynamic, half precision, corrected, in windows": DYNAMIC,
    "levels of experts, row-wise": {
        "model.backbone": {"kind": "ple", "hidden": [16, 8]},
        **{f"tables.{name}.sharding": "row_wise" for name in ("user", "item", "tag")},
    },
    "means": {"features.history.weights": None, "tables.tag.pooling": "mean"},
}


@pytest.fixture(params=MODELS)
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dm.Run, Path]:
    """A run, and a dataset to score with more rows than a step, its last step short."""
    samples.write_logs(tmp_path / "train", 320)
    samples.write_logs(tmp_path / "rows", 150, seed=3)
    changes = {key: value for key, value in MODELS[request.param].items() if value is not None}
    tree = samples.tree(tmp_path)
    for key in MODELS[request.param].keys() - changes.keys():
        section, name, field = key.split(".")
        del tree[section][name][field]
    return dm.train(dm.load_config(tree, changes)), tmp_path / "rows"


def test_the_same_bits_as_the_script(trained: tuple[dm.Run, Path], tmp_path: Path) -> None:
    run, rows = trained
    [done] = run_script(1, "predict.py", str(run.dir), str(rows), str(tmp_path / "out"))
    assert done.code == 0, done.stderr
    wanted = samples.rows_of(tmp_path / "out")
    model = dm.load_model(run)
    table = samples.rows_of(rows)
    frame = table.to_pandas().set_index(pd.Index(np.arange(150) * 7, name="id"))
    assert frame["user"].dtype == np.float64  # pandas has no other integers with nulls
    for given in (table, frame, table.to_pylist()):
        scores = model.predict(given, logits=True)
        assert type(scores) is type(given)
        columns = (
            scores
            if isinstance(scores, pa.Table)
            else pa.Table.from_pylist(scores)
            if isinstance(scores, list)
            else pa.Table.from_pandas(scores, preserve_index=False)
        )
        assert columns.column_names == [*TASKS, *(f"logit_{task}" for task in TASKS)]
        for task in TASKS:
            for ours, theirs in ((task, f"p_{task}"), (f"logit_{task}", f"logit_{task}")):
                mine = columns.column(ours).to_numpy().astype(np.float32)
                np.testing.assert_array_equal(mine, wanted.column(theirs).to_numpy(), err_msg=f"{ours} {type(given)}")
    assert model.predict(frame).index.equals(frame.index)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dm.LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    samples.write_logs(folder / "train", 320)
    return dm.load_model(dm.train(dm.load_config(samples.tree(folder), {"train.max_steps": 2})))


def test_labels_and_strangers_are_ignored(model: dm.LoadedModel) -> None:
    rows = samples.logs(70)
    bare = rows.drop_columns(["click", "conversion", "importance"]).append_column("price ", pa.nulls(70))
    assert model.predict(bare).equals(model.predict(rows))


def test_one_row_of_nulls_alone(model: dm.LoadedModel) -> None:
    [scores] = model.predict([ROW])
    assert all(0 < scores[task] < 1 for task in TASKS)


@pytest.mark.parametrize("empty", [[], samples.logs(0), samples.logs(0).to_pandas()], ids=["list", "Arrow", "pandas"])
def test_no_rows(empty: Any, model: dm.LoadedModel) -> None:
    scores = model.predict(empty)
    assert type(scores) is type(empty) and len(scores) == 0
    if not isinstance(empty, list):
        assert list(scores.columns if isinstance(scores, pd.DataFrame) else scores.column_names) == list(TASKS)


def changed(name: str, values: Any) -> pa.Table:
    rows = samples.logs(5)
    return rows.set_column(rows.column_names.index(name), name, values)


BAD = {
    "no column": (lambda: samples.logs(5).drop_columns(["user"]), "there is no column `user`"),
    "text for numbers": (lambda: changed("user", pa.array(list("abcde"))), "`user`.*text"),
    "floats that are no ids": (
        lambda: samples.logs(5).to_pandas().assign(user=[0.5, 1, 2, 3, 4]),
        "column `user` is ",
    ),
    "an id that is refused": (
        lambda: [ROW | {"row": i, "history": [999 * i], "history_weight": [1.0]} for i in range(2)],
        "row 1: .*999",
    ),
    "two columns of a name": (lambda: pd.concat([samples.logs(5).to_pandas()] * 2, axis=1), "2 columns `user`"),
    "two Arrow columns": (lambda: samples.logs(5).append_column("row", pa.nulls(5)), "2 columns `row`"),
    "mixed values": (lambda: [{"user": 1}, {"user": "a"}], "column `user`: "),
    "no frame": (lambda: {"user": [1]}, "dict is no frame"),
    "rows that are no dicts": (lambda: [1, 2], "list is no frame"),
    "a text": (lambda: "user", "str is no frame"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_frames_are_named(case: str, model: dm.LoadedModel) -> None:
    make, message = BAD[case]
    with pytest.raises(dm.DataError, match=message):
        model.predict(make())
    assert model.predict(samples.logs(3)).num_rows == 3


def test_labels_that_are_no_funnel_are_predicted_by_their_names(tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 320)
    options = {"data.funnel": False, "model.head": "independent", "train.max_steps": 2}
    run = dm.train(dm.load_config(samples.tree(tmp_path), options))
    assert dm.load_model(run).predict(samples.logs(4)).column_names == ["click", "conversion"]


@pytest.mark.parametrize("which", ["latest", "newest", 1, "1"])
def test_checkpoints_by_name_and_step(which: Any, tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 320)
    options = {"train.checkpoint_every": 1, "train.max_steps": 2}
    run = dm.train(dm.load_config(samples.tree(tmp_path), options))
    assert dm.load_model(run, checkpoint=which).step == (1 if str(which) == "1" else 2)
    with pytest.raises(dm.CheckpointError, match="no commit `7`"):
        dm.load_model(run, checkpoint=7)


def test_among_ranks_a_model_is_refused(model: dm.LoadedModel) -> None:
    for kind, message in Cluster(2).run(load_on_ranks, str(model.run_dir)):
        assert kind == "ConfigError" and "dist_mtl.scoring.predict" in message


def load_on_ranks(run_dir: str) -> tuple[str, str]:
    try:
        dm.load_model(run_dir)
    except dm.DistMtlError as error:
        return type(error).__name__, str(error)
    return "", ""


def test_ranks_train_as_by_the_script(tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 320)
    samples.write_logs(tmp_path / "test", 100)
    config = dm.load_config(samples.tree(tmp_path), {"data.test": tmp_path / "test"})
    first, second = Cluster(2).run(train_on_ranks, config)
    assert first == second == 5
    assert pq.read_table(next((tmp_path / "scores").glob("part-00001-*"))).num_rows == 50


def train_on_ranks(config: dm.Config) -> int:
    run = dm.train(config)
    dm.predict(run, config.data.test, Path(config.run.dir).parent / "scores")
    assert (dm.compare(run, run, replicates=None) is None) == (os_rank() > 0)
    return run.steps


def os_rank() -> int:
    from dist_mtl.parallel.world import World

    return World.from_env().rank
