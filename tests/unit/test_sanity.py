"""Mistakes that make metrics lie are told by name within the first steps: all are bugs that were met in the wild."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.config.training import RunConfig
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import DataError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.world import World
from dist_mtl.training.leakage import FirstRows, Rows, decides, examine, far_off, separates
from tests.support import samples

ROWS = 1_000  # 15 full steps of 64, and a rest


def looked(tmp_path: Path, changes: dict[str, np.ndarray], *overrides: str, alike: bool = False) -> list[str]:
    """What is found in logs with some columns replaced or added."""
    table = samples.logs(ROWS)
    for name, values in changes.items():
        column = pa.array(values)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    write_dataset(tmp_path / "train", [table], row_group_rows=100)
    tree = samples.tree(tmp_path)
    if "extra" in changes:
        kinds = {"i": {"kind": "id"}, "f": {"kind": "dense"}}
        tree["features"]["extra"] = kinds[changes["extra"].dtype.kind]
        if changes["extra"].dtype.kind == "i":
            tree["tables"]["extra"] = {"rows": 64}
    config: Config = parse(tree, overrides)
    rows = FirstRows(config, run_steps=15)
    draw = np.random.default_rng(0)
    for batch in Dataset.open(config.data.train, config, shuffle=True).batches(0, 1):
        logits = torch.from_numpy(draw.normal(size=(len(batch.weight_B), 2)).astype(np.float32))
        if alike:
            logits[:, 1] = logits[:, 0]
        if rows.add(batch, logits):
            return rows.look(Runtime(World(), torch.device("cpu"), None, RunConfig(dir="unused")))
    raise AssertionError("too few steps")


def labels() -> tuple[np.ndarray, np.ndarray]:
    table = samples.logs(ROWS)
    return table.column("click").to_numpy(), table.column("conversion").to_numpy()


def test_ordinary_logs_are_in_order(tmp_path: Path) -> None:
    assert looked(tmp_path, {}) == []


@pytest.mark.parametrize("kind", ["a copy", "a number made from it", "an id", "its opposite"])
def test_a_label_among_the_features(tmp_path: Path, kind: str) -> None:
    click, conversion = labels()
    draw = np.random.default_rng(1)
    leak, label = {
        "a copy": (click.astype(float), "click"),
        "a number made from it": (conversion * 10.0 + draw.random(ROWS), "conversion"),
        "an id": (np.where(click == 1, draw.integers(0, 5, ROWS), draw.integers(5, 10, ROWS)), "click"),
        "its opposite": (1.0 - click, "click"),
    }[kind]
    with pytest.raises(DataError, match=f"features.extra: it tells the label `{label}` without an error"):
        looked(tmp_path / "reject", {"extra": leak})
    warnings = looked(tmp_path / "warn", {"extra": leak}, "data.leaks='warn'")
    assert any(f"tells the label `{label}`" in line for line in warnings)


def test_features_that_are_merely_good_pass(tmp_path: Path) -> None:
    click, _ = labels()
    draw = np.random.default_rng(2)
    noisy = np.where(draw.random(ROWS) < 0.02, 1 - click, click).astype(float)
    assert looked(tmp_path / "dense", {"extra": noisy}) == []
    assert looked(tmp_path / "rare ids", {"extra": np.arange(ROWS)}) == []  # every id once: pure, and no leak


def rows_of(labels_NT: np.ndarray, ids_N: np.ndarray, lengths_N: np.ndarray | None = None) -> Rows:
    """Rows with the user's id and the history's length as given, and nothing else that could tell."""
    count = len(labels_NT)
    draw = np.random.default_rng(0)
    config = Encoder(samples.config("unused"))
    singles = np.tile(draw.integers(0, 50, count)[:, None], (1, len(config.singles)))
    singles[:, config.singles.index("user")] = ids_N
    lengths = draw.integers(0, 6, (count, len(config.bags))) if lengths_N is None else lengths_N[:, None]
    dense = draw.random((count, len(config.dense)))
    return Rows(dense, singles, lengths, labels_NT, draw.normal(size=labels_NT.shape))


def test_two_tasks_with_one_label() -> None:
    click = np.random.default_rng(1).random(2_000) < 0.4
    twins = rows_of(np.stack([click, click], axis=1), np.arange(2_000))
    with pytest.raises(DataError, match="`click` and `conversion` are equal on the first 2,000 rows"):
        examine(twins, samples.config("unused"))
    assert any("one task twice" in line for line in examine(twins, samples.config("unused", "data.leaks='warn'")))


def test_few_clicks_that_all_convert_are_no_twins() -> None:
    click = np.arange(1_000) < 60
    found = examine(rows_of(np.stack([click, click], axis=1), np.arange(1_000)), samples.config("unused"))
    assert len(found) == 1 and "`conversion` is set on all of the first 60 rows of its space" in found[0]


@pytest.mark.parametrize("kind", ["an order id", "a bag"])
def test_being_there_can_be_the_leak(kind: str) -> None:
    """An id that only converted rows have; a list that only converted rows have."""
    draw = np.random.default_rng(2)
    click = draw.random(3_000) < 0.4
    conversion = click & (draw.random(3_000) < 0.3)
    labels_NT = np.stack([click, conversion], axis=1)
    if kind == "an order id":
        rows, name = rows_of(labels_NT, np.where(conversion, np.arange(3_000), NO_ID)), "user"
    else:
        rows, name = rows_of(labels_NT, np.arange(3_000), conversion * draw.integers(1, 4, 3_000)), "history"
    with pytest.raises(DataError, match=f"features.{name}: it tells the label `conversion`"):
        examine(rows, samples.config("unused"))


def test_labels_that_are_no_funnel_have_all_rows_for_their_space() -> None:
    """Like and dislike exclude each other; both have plenty of positives."""
    like = np.random.default_rng(3).random(1_000) < 0.3
    rows = rows_of(np.stack([like, ~like & (np.arange(1_000) % 2 == 0)], axis=1), np.arange(1_000))
    assert examine(rows, samples.config("unused", "data.funnel=false", "model.head='independent'")) == []


@pytest.mark.parametrize(("value", "words"), [(0, "set on none"), (1, "set on all")])
def test_a_constant_task(tmp_path: Path, value: int, words: str) -> None:
    click, _ = labels()
    changed = {"conversion": np.zeros(ROWS, np.int8)} if value == 0 else {"conversion": click, "click": click}
    if value == 0:
        assert any(words in line and "`conversion`" in line for line in looked(tmp_path, changed))
    else:
        ones = np.ones(ROWS, np.int8)
        found = looked(tmp_path, {"click": ones, "conversion": labels()[0]})
        assert any(words in line and "`click`" in line for line in found)


def test_two_tasks_with_one_prediction(tmp_path: Path) -> None:
    assert any("predict the same for every row" in line for line in looked(tmp_path, {}, alike=True))


def test_chance_is_no_leak() -> None:
    """10,000 features of noise against 20 positives among 1,000 rows."""
    draw = np.random.default_rng(3)
    positive = np.arange(1_000) < 20
    assert not any(separates(draw.random(1_000), positive) for _ in range(10_000))
    assert not any(decides(draw.integers(0, 30, 1_000), positive) for _ in range(1_000))


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (
            {"price": np.where(np.arange(ROWS) == 70, 1e30, 1.0)},
            ("features.price={kind='dense'}",),
            "features.price: of",
        ),
        ({"price": np.where(np.arange(ROWS) == 70, -1e30, 1.0)}, ("features.price={kind='dense'}",), "is -1e+30 once"),
        (
            {"price": np.full(ROWS, 2000.0)},
            ("features.price={kind='dense'}",),
            "largest value is 2e+03 once it is scaled",
        ),
        ({}, ("features.price={kind='dense', std=1e-4}",), "once it is scaled, where a network expects 1 or so"),
        (
            {"importance": np.where(np.arange(ROWS) == 70, 1000.0, 0.01)},
            ("data.weight=importance",),
            "data.weight: a row",
        ),
    ],
)
def test_numbers_that_are_far_too_large(
    tmp_path: Path, changes: dict[str, np.ndarray], options: tuple[str, ...], words: str
) -> None:
    found = looked(tmp_path, changes, *options, "data.shuffle=false")
    assert len(found) == 1 and words in found[0], found


def test_a_heavy_id_of_a_bag(tmp_path: Path) -> None:
    history = samples.logs(ROWS)["history_weight"].to_pylist()
    heavy = [[1e6] * len(weights) if row == 71 else weights for row, weights in enumerate(history)]
    options = ("tables.item.pooling='sum'", "data.shuffle=false")
    [found] = looked(tmp_path, {"history_weight": pa.array(heavy, pa.list_(pa.float32()))}, *options)
    assert found.startswith("features.history: an id weighs 1e+06 among the first")


def test_a_loss_far_beyond_the_entropy_of_its_labels() -> None:
    config, counts = samples.config("unused"), [(10, 1000), (500, 1000)]
    assert far_off([0.7, 0.9], counts, config) == {}, "a coin's loss, however rare the label"
    assert far_off([float("nan"), 0.7], counts, config) == {} == far_off([1e30, 1e30], [(0, 10), (10, 10)], config)
    told = far_off([7e16, 60.0], counts, config)
    assert list(told) == ["click"] and "the loss of `click` is 7e+16, 1.25e+18 times" in told["click"]
    assert "Lower optim.dense.lr" in told["click"]
    weighted = samples.config("unused", "model.task_weights=[1000.0, 0.0]")
    assert far_off([700.0, 1e30], counts, weighted) == {}
