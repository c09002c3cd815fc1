"""Bad input ends with its exit code and one clear message, never a traceback; on several ranks it is told once.

Every case runs the script that a user runs. Most do so in a forked rank (see harness), a few in a process of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.data.files.writer import write_dataset
from tests.support import samples
from tests.support.harness import ROOT, Exit, events, run_script

ROWS = 200
GOOD = samples.logs(ROWS)


def with_column(name: str, values: pa.Array | list) -> pa.Table:
    """The good logs with one column replaced."""
    return GOOD.set_column(GOOD.schema.get_field_index(name), name, pa.array(values))


def with_value(name: str, row: int, value: object) -> pa.Table:
    """The good logs with one value replaced."""
    values = GOOD[name].to_pylist()
    values[row] = value
    return with_column(name, values)


@pytest.fixture
def train(tmp_path: Path) -> Callable:
    """launch/train.py on `table` (or what is there), with overrides, on `world` ranks."""

    def run(*overrides: str, table: pa.Table | None = GOOD, world: int = 1, group_rows: int = 50) -> list[Exit]:
        if table is not None:
            write_dataset(tmp_path / "train", [table], file_rows=100, row_group_rows=group_rows)
        path = samples.write_toml(tmp_path / "run.toml", samples.tree(tmp_path))
        return run_script(world, "train.py", str(path), *(f"--set={text}" for text in overrides))

    return run


def assert_told(exits: list[Exit], code: int, *words: str) -> str:
    """Every rank ends with `code`; the first one says `words`, the others nothing. Returns what was said."""
    told = [line for line in exits[0].stderr.splitlines() if line.startswith("error: ")]
    assert [e.code for e in exits] == [code] * len(exits), [e.stderr for e in exits]
    assert told and all(word in "\n".join(told) for word in words), exits[0].stderr
    assert all("Traceback" not in e.stderr + e.stdout and "Warning" not in e.stderr for e in exits)
    assert [e.stderr + e.stdout for e in exits[1:]] == [""] * (len(exits) - 1)
    return "\n".join(told)


CONFIGURATIONS = [
    ("train.global_bach=32", "train.global_bach is not a key; did you mean `global_batch`?"),
    ("feature.user.kind='id'", "did you mean `features`?"),
    ("model.backbone.expert=3", "model.backbone.expert is not a key; did you mean `experts`?"),
    ("train.epochs='two'", "train.epochs: Input should be a valid integer; got 'two'"),
    ("train.epochs=0", "train.epochs: Input should be greater than 0; got 0"),
    ("optim.embedding.kind='adam'", "no CPU kernel"),
    ("tables.user.sharding='column_wise'", "tables.user: column_wise would change the maths of rowwise_adagrad"),
    ("features.user.table='uesr'", "features.user: there is no table `uesr`; did you mean `user`?"),
    ("features.user.column='click'", "column `click` is a label"),
    ("nonsense", "write it as --set=section.key=value"),
]


@pytest.mark.parametrize(("override", "words"), CONFIGURATIONS, ids=[o for o, _ in CONFIGURATIONS])
def test_a_wrong_configuration(train: Callable, override: str, words: str) -> None:
    assert_told(train(override), 64, words)


def test_a_missing_configuration_names_the_nearest(tmp_path: Path) -> None:
    samples.write_toml(tmp_path / "quick.toml", samples.tree(tmp_path))
    assert_told(run_script(1, "train.py", str(tmp_path / "quik.toml")), 64, "No such file", "quick.toml")


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    for number, text in enumerate(
        [b"a = ", b"\xff\xfe\x00", b"[a]\na = 1\na = 2", b"a = " + b"9" * 5000, b"[" * 10_000]
    ):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(text)
        assert_told(run_script(1, "train.py", str(path)), 64, f"{number}.toml: not TOML")


def test_a_world_that_does_not_divide_the_batch(train: Callable) -> None:
    told = assert_told(train(world=3), 64, "train.global_batch = 64 can not be cut evenly over 3 ranks; use 63 or 66")
    assert told.count("\n") == 0


def test_a_run_folder_that_can_not_be_made(train: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_told(train(f"run.dir='{tmp_path / 'file' / 'run'}'", world=2), 64, "run.dir", "Not a directory")


TABLES = [
    ("no column", GOOD.drop_columns(["conversion"]).append_column("conversions", GOOD["conversion"]), [
        "there is no column `conversion`. did you mean `conversions`?"]),
    ("two columns", GOOD.append_column("user", GOOD["user"]), ["there are 2 columns `user`"]),
    ("id is float", with_column("user", np.ones(ROWS)), ["column `user` is double, but features.user needs integers"]),
    ("string to clamp", with_column("item", ["a"] * ROWS), ["features.item with policy `clamp` needs integers"]),
    ("list is flat", with_column("history", np.ones(ROWS, int)), ["features.history needs a list of ids"]),
    ("number is string", with_column("price", ["1"] * ROWS), ["features.price needs numbers"]),
    ("label is string", with_column("click", ["1"] * ROWS), ["column `click` is string, but a label needs 0/1"]),
    ("label 2", with_value("click", 150, 2), ["part-00001.parquet, row 50: label `click` is 2, not 0 or 1"]),
    ("label null", with_value("click", 7, None), ["part-00000.parquet, row 7: `click` is null"]),
    ("number infinite", with_value("price", 3, np.inf), ["row 3: features.price is inf, no number; set `clip`"]),
    ("weights short", with_value("history_weight", 9, [0.5] * 9), ["row 9: `history_weight` is not as long"]),
    ("weight NaN", with_value("history_weight", 4, [np.nan] * len(GOOD["history"][4])), ["row 4: `history_weight` is"]),
    ("null in list", with_value("history", 4, [None] * len(GOOD["history"][4])), ["row 4: features.history: a null"]),
    ("no rows", GOOD.slice(0, 0), ["the dataset is empty (0 rows)"]),
]  # fmt: skip


@pytest.mark.parametrize(("table", "words"), [t[1:] for t in TABLES], ids=[t[0] for t in TABLES])
def test_wrong_data(train: Callable, table: pa.Table, words: list[str]) -> None:
    assert_told(train("data.shuffle=false", table=table), 65, *words)


def test_a_conversion_without_a_click_is_refused_or_dropped(train: Callable, tmp_path: Path) -> None:
    clicks = GOOD["click"].to_pylist()
    rows = [i for i, click in enumerate(clicks) if not click][:5]
    broken = with_column("conversion", [1 if i in rows else c for i, c in enumerate(GOOD["conversion"].to_pylist())])
    assert_told(train(table=broken, world=2), 65, "`conversion` is 1 where `click` is 0", "data.violations = 'drop'")
    [first, second] = train("data.violations='drop'", "train.epochs=3", table=None, world=2)
    assert (first.code, second.code) == (0, 0), first.stderr
    assert events(tmp_path / "run", "counts")[0]["dropped"] == 3 * len(rows)
    assert f"{3 * len(rows)} rows dropped" in first.stderr


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Apply `change` to the manifest."""
    tree = json.loads((folder / "_manifest.json").read_text())
    change(tree)
    (folder / "_manifest.json").write_text(json.dumps(tree))


