"""The second day: `convert csv --like RUN new.csv`, then `predict`. Scored as training would, or refused by name."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.cli.arguments import Parser
from dist_mtl.cli.convert import add_csv, convert_csv
from dist_mtl.config.file import parse
from dist_mtl.errors import ConfigError, DataError, DistMtlError
from dist_mtl.scoring.predict import predict_run
from tests.support.harness import Cluster, run_script, run_verb
from tests.support.samples import rows_of
from tests.support.score_workers import whole

COLUMNS = ("request", "user", "shop", "price", "age", "tags", "seen", "day", "click", "conversion")
BAGS = ("--bag=tags:|", "--bag=seen:|")
Row = dict[str, str]


def rows(count: int, seed: int) -> list[Row]:
    """Impressions as texts. `age` is often absent, `seen` is a list of whole numbers."""
    draw = np.random.default_rng(seed)
    made = []
    for k in range(count):
        click = draw.random() < 0.4
        cells = (
            seed * 10**6 + k,
            draw.integers(10**12, 10**12 + 50),
            draw.choice(["NA", "null", "north", "007"]),
            f"{draw.lognormal():.4f}",
            "" if draw.random() < 0.5 else draw.integers(18, 80),
            "|".join(f"t{t}" for t in draw.integers(0, 9, draw.integers(0, 4))),
            "|".join(str(t) for t in draw.integers(0, 99, draw.integers(0, 3))),
            f"2024-01-0{1 + k % 9}",
            int(click),
            int(click and draw.random() < 0.5),
        )
        made.append(dict(zip(COLUMNS, map(str, cells), strict=True)))
    return made


def write(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS, delimiter: str = ",") -> str:
    """The rows as a CSV of these columns; one that they do not have is empty."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows([row.get(name, "") for name in columns] for row in rows)
    return str(path)


def convert(*arguments: object) -> None:
    parser = Parser()
    add_csv(parser.add_subparsers())
    convert_csv(parser.parse_args(["csv", *map(str, arguments), "--jobs=1"]))


