"""What can not be is told in one message: names torch keeps, values out of range, options that would be ignored."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.speed.report import entries_of
from dist_mtl.cli.arguments import Parser, count
from dist_mtl.config.file import MAX_BYTES, parse, read_toml
from dist_mtl.config.table_rules import TAKEN
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.suggested_config import suggestion
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]


def refused(action: Callable[..., Any], *arguments: Any) -> str:
    """The message of the ConfigError."""
    with pytest.raises(ConfigError) as caught:
        action(*arguments)
    return str(caught.value)


def script(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command, as the docs write it."""
    words = {"dist-mtl": ["-m", "dist_mtl"], "python": []}
    first, *rest = map(str, arguments)
    command = [sys.executable, *words.get(first, [first]), *rest]
    ended = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    return ended.returncode, ended.stderr


def named(table: str) -> dict[str, Any]:
    """A configuration with a table of this name and a feature that uses it."""
    tree = samples.tree("x")
    return tree | {
        "tables": tree["tables"] | {table: {"rows": 9}},
        "features": tree["features"] | {"other": {"kind": "id", "table": table}},
    }


# ---------------------------------------------------------------------------------------------------- names of tables
def test_every_public_name_of_a_module_dict_is_taken() -> None:
    here = {name for name in dir(torch.nn.ModuleDict()) if not name.startswith("_")}
    assert not here - TAKEN, "torch has new ones: add them to TAKEN"
    assert len(TAKEN - here) < 10, "many of TAKEN are no names of this torch"


@pytest.mark.parametrize(
    ("table", "instead"),
    [
        ("type", "type_"),
        ("items", "items_"),
        ("forward", "forward_"),
        ("a.b", "a_b"),
        ("_modules", "t_modules"),
        ("2nd", "t2nd"),
        ("größe", "gr__e"),
        ("a\n", "a_"),
    ],
)
def test_a_table_that_torch_could_not_hold_is_told_with_another_name(table: str, instead: str) -> None:
    said = refused(parse, named(table))
    assert f'Call it tables.{instead}, and set features.other.table = "{instead}"' in said
    assert parse(named(instead)).tables[instead].rows == 9
    torch.nn.ModuleDict({instead: torch.nn.Identity()})


def test_the_other_name_is_free() -> None:
    tree = named("type")
    tree["features"]["type_"] = {"kind": "dense"}
    assert "Call it tables.type__," in refused(parse, tree)


def test_a_bucketised_feature_names_a_table_too() -> None:
    tree = samples.tree("x")
    tree["features"]["type"] = {"kind": "bucket", "boundaries": [1.0]}
    said = refused(parse, tree)
    assert "features.type:" in said and 'Call it features.type_, with column = "type"' in said


def test_a_suggested_configuration_takes_other_names_for_its_tables(tmp_path: Path) -> None:
    names = ["type", "type_", "items", "a.items", "2nd", "_x", "plain"]
    columns = {name: [1, 2, 1, 2] * 9 for name in names} | {"buffers": np.arange(36) * 7 % 36 / 7}
    write_dataset(tmp_path / "train", [pa.table(columns | {"click": [0, 0, 1, 1] * 9})])
    config = parse(tomllib.loads(suggestion(describe(Wish(str(tmp_path / "train"))))))
    assert {feature.column or name for name, feature in config.features.items()} == {*columns}
    assert config.table_of("plain") == "plain" and config.table_of("items") == "items_"
    tables = [config.table_of(name) for name in config.features if config.table_of(name)]
    assert len({*tables}) == len(tables)


# -------------------------------------------------------------------------------------------------- values and options
@pytest.mark.parametrize(
    "override",
    [
        f"seed={10**20}",
        f"seed={-(10**20)}",
        f"tables.user.rows={10**23}",
        f"tables.user.rows={2**43 + 1}",
        f"tables.user.dim={10**9 * 4}",
        f"train.global_batch={10**30}",
        f"run.step_timeout={10**15}",
        f"run.threads={10**10}",
        "data.sample={train_rows=1, test_rows=1, num_users=9000000000}",
        "data.sample={train_rows=1, test_rows=1, num_items=9000000000}",
        f"data.sample={{train_rows=1, test_rows=1, seed={10**20}}}",
        "optim.dense.lr=1e400",
        "optim.dense.lr=1e20",
        "optim.dense.lr=11.0",
        "optim.embedding.lr=1e20",
        "optim.embedding.eps=1e-300",
        "optim.embedding.eps=1e20",
        "optim.dense={lr=0.1, weight_decay=10.0}",
        "model.task_weights=[1e30, 1.0]",
        "model.alignment={kind='fixed', weight=1e20}",
        "model.pairwise={kind='pwiser', margins=[1e20, 1.0]}",
    ],
)
def test_a_value_out_of_range_is_told(override: str) -> None:
    said = refused(parse, samples.tree("x"), [override])
    assert override.partition("=")[0] in said and len(said.splitlines()) == 1


def test_the_extremes_themselves_are_fine() -> None:
    config = parse(samples.tree("x"), [f"seed={-(2**63)}", f"tables.user.rows={2**43}"])
    assert parse(config.model_dump(mode="json")) == config


def test_eps_with_sgd_is_told_and_a_dump_is_not_mistaken_for_it() -> None:
    assert "optim.embedding.eps" in refused(parse, samples.tree("x"), ["optim.embedding={kind='sgd', eps=1e-8}"])
    config = parse(samples.tree("x"), ["optim.embedding.kind='sgd'"])
    assert parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("test", ["x/train", "x//train/", "./x/train"])