def flip(path: Path, place: int) -> None:
    """Change one bit, and neither the size nor the name."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


SECOND = "part-00001.parquet"  # which rank 1 verifies
DAMAGES = {
    "missing file": (lambda f: (f / SECOND).unlink(), f"{SECOND}: the manifest lists it, but it is missing"),
    "changed byte": (
        lambda f: flip(f / SECOND, 200),
        f"{SECOND}: changed since the manifest was written (sha256 differs)",
    ),
    "truncated": (
        lambda f: os.truncate(f / SECOND, 1000),
        f"{SECOND}: changed since the manifest was written (1000 bytes",
    ),
    "no manifest": (lambda f: (f / "_manifest.json").unlink(), "dist-mtl convert manifest"),
    "broken manifest": (lambda f: (f / "_manifest.json").write_text("{"), "manifest.json: not a manifest: "),
    "newer manifest": (
        lambda f: edit_manifest(f, lambda m: m.update(version=9)),
        "format version 9; this program knows 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_datasets(train: Callable, tmp_path: Path, damage: str) -> None:
    write_dataset(tmp_path / "train", [GOOD], file_rows=100, row_group_rows=50)
    change, words = DAMAGES[damage]
    change(tmp_path / "train")
    told = assert_told(train(table=None, world=2), 65, words)
    assert told.count("\n") == 0
    assert not events(tmp_path / "run", "step")


def test_a_missing_test_set_is_told_before_training(train: Callable, tmp_path: Path) -> None:
    assert_told(train(f"data.test='{tmp_path / 'test'}'", world=2), 65, "test/_manifest.json: there is no such file")
    assert not events(tmp_path / "run", "step")


def test_a_fault_that_only_rank_1_meets_in_mid_run(train: Callable, tmp_path: Path) -> None:
    """Row 171 is in the third window of 64 rows, in rank 1's half: two steps are trained, then both ranks end alike."""
    bad = with_value("history", 171, [999] * len(GOOD["history"][171]))
    exits = train("data.shuffle=false", "data.shuffle_rows=64", table=bad, world=2)
    told = assert_told(exits, 65, f"rank 1: {tmp_path / 'train' / SECOND}, row 71: features.history: id 999 is outside")
    assert told.count("\n") == 0
    assert [e["step"] for e in events(tmp_path / "run", "step")] == [1, 2]


