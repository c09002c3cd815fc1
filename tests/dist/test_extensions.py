"""Parts from outside of the package: trained, resumed and scored with them, and never without."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import dist_mtl as dm
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from tests.support import samples, toys
from tests.support.harness import Cluster, run_script
from tests.support.workers import commit_state

FEATURES = {
    "expensive": dm.Feature(toys.expensive, ("price", "age")),
    "decade": dm.Feature(toys.decade, ("age",), rows=9, dim=8),
}
TOYS = dm.Extensions(
    backbone=partial(toys.Gated, width=8), losses=(partial(toys.confidence, weight=0.02),), features=FEATURES
)


def config_for(folder: Path, name: str = "run", **options: Any) -> dm.Config:
    where = {"run.dir": folder / name, "data.test": folder / "test", "train.checkpoint_every": 5}
    return dm.load_config(samples.tree(folder), where | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs, and `run`: ten steps with the toys."""
    folder = tmp_path_factory.mktemp("toys")
    samples.write_logs(folder / "train", 640)
    samples.write_logs(folder / "test", 200, seed=1)
    dm.train(config_for(folder), extensions=TOYS)
    return folder


def test_a_run_with_all_of_them(folder: Path) -> None:
    run = dm.Run(folder / "run")
    [*_, step] = run.events("step")
    assert step["losses"]["confidence"] > 0
    made = commits.read(store.latest(run.dir))
    assert [str(part).split(" (")[0] for part in made.extensions] == [
        "backbone `Gated`",
        "losses[0] `confidence`",
        "features.decade `decade`",
        "features.expensive `expensive`",
    ]
    weights = commit_state(store.latest(run.dir))
    assert weights["model/embeddings.collection.embedding_bags.decade.weight"].shape == (9, 8)
    assert weights["model/backbone.shared.weight"].shape[0] == 8
    scores = dm.load_model(run, extensions=TOYS).predict(samples.logs(50, seed=1))
    made = dm.predict(run, folder / "test", folder / "scores", extensions=TOYS)
    written = samples.rows_of(folder / "scores").slice(0, 50)
    assert made.rows == 200
    evaluation = dm.evaluate(run, extensions=TOYS)
    assert evaluation.rows == 200 and scores.num_rows == written.num_rows
    assert dm.compare(run, run, extensions=TOYS).tasks["ctr"].auc.difference == 0


def test_each_part_changes_what_is_trained(folder: Path) -> None:
    plain = dm.train(config_for(folder, "plain"))
    losses = {"plain": plain.events("step")[-1]["loss"]}
    for name in ("backbone", "losses", "features"):
        only = dm.Extensions(**{name: getattr(TOYS, name)})
        losses[name] = dm.train(config_for(folder, name), extensions=only).events("step")[-1]["loss"]
    assert len(set(losses.values())) == 4


def test_resumed_with_the_same_parts_it_has_the_same_bits(folder: Path) -> None:
    for steps in (5, 10):
        dm.train(config_for(folder, "cut", **{"train.max_steps": steps}), extensions=TOYS)
    whole, cut = (commit_state(store.latest(folder / name)) for name in ("run", "cut"))
    assert whole.keys() == cut.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_ranks_give_the_same_losses(folder: Path) -> None:
    Cluster(2).run(train_on_ranks, config_for(folder, "ranks"))
    one, two = (dm.Run(folder / name).events("step") for name in ("run", "ranks"))
    for a, b in zip(one, two, strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=2e-5)


def train_on_ranks(config: dm.Config) -> None:
    dm.train(config, extensions=TOYS)


class Gated(nn.Module):
    """Another one of the same name."""

    def __init__(self, inputs: int, num_tasks: int, dropout: float) -> None:
        super().__init__()