def scores(folder: Path, name: str) -> pa.Table:
    """What the run says of a dataset."""
    Cluster(1).run(predict_run, str(folder / "run"), str(folder / name / "train"), str(folder / f"{name}-scores"))
    return rows_of(folder / f"{name}-scores").select(["p_ctr", "p_cvr", "p_ctcvr"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the first day, and the second day converted with its labels."""
    folder = tmp_path_factory.mktemp("days")
    first = write(folder / "first.csv", rows(600, 1))
    labels = ("--click=click", "--conversion=conversion")
    convert(first, folder / "first", *labels, *BAGS, "--type=seen=int64", "--type=day=date", "--id=shop")
    features = {
        "user": {"kind": "id"},
        "shop": {"kind": "id"},
        "price": {"kind": "dense", "log": True},
        "age": {"kind": "dense", "null": "indicator"},
        "tags": {"kind": "bag"},
        "seen": {"kind": "bag"},
        "day": {"kind": "id"},
    }
    tables = {name: {"rows": 100, "dim": 4} for name, f in features.items() if f["kind"] != "dense"}
    tree = {
        "run": {"dir": str(folder / "run")},
        "data": {"train": str(folder / "first/train"), "labels": ["click", "conversion"]},
        "features": features,
        "tables": tables,
        "train": {"global_batch": 64, "epochs": 1},
    }
    Cluster(1).run(whole, parse(tree))
    convert(write(folder / "second.csv", rows(200, 2)), folder / "second", "--like", folder / "run", *BAGS)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> pa.Table:
    return scores(folder, "second")


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in COLUMNS if name not in names)


SCORED: dict[str, tuple[Callable[[Path], str], tuple[str, ...], str]] = {
    # what: (the file, options, what is said)
    "without labels": (
        lambda path: write(path, rows(200, 2), without("click", "conversion")),
        (),
        "no column `click`, `conversion`: the rows can be scored",
    ),
    "empty labels": (
        lambda path: write(path, [row | {"click": "", "conversion": ""} for row in rows(200, 2)]),
        (),
        "`click`, `conversion`: left out, for all rows are empty there",
    ),
    "labels unwanted": (
        lambda path: write(path, [row | {"conversion": ""} for row in rows(200, 2)]),
        ("--unlabelled",),
        "`click`, `conversion`: left out (--unlabelled)",
    ),
    "another order": (lambda path: write(path, rows(200, 2), COLUMNS[::-1]), (), "200 rows read"),
    "tabs": (lambda path: write(path, rows(200, 2), delimiter="\t"), ("--delimiter=tab",), "200 rows read"),
    "new columns": (
        lambda path: write(path, [row | {"colour": "red"} for row in rows(200, 2)], (*COLUMNS, "colour")),
        (),
        "`colour`: left out",
    ),
    "a column that no feature reads is missing": (
        lambda path: write(path, rows(200, 2), without("request")),
        (),
        "`request`: not in these files, and not needed",
    ),
    "nulls that are spelt": (
        lambda path: write(path, [row | {"age": row["age"] or "?"} for row in rows(200, 2)]),
        ("--null=?",),
        "200 rows read",
    ),
}


@pytest.mark.parametrize("name", SCORED)
def test_the_same_rows_get_the_same_scores(
    name: str, folder: Path, expected: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options, says = SCORED[name]
    out = name.replace(" ", "-")
    convert(make(folder / f"{out}.csv"), folder / out, "--like", folder / "run", *BAGS, *options)
    said = capsys.readouterr().out
    assert says in said and "dist-mtl predict" in said
    assert scores(folder, out).equals(expected)


def test_columns_without_a_value_have_the_types_of_training(folder: Path) -> None:
    """Alone, a file would give no type for them; the run scores them as missing."""
    empty = dict.fromkeys(("user", "age", "tags", "seen", "day", "shop"), "")
    convert(
        write(folder / "empty.csv", [row | empty for row in rows(50, 2)]), folder / "empty", "--like", folder / "run",
        *BAGS,
    )  # fmt: skip
    made, trained = rows_of(folder / "empty/train"), rows_of(folder / "first/train")
    assert made.schema.equals(trained.schema, check_metadata=False) and made["user"].null_count == 50
    assert scores(folder, "empty").num_rows == 50


def test_a_dataset_is_a_pattern_as_its_run_is(folder: Path, expected: pa.Table) -> None:
    """Its labels are known, too; a dataset of it has the same columns, so that both can be trained on."""
    unlabelled = write(folder / "by-data.csv", rows(200, 2), without("click", "conversion"))
    convert(unlabelled, folder / "by-data", "--like", folder / "first/train", *BAGS)
    assert scores(folder, "by-data").equals(expected)
    convert(folder / "second.csv", folder / "again", "--like", folder / "first/train", *BAGS)
    assert rows_of(folder / "again/train").schema.equals(rows_of(folder / "first/train").schema, check_metadata=True)


def test_new_columns_can_be_kept_for_the_scores(folder: Path) -> None:
    path = write(folder / "kept.csv", [row | {"slot": "7"} for row in rows(20, 2)], (*COLUMNS, "slot"))
    convert(path, folder / "kept", "--like", folder / "run", *BAGS, "--type=slot=int64")
    assert rows_of(folder / "kept/train")["slot"].to_pylist() == [7] * 20


REFUSED: dict[str, tuple[Callable[[Path], str], tuple[str, ...], type[DistMtlError], tuple[str, ...]]] = {
    "missing columns": (
        lambda path: write(path, rows(20, 2), without("age", "shop")),
        BAGS, DataError, ("no column `shop`, `age`", "/run"),
    ),
    "a renamed column": (
        lambda path: write(path, rows(20, 2), tuple("shops" if n == "shop" else n for n in COLUMNS)),
        BAGS, DataError, ("no column `shop`", "`shop`: did you mean `shops`"),
    ),
    "one label of two": (
        lambda path: write(path, rows(20, 2), without("conversion")),
        BAGS, DataError, ("no column `conversion`, a label, but `click`", "--unlabelled"),
    ),
    "labels of some rows": (
        lambda path: write(path, [r | ({"click": ""} if k % 2 else {}) for k, r in enumerate(rows(20, 2))]),
        BAGS, DataError, ("line 3: label `click` is empty (10 of 20 rows)", "--unlabelled"),
    ),
    "text in a column of numbers": (
        lambda path: write(path, [row | {"user": "u1"} for row in rows(20, 2)]),
        BAGS, DataError, ("line 2: column `user` holds 'u1', which is no int64", "20 of 20 rows"),
    ),
    "an odd token": (
        lambda path: write(path, [*rows(20, 2), rows(1, 3)[0] | {"price": "n/a"}]),
        BAGS, DataError, ("line 22: column `price` holds 'n/a', which is no double", "1 of 21 rows", "--null=n/a"),
    ),
    "numbers that would lose digits": (
        lambda path: write(path, [row | {"user": "1.5"} for row in rows(20, 2)]),
        BAGS, DataError, ("'1.5', which is no int64",),
    ),
    "an id written otherwise": (
        lambda path: write(path, [row | {"user": f"0{row['user']}"} for row in rows(20, 2)]),
        BAGS, DataError, ("which is no int64", "20 of 20 rows"),
    ),
    "text in a list of numbers": (
        lambda path: write(path, [row | {"seen": "1|x"} for row in rows(20, 2)]),
        BAGS, DataError, ("column `seen` holds '1|x', which is no list of int64",),
    ),
    "a list without its separator": (
        lambda path: write(path, rows(20, 2)), (BAGS[0],), ConfigError, ("`seen` is a list", "--bag 'seen:|'"),
    ),
    "a bag that is none": (
        lambda path: write(path, rows(20, 2)), (*BAGS, "--bag=shop:|"), ConfigError, ("--bag shop", "no list"),
    ),
    "another type": (
        lambda path: write(path, rows(20, 2)), (*BAGS, "--id=user"), ConfigError, ("`user` is int64", "not string"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_scored_is_refused_by_name(name: str, folder: Path, tmp_path: Path) -> None:
    make, options, kind, says = REFUSED[name]
    with pytest.raises(kind) as error:
        convert(make(tmp_path / "a.csv"), tmp_path / "out", "--like", folder / "run", *options)
    assert all(part in str(error.value) for part in says), error.value
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nothing", "empty", "run"])
def test_a_pattern_that_is_none_is_refused(what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows(3, 2))
    if what != "nothing":
        (tmp_path / "pattern/checkpoints" if what == "run" else tmp_path / "pattern").mkdir(parents=True)
    with pytest.raises(DistMtlError, match="pattern"):
        convert(path, tmp_path / "out", "--like", tmp_path / "pattern")


def test_the_commands_of_the_second_day(folder: Path, expected: pa.Table) -> None:
    """As processes: exit codes, files, and no traceback."""
    new = write(folder / "commands.csv", rows(200, 2), without("click", "conversion"))
    out, run = folder / "commands", str(folder / "run")
    [done] = run_verb(1, "convert", "csv", new, str(out), "--like", run, *BAGS)
    assert done.code == 0 and f"next: dist-mtl predict {run} {out}/train SCORES" in done.stdout, done.stderr
    [done] = run_script(1, "predict.py", run, str(out / "train"), str(folder / "commands-scores"))
    assert done.code == 0, done.stderr
    assert rows_of(folder / "commands-scores").select(expected.column_names).equals(expected)
    bad = write(folder / "bad.csv", [row | {"user": "u"} for row in rows(3, 2)], without("price"))
    [done] = run_verb(1, "convert", "csv", bad, str(folder / "bad"), "--like", run, *BAGS)
    assert done.code == 65 and "no column `price`" in done.stderr and "Traceback" not in done.stderr