def test_a_bad_label_is_found_before_the_first_step(train: Callable, tmp_path: Path) -> None:
    """Labels are counted at the start."""
    exits = train("data.shuffle=false", "data.shuffle_rows=64", table=with_value("click", 170, 3), world=2)
    assert_told(exits, 65, f"{tmp_path / 'train' / SECOND}, row 70: label `click` is 3, not 0 or 1")
    assert not events(tmp_path / "run", "step")


def test_a_damaged_page_in_mid_run(train: Callable, tmp_path: Path) -> None:
    """With `verify = 'footer'` nothing is hashed at the start; the page's checksum still refuses silent damage."""
    write_dataset(tmp_path / "train", [GOOD], file_rows=100, row_group_rows=50)
    flip(tmp_path / "train" / SECOND, 300)
    options = ("data.shuffle=false", "data.shuffle_rows=64", "data.verify='footer'")
    assert_told(train(*options, table=None, world=2), 65, f"{SECOND}, row group 0: damaged or unreadable", "restore")
    assert [e["step"] for e in events(tmp_path / "run", "step")] == [1]


def test_a_loss_that_is_not_finite(train: Callable, tmp_path: Path) -> None:
    """A value whose square overflows float32, in the third step: told with the step, and never committed."""
    options = ("model.head=ctcvr", "features.price={kind='dense'}", "data.shuffle=false", "train.checkpoint_every=1")
    told = assert_told(train(*options, table=with_value("price", 150, 1e37), world=2), 65, "step ", "optim.dense.lr")
    assert "not finite" in told
    last = events(tmp_path / "run", "step")[-1]["step"]
    assert f"error: step {last + 1}: the losses are" in told
    assert max((e["step"] for e in events(tmp_path / "run", "commit")), default=0) <= last


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [("train.epoch=2", 64, "did you mean `epochs`?"), ("features.user.column='usr'", 65, "did you mean `user`?")],
)
def test_as_a_process_of_its_own(tmp_path: Path, override: str, code: int, words: str) -> None:
    """Nothing but the message on stderr, when the interpreter is fresh and the folder is another one."""
    samples.write_logs(tmp_path / "train", ROWS)
    path = samples.write_toml(tmp_path / "run.toml", samples.tree(tmp_path))
    command = [sys.executable, str(ROOT / "launch" / "train.py"), str(path), f"--set={override}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr and done.stdout == ""
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