OTHERS = {
    "none": (None, "made with backbone `Gated`.*is not here"),
    "without a loss": (dm.Extensions(backbone=TOYS.backbone, features=FEATURES), r"losses\[0\] `confidence`.*not here"),
    "without a feature": (
        dm.Extensions(TOYS.backbone, TOYS.losses, {"decade": FEATURES["decade"]}),
        "features.expensive `expensive`.*not here",
    ),
    "another source": (
        dm.Extensions(Gated, TOYS.losses, FEATURES),
        "made with backbone .*and here is backbone `Gated`",
    ),
    "another width": (
        dm.Extensions(partial(toys.Gated, width=4), TOYS.losses, FEATURES),
        "made with backbone .*and here is backbone `Gated`",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_without_the_same_parts_nothing_is_scored_or_resumed(case: str, folder: Path, tmp_path: Path) -> None:
    extensions, message = OTHERS[case]
    run = dm.Run(folder / "run")
    actions = (
        lambda: dm.load_model(run, extensions=extensions),
        lambda: dm.evaluate(run, extensions=extensions),
        lambda: dm.predict(run, folder / "test", tmp_path / "out", extensions=extensions),
        lambda: dm.compare(run, run, extensions=extensions),
    )
    for action in actions:
        with pytest.raises(dm.CheckpointError, match=message):
            action()
    resumed = dm.Extensions() if extensions is None else extensions
    if case == "another source":
        resumed = dm.Extensions(partial(toys.Gated, width=16), TOYS.losses, FEATURES)
    with pytest.raises(dm.CheckpointError, match=message):
        dm.train(config_for(folder, **{"train.epochs": 2}), extensions=resumed)


def test_a_part_more_does_not_continue_a_run(folder: Path) -> None:
    dm.train(config_for(folder, "bare", **{"train.max_steps": 1}))
    with pytest.raises(dm.CheckpointError, match=r"made without losses\[0\]"):
        dm.train(config_for(folder, "bare"), extensions=dm.Extensions(losses=TOYS.losses))


def test_the_scripts_name_what_they_cannot_have(folder: Path, tmp_path: Path) -> None:
    [done] = run_script(1, "predict.py", str(folder / "run"), str(folder / "test"), str(tmp_path / "out"))
    assert done.code == 66 and "backbone `Gated`" in done.stderr and "Traceback" not in done.stderr


WRONG = {
    "a name that is taken": ({"features": {"user": FEATURES["decade"]}}, dm.ConfigError, "features.user is in the"),
    "no function": ({"losses": (3,)}, dm.ConfigError, r"losses\[0\]: pass a class or a function"),
    "bound to an object": ({"losses": (partial(toys.confidence, weight=dm),)}, dm.ConfigError, "bind numbers"),
    "no module": ({"backbone": lambda *_: 3}, dm.ConfigError, "made a int"),
    "no column": ({"features": {"x": dm.Feature(toys.decade, ("nowhere",))}}, dm.DataError, "no column `nowhere`"),
    "no columns": ({"features": {"x": dm.Feature(toys.decade, ())}}, dm.ConfigError, "features.x.columns"),
    "a label": ({"features": {"x": dm.Feature(toys.decade, ("click",))}}, dm.ConfigError, "is a label"),
    "ids beyond": ({"features": {"x": dm.Feature(toys.decade, ("age",), rows=2)}}, dm.DataError, "from -1 to 1"),
    "ids of reals": ({"features": {"x": dm.Feature(toys.expensive, ("price", "age"), 9)}}, dm.DataError, "integers"),
    "a list": ({"features": {"x": dm.Feature(lambda table: [[1]], ("age",))}}, dm.DataError, "one number a row"),
    "texts": ({"features": {"x": dm.Feature(lambda t: ["a"] * len(t), ("age",))}}, dm.DataError, "one number a row"),
    "infinite": (
        {"features": {"x": dm.Feature(lambda table: np.full(len(table), np.inf), ("age",))}},
        dm.DataError,
        "not finite",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_parts_that_do_not_fit_are_named(case: str, folder: Path, tmp_path: Path) -> None:
    parts, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        dm.train(config_for(folder, **{"run.dir": tmp_path / "x"}), extensions=dm.Extensions(**parts))


@pytest.mark.parametrize(
    ("key", "value"), [("features.x", {"kind": "custom", "columns": ["age"]}), ("model.backbone", {"kind": "custom"})]
)
def test_a_file_alone_makes_no_custom_part(key: str, value: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(dm.ConfigError, match="passed from Python"):
        dm.train(config_for(folder, **{"run.dir": tmp_path / "x", key: value}))


def test_a_class_of_a_notebook_has_a_source(tmp_path: Path) -> None:
    """Its module has no file; that of its methods is a cell."""
    import linecache

    code = "class Cell:\n    def __init__(self, inputs):\n        self.outputs = {}\n"
    digests = []
    for number in (1, 2, 1):
        text, name = code.format(number), f"<cell {len(digests)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        space: dict[str, Any] = {"__name__": "no_module"}
        exec(compile(text, name, "exec"), space)
        digests.append(dm.Extensions(backbone=space["Cell"]).parts[0].digest)
    assert digests[0] == digests[2] != digests[1]
