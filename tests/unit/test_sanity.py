"""Mistakes that make metrics lie are told by name within the first steps: all are bugs that were met in the wild."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.loader import Dataset
from dist_mtl.data.writer import write_dataset
from dist_mtl.errors import DataError
from dist_mtl.sanity import FirstRows, decides, separates
from tests import samples

ROWS = 1_000


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
    rows = FirstRows(config, run_steps=9)
    draw = np.random.default_rng(0)
    for batch in Dataset.open(config.data.train, config, shuffle=True).batches(0, 1):
        logits = torch.from_numpy(draw.normal(size=(len(batch.weight_B), 2)).astype(np.float32))
        if alike:
            logits[:, 1] = logits[:, 0]
        if rows.add(batch, logits):
            return rows.look()
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


def test_two_tasks_with_one_label(tmp_path: Path) -> None:
    click, _ = labels()
    with pytest.raises(DataError, match="`click` and `conversion` are equal on the first 512 rows"):
        looked(tmp_path, {"conversion": click})


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
