"""What a suggestion makes of columns, of labels and of the datasets that stand beside the training rows."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DataError
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.suggested_config import suggestion

ROWS = 2_000
DRAW = np.random.default_rng(4)
CLICK = (DRAW.random(ROWS) < 0.2).astype(np.int8)
CONVERSION = CLICK * (DRAW.random(ROWS) < 0.5).astype(np.int8)
PLAIN = {"color": DRAW.integers(0, 6, ROWS), "click": CLICK, "conversion": CONVERSION}
SECONDS = 1_700_000_000 + DRAW.permutation(ROWS) * 977


def text_of(folder: Path, changes: dict[str, object], **wish: object) -> str:
    """The suggestion for rows with some columns replaced or added."""
    write_dataset(folder / "train", [pa.table(PLAIN | changes)])
    return suggestion(describe(Wish(str(folder / "train"), **wish)))


def config_of(text: str) -> Config:
    return parse(tomllib.loads(text))


def columns(config: Config) -> set[str]:
    return {column for name in config.features for column in config.columns_of(name)}


CLOCKS = {
    "seconds": SECONDS,
    "with unknown ones": np.where(np.arange(ROWS) % 90 == 0, 0, SECONDS),
    "milliseconds as floats": SECONDS * 1e3,
    "digits of a day": 20_240_100 + DRAW.integers(1, 29, ROWS),
    "digits of an hour": (14_102_000 + DRAW.integers(1, 9, ROWS) * 100) + DRAW.integers(0, 24, ROWS),
    "text of a day": [f"2024-01-{1 + i % 28:02}" for i in range(ROWS)],
    "text of a moment": [f"{1 + i % 28}/01/2024 10:{i % 60:02}" for i in range(ROWS)],
    "rising": np.cumsum(DRAW.integers(1, 9, ROWS)),
    "rising fractions": np.cumsum(DRAW.random(ROWS)),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_clock_is_no_feature_under_any_name(tmp_path: Path, kind: str) -> None:
    found = config_of(text_of(tmp_path, {"x": CLOCKS[kind]}))
    assert columns(found) == {"color"}


@pytest.mark.parametrize("name", ["user_id", "item", "sku"])
def test_an_id_that_could_be_a_time_by_its_size_is_an_id(tmp_path: Path, name: str) -> None:
    ids = 1_000_000_000 + DRAW.integers(0, 300, ROWS) * 7
    found = config_of(text_of(tmp_path, {name: ids}))
    assert found.features[name].kind == "id" and found.features[name].policy == "hash"


def test_ids_numbers_and_what_can_be_both(tmp_path: Path) -> None:
    changes = {
        "zone": DRAW.integers(0, 40, ROWS),  # few whole numbers
        "age": DRAW.integers(16, 80, ROWS),  # a measure
        "level": DRAW.integers(0, 400, ROWS),  # whole numbers that come again, of no telling name
        "gain": np.where(DRAW.random(ROWS) < 0.1, np.nan, DRAW.lognormal(0, 4, ROWS)),
        "host": [f"h{i}" for i in DRAW.integers(0, 90, ROWS)],
        "flag": DRAW.random(ROWS) < 0.5,
    }
    found = config_of(text_of(tmp_path, changes))
    kinds: dict[str, list[str]] = {}
    for name, feature in found.features.items():
        kinds.setdefault(found.columns_of(name)[0], []).append(feature.kind)
    numbers = ["dense", "bucket"]
    assert kinds == {
        "color": ["id"], "zone": ["id"], "age": numbers, "level": ["id", *numbers], "gain": numbers, "host": ["id"],
        "flag": ["id"],
    }  # fmt: skip
    assert found.features["gain"].log and found.features["gain"].null == "indicator"
    assert {feature.policy for feature in found.features.values() if feature.kind == "id"} == {"hash"}


def test_what_only_the_label_makes_is_no_feature_however_seldom(tmp_path: Path) -> None:
    some = CLICK * (DRAW.random(ROWS) < 0.3)  # only on clicks, on 3 of 10
    changes = {
        "cart": some.astype(np.int8),
        "order": pa.array(DRAW.integers(0, 10**9, ROWS), mask=some == 0),
        "dwell": np.where(some, DRAW.lognormal(3, 1, ROWS), 0.0),
        "seen": np.where(some, "yes", "no"),
        "harmless": np.where(DRAW.random(ROWS) < 0.1, "yes", "no"),
    }
    text = text_of(tmp_path, changes)
    assert columns(config_of(text)) == {"color", "harmless"}
    assert "cart: tells `click" in text


def test_a_leak_of_few_positives_is_one(tmp_path: Path) -> None:
    click = np.zeros(ROWS, np.int8)
    click[:: ROWS // 6] = 1
    text = text_of(tmp_path, {"click": click, "conversion": click * 0, "paid": click * 3.5})
    assert "paid: tells `click`" in text and config_of(text).data.labels == ("click",)


def beside(folder: Path, train: dict[str, object], other: dict[str, object], name: str = "test") -> Config:
    write_dataset(folder / name, [pa.table(PLAIN | other)])
    return config_of(text_of(folder, train))


def test_the_column_of_the_split_is_no_feature_and_a_user_who_comes_again_is(tmp_path: Path) -> None:
    mine = {"page": DRAW.integers(0, 300, ROWS), "user": [f"u{i}" for i in DRAW.integers(0, 300, ROWS)]}
    theirs = mine | {"page": DRAW.integers(300, 600, ROWS)}
    for name in ("test", "validation"):
        found = beside(tmp_path / name, mine, theirs, name)
        assert columns(found) == {"color", "user"}
        assert getattr(found.data, name) == str(tmp_path / name / name)


def test_many_values_of_a_split_are_known_by_a_sample_of_them(tmp_path: Path) -> None:
    rows = 40_000
    labels = {"click": np.arange(rows) % 5 == 0, "conversion": np.arange(rows) % 10 == 0}
    both = {"a": np.arange(rows) * 31 % 9_973, "color": np.arange(rows) % 7} | labels
    for name, first in (("train", 0), ("test", 20_000)):
        write_dataset(tmp_path / name, [pa.table(both | {"b": first + np.arange(rows) * 17 % 19_997})])
    assert columns(config_of(suggestion(describe(Wish(str(tmp_path / "train")))))) == {"a", "color"}


def test_held_out_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "test", [pa.table({"click": CLICK, "conversion": CONVERSION})])
    (tmp_path / "validation").mkdir()
    text = text_of(tmp_path, {})
    assert "# test is left out: there is no column `color`" in text and "# validation is left out: " in text
    found = config_of(text)
    assert found.data.test is None and found.data.validation is None and found.select is None


def test_an_id_of_few_rows_a_value_is_no_feature(tmp_path: Path) -> None:
    """A table would learn its rows by heart: 45,000 rows with users of 2.7 rows each lost 0.09 of AUC by it."""
    text = text_of(
        tmp_path, {"user": [f"u{i}" for i in DRAW.integers(0, 900, ROWS)], "host": DRAW.integers(0, 300, ROWS)}
    )
    assert columns(config_of(text)) == {"color", "host"} and "user: its values come in 2." in text
    alone = {"color": [f"u{i}" for i in DRAW.integers(0, 900, ROWS)]}
    assert columns(config_of(text_of(tmp_path / "alone", alone))) == {"color"}  # there is nothing else


def test_rates_fall_to_nothing_where_the_end_is_known(tmp_path: Path) -> None:
    found = beside(
        tmp_path / "a", {}, {"click": CLICK * (np.arange(ROWS) < 100), "conversion": CLICK * 0}, "validation"
    )
    assert found.select is None and found.optim.decay == "linear" and found.evaluation_steps
    assert beside(tmp_path / "b", {}, {}, "validation").optim.decay == "none"


def test_early_stopping_is_by_the_validation_rows_and_by_labels_that_these_have(tmp_path: Path) -> None:
    found = beside(tmp_path / "a", {}, {}, "validation")
    assert set(found.select.metrics) == {"ctr.auc", "ctcvr.auc"} and found.evaluation_steps
    few = np.where(np.cumsum(CONVERSION) <= 9, CONVERSION, 0)  # fewer than say something
    found = beside(tmp_path / "b", {}, {"conversion": few}, "validation")
    assert set(found.select.metrics) == {"ctr.auc"}
    found = beside(tmp_path / "c", {}, {}, "test")
    assert found.select is None and found.evaluation_steps is None  # never by the test rows


@pytest.mark.parametrize(
    ("labels", "wish", "kept"),
    [
        ({"conversion": CLICK * 0}, {}, ("click",)),
        ({"conversion": CLICK}, {}, ("click",)),  # one task twice
        ({"click": CLICK * 0 + 1}, {}, ("conversion",)),
        ({"conversion": CLICK}, {"labels": ("click", "conversion"), "funnel": False}, ("click",)),
        ({}, {"labels": ("click", "conversion"), "funnel": False}, ("click", "conversion")),
        ({"conversion": 1 - CLICK}, {}, ("click", "conversion")),  # no funnel, whatever was said
    ],
)
def test_labels_that_teach_nothing_are_left_out(
    tmp_path: Path, labels: dict[str, np.ndarray], wish: dict[str, object], kept: tuple[str, ...]
) -> None:
    found = config_of(text_of(tmp_path, labels, **wish))
    assert found.data.labels == kept


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"click": CLICK * 0, "conversion": CLICK * 0}, "nothing to learn"),
        ({"click": pa.array(CLICK, mask=CLICK == 1)}, "`click` is null or neither 0 nor 1 in"),
        ({"color": CLICK}, "no column can be a feature: color: tells `click"),
        ({"color": ["x"] * ROWS}, "color: one value only"),
    ],
)
def test_rows_that_nothing_can_be_trained_on_are_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(DataError, match="no configuration can be suggested") as caught:
        text_of(tmp_path, changes)
    assert says in str(caught.value)


def test_every_dataset_and_choice_has_a_run_folder_of_its_own(tmp_path: Path) -> None:
    folders = {config_of(text_of(tmp_path / name, {})).run.dir for name in ("a", "b")}
    folders.add(config_of(text_of(tmp_path / "c/a", {"color": CLICK[::-1].copy()})).run.dir)
    shutil.rmtree(tmp_path / "a/train")
    folders.add(config_of(text_of(tmp_path / "a", {"color": PLAIN["color"][::-1]})).run.dir)  # other rows, same place
    assert len(folders) == 4 and all(folder.startswith(("runs/a-", "runs/b-")) for folder in folders)