def test_the_train_rows_are_no_test_rows(test: str) -> None:
    assert "data.test" in refused(parse, samples.tree("x"), [f"data.test='{test}'"])


def test_a_file_without_end_is_not_read_to_the_end(tmp_path: Path) -> None:
    assert "no regular file" in refused(read_toml, "/dev/zero")
    (tmp_path / "large.toml").touch()
    with (tmp_path / "large.toml").open("r+b") as file:
        file.truncate(2**40)  # sparse: it would not fit in memory
    said = refused(read_toml, tmp_path / "large.toml")
    assert f"{2**40:,} bytes, of which there may be at most {MAX_BYTES:,}" in said


@pytest.mark.parametrize(
    ("only", "ranks", "says"),
    [
        ("lodaer", 1, "did you mean `loader`?"),
        ("torch-rechub", 1, "--rechub PYTHON"),
        ("torch-rechub", 2, "--ranks 1"),
        ("plain", 2, "--ranks 1"),
    ],
)
def test_only_a_contender_that_can_run(only: str, ranks: int, says: str) -> None:
    said = refused(entries_of, ranks, 1, False, ["step", only])
    assert f"--only {only}: " in said and says in said
    assert [entry.name for entry in entries_of(1, 2, True, ["torch-rechub", "plain"])] == ["plain", "torch-rechub"]


# ------------------------------------------------------------------------------------------------------ command lines
@pytest.mark.parametrize("text", ["inf", "1e400", "nan", "0", "-1", "1.5", "1e300", "many"])
def test_a_count_is_a_whole_number(text: str) -> None:
    parser = Parser(prog="launch/x.py")
    parser.add_argument("--rows", type=count)
    said = refused(parser.parse_args, ["--rows", text])
    assert "--rows" in said and "usage: launch/x.py" in said and len(said.splitlines()) == 2
    assert parser.parse_args(["--rows", "1e6"]).rows == 1_000_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("launch/train.py --epochs=3", "unrecognized arguments: --epochs=3"),
        ("dist-mtl evaluate", "required: run"),
        ("python -m benchmarks.speed --steps 0", "--steps"),
        ("dist-mtl convert", "required: source"),
        ("dist-mtl convert csv a.csv out --click c", "the other label with --conversion"),
        ("dist-mtl convert csv a.csv out --click c --conversion v --test-share 3", "between 0 and 1"),
        ("dist-mtl convert csv a.csv out --click c --conversion v --split-by u --test-share 3", "between 0 and 1"),
        ("dist-mtl convert csv a.csv out --click c --conversion v --split-by u --test-share 1", "between 0 and 1"),
        ("dist-mtl convert movielens src out --kept 0", "above 0 and at most 1"),
        ("dist-mtl convert movielens src out --kept nan", "above 0 and at most 1"),
        ("dist-mtl synthesize OUT --rows inf", "--rows"),
        ("dist-mtl synthesize OUT --kind benchmark --ctr 2", "--ctr 2.0: Input should be less than 1"),
        ("dist-mtl synthesize OUT --kind benchmark --ids 0", "--ids 0: "),
        ("dist-mtl synthesize OUT --kind benchmark --users 9", "--users belongs to --kind shop"),
        ("dist-mtl synthesize OUT --dense 9", "--dense belongs to --kind benchmark"),
        ("dist-mtl synthesize OUT --users 9e9", "--users 9000000000: "),
        ("dist-mtl synthesize OUT --seed 100000000000000000000", "--seed 100000000000000000000: "),
    ],
)
def test_a_wrong_command_line_is_a_configuration_error(arguments: str, says: str) -> None:
    code, said = script(*arguments.split())
    assert code == ConfigError.exit_code, said
    assert says in said and all(line.startswith("error: ") for line in said.splitlines()), said


# -------------------------------------------------------------------------------------------------------- dictionaries
WORDS = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 1], pa.int32()), pa.array(["a", None, "b"]))
NUMBERS = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 1], pa.int8()), pa.array([5, None, 0]))


def encoder(kind: str, policy: str) -> Encoder:
    """One feature x on a table of 10 rows."""
    feature = {"kind": kind, "table": "t", "policy": policy}
    tree = {"run": {"dir": "r"}, "data": {"train": "d"}, "tables": {"t": {"rows": 10}}, "features": {"x": feature}}
    return Encoder(parse(tree))


@pytest.mark.parametrize(("column", "policy"), [(WORDS, "hash"), (NUMBERS, "hash"), (NUMBERS, "clamp")])
def test_a_null_among_the_values_of_a_dictionary_is_no_id(column: pa.Array, policy: str) -> None:
    label = np.zeros(len(column), np.int8)
    table = pa.table({"x": column, "click": label, "conversion": label})
    ids = encoder("id", policy).encode(table, str).singles_NS[:-1, 0]
    assert (ids == NO_ID).tolist() == [False, True, True, False, True]


def test_a_null_among_the_values_of_a_dictionary_is_refused_in_a_bag() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), WORDS)
    label = np.zeros(2, np.int8)
    with pytest.raises(DataError, match="row 1: .*null inside the list"):
        encoder("bag", "hash").encode(
            pa.table({"x": lists, "click": label, "conversion": label}), lambda row: f"row {row}"
        )
