"""Anyone's CSV becomes datasets and a suggested configuration; bad input is told by file, column and row."""

import gzip
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.cli.arguments import Parser
from dist_mtl.cli.convert import add_csv, csv_of, split_of
from dist_mtl.config.file import parse
from dist_mtl.data.cardinality import KEPT, Distinct, hashes_of
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import lines, tabular
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.suggested_config import suggestion
from tests.support.samples import rows_of

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def clicks(path: Path, rows: int = 3_000, seed: int = 0) -> str:
    """A CSV with a text id, an int id, a float, a heavy-tailed float, a bag, a day and both labels."""
    rng = np.random.default_rng(seed)
    click = rng.random(rows) < 0.3
    sale = click & (rng.random(rows) < 0.3)
    lines = [
        f"u{rng.integers(200)},{rng.integers(900)},{rng.normal():.4f},{np.exp(4 * rng.normal()):.4f},"
        f"{'|'.join(f't{t}' for t in rng.integers(0, 30, rng.integers(0, 4)))},2024-01-0{1 + k % 9},"
        f"{k},{int(c)},{int(s)}\n"
        for k, (c, s) in enumerate(zip(click, sale, strict=True))
    ]
    return write(path, "user,ad,score,amount,tags,day,request id,clicked,bought\n" + "".join(lines))


CSV = {"click": "clicked", "conversion": "bought", "bags": {"tags": "|"}}


# ------------------------------------------------------------------------------------------------------------- csv
def test_csv_becomes_two_datasets_that_hold_every_row_once(tmp_path: Path) -> None:
    path = clicks(tmp_path / "a.csv")
    made = tabular.convert(tabular.Csv((path,), **CSV), tabular.Split(by="user"), tmp_path / "out")
    train, test = rows_of(tmp_path / "out/train"), rows_of(tmp_path / "out/test")
    assert made.train == manifest.read(tmp_path / "out/train") and made.test == manifest.read(tmp_path / "out/test")
    assert sorted(train["request id"].to_pylist() + test["request id"].to_pylist()) == list(range(3_000))
    assert not set(train["user"].to_pylist()) & set(test["user"].to_pylist())
    assert 0.12 < test.num_rows / 3_000 < 0.28
    assert made.train.schema == {
        "user": "string", "ad": "int64", "score": "double", "amount": "double", "tags": "list<element: string>",
        "day": "string", "request id": "int64", "clicked": "int8", "bought": "int8",
    }  # fmt: skip
    first = (tmp_path / "a.csv").read_text().splitlines()[1].split(",")
    both = pa.concat_tables([train, test]).sort_by("request id").slice(0, 1).to_pylist()[0]
    assert both["tags"] == [t for t in first[4].split("|") if t] and both["user"] == first[0]


def test_csv_blocks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tabular.Csv((clicks(tmp_path / "a.csv"), clicks(tmp_path / "b.csv", seed=1)), **CSV)
    tabular.convert(source, tabular.Split(by="user"), tmp_path / "whole")
    monkeypatch.setattr(lines, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 50_000)
    small = tabular.convert(source, tabular.Split(by="user"), tmp_path / "blocks")
    assert rows_of(tmp_path / "whole/train").equals(rows_of(tmp_path / "blocks/train"))
    assert small.train.num_rows + small.test.num_rows == 6_000 and len(small.train.files) > 4


def test_csv_reads_gzip_tabs_and_test_files_of_their_own(tmp_path: Path) -> None:
    text = Path(clicks(tmp_path / "a.csv", rows=50)).read_text().replace(",", "\t")
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as stream:
        stream.write(text)
    source = tabular.Csv((str(tmp_path / "a.tsv.gz"),), delimiter="\t", **CSV)
    made = tabular.convert(source, tabular.Split(test_paths=source.paths), tmp_path / "out")
    assert made.train.num_rows == made.test.num_rows == 50
    alone = tabular.convert(source, tabular.Split(), tmp_path / "alone")
    assert alone.test is None and not (tmp_path / "alone/test").exists()


def suggested(folder: Path) -> str:
    """What `describe FOLDER/train --suggest` writes."""
    return suggestion(describe(Wish(str(folder / "train"))))


def test_csv_suggests_a_configuration_that_loads(tmp_path: Path) -> None:
    path = clicks(tmp_path / "a.csv", rows=6_000)
    tabular.convert(tabular.Csv((path,), **CSV), tabular.Split(by="user", validation=0.1), tmp_path / "out")
    text = suggested(tmp_path / "out")
    config = parse(tomllib.loads(text))
    assert config.data.labels == ("clicked", "bought") and config.data.train == str(tmp_path / "out/train")
    assert config.data.test == str(tmp_path / "out/test") and config.data.validation == str(tmp_path / "out/validation")
    kinds = {name: feature.kind for name, feature in config.features.items()}
    assert kinds["ad"] == "id" and kinds["score"] == kinds["amount"] == "dense" and kinds["tags"] == "bag"
    assert config.features["amount"].log and not config.features["score"].log
    assert config.tables["ad"].rows >= 900 and config.tables["tags"].rows >= 30
    assert config.features["tags"].max_length == 3
    assert not {"user", "day", "request_id"} & kinds.keys()  # split by it; tells the time; unique a row
    assert "request id: tells when the row happened, or counts the rows" in text
    assert "user: its values are not those of" in text


def test_suggested_names_are_valid_and_distinct(tmp_path: Path) -> None:
    names = ["a.b", "a b", "a_b", 'q"x', "größe", "", "line\nend", "del\x7f", "😀", "kind", "a_b_number"]
    columns = {name: pa.array([1, 2] * 20) for name in (*names, "n_bucket")} | {"n": np.arange(40) * 7 % 40 / 7}
    table = pa.table(columns | {"c": [0, 0, 1, 1] * 10, "v": [0, 0, 1, 0, 0, 0, 0, 1] * 5})
    write_dataset(tmp_path / "train", [table])
    config = parse(tomllib.loads(suggestion(describe(Wish(str(tmp_path / "train"), labels=("c", "v"))))))
    assert {feature.column or name for name, feature in config.features.items()} == {*columns} - {""}


def test_cardinality_is_exact_below_the_sketch_and_close_above() -> None:
    for distinct in (100, KEPT - 1, 300_000):
        seen = Distinct()
        for _ in range(2):
            seen.add(hashes_of(pa.array(np.arange(distinct) * 977)))
        assert seen.count == pytest.approx(distinct, rel=0.05 if distinct > KEPT else 0)


def test_a_conversion_without_a_click_is_kept_counted_and_answered_by_a_policy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,c,v\n" + "1,0,1\n" + "2,1,1\n1,0,0\n1,1,0\n2,1,0\n2,0,0\n" * 20)
    made = tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    [(count, first)] = made.tally.notes.values()
    assert made.train.num_rows == 101 and count == 1 and str(first).endswith("line 2")
    assert parse(tomllib.loads(suggested(tmp_path / "out"))).data.violations == "drop"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,c,v\n1,0,0\n2,2,0\n", ["a.csv, line 3: label `c`", "'2', not 0 or 1 (1 of 2 rows)"]),
        ("x,c,v\n1,0,0\n2,1,\n", ["a.csv, line 3: label `v`", "is empty"]),
        ("x,c,v\n1,no,0\n", ["label `c` is 'no'", "not 0 or 1", "with --click 'c=TEXT'"]),
        ("x,click,v\n1,0,0\n", ["no column `c`", "the label"]),
        ("x,c,v\n1,0\n", ["Expected 3 columns, got 2"]),
        ("x,x,c,v\n1,1,0,0\n", ["x more than once"]),
        ("", ["a.csv: empty, it has not even a header"]),
        ("x,c,v\n", ["no rows"]),
    ],
)
def test_bad_csv_is_told(tmp_path: Path, text: str, says: list[str]) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError) as error:
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    assert all(part in str(error.value) for part in says), error.value
    assert not (tmp_path / "out/train").exists()


def test_a_value_of_another_type_later_makes_text_or_is_refused_by_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1_000)
    path = write(tmp_path / "a.csv", "x,c,v\n" + "1,0,0\n" * 1_000 + "A9,0,0\n")
    given = tabular.Csv((path,), "c", "v", types={"x": pa.int64()})
    with pytest.raises(DataError, match=r"a.csv, line 1,002: column `x` holds 'A9', which is no int64.*--id x"):
        tabular.convert(given, tabular.Split(), tmp_path / "out")
    made = tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    assert made.train.schema["x"] == "string" and made.train.num_rows == 1_001
    assert "1,000 of 1,001 values are numbers" in made.remarks[0]


def test_a_label_is_told_by_its_row_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1_000)
    path = write(tmp_path / "a.csv", "x,c,v\n" + "1,0,0\n" * 1_000 + "1,7,0\n")
    with pytest.raises(DataError, match=r"line 1,002: label `c` is '7', not 0 or 1"):
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")


@pytest.mark.parametrize("block", [50, 57, 64, 4_000])
@pytest.mark.parametrize("row", ['0,0,"a{i}\n1,1,b{i}"\n', '0,0,"a{i}\n\n"\n', '0,0,"a{i}\n'])
def test_a_line_end_in_quotes_is_refused_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, row: str
) -> None:
    """Else what follows it would be rows of their own, with labels that nobody gave: here conversions."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    path = write(tmp_path / "a.csv", "c,v,x\n" + "".join(row.format(i=i) for i in range(200)))
    with pytest.raises(DataError, match=r"a.csv, line 2: column `x`: a quote opens, and the line ends within it"):
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")


def test_quotes_hide_separators_and_nothing_between_two_is_no_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'x,n,c,v\n"a,|b|",1,0,0\n|,2,1,0\n,3,0,0\n"a ""q""||c",4,0,0\n')
    tabular.convert(tabular.Csv((path,), "c", "v", bags={"x": "|"}), tabular.Split(), tmp_path / "out")
    assert rows_of(tmp_path / "out/train")["x"].to_pylist() == [["a,", "b"], [], [], ['a "q"', "c"]]


def test_infinities_leave_the_suggestion_valid(tmp_path: Path) -> None:
    text = "".join(f"{i * 37 % 200 / 7},{i % 30},{i % 4 // 3},0\n" for i in range(200))
    path = write(tmp_path / "a.csv", "x,id,c,v\n" + text + "inf,1,1,0\n-inf,1,1,1\n")
    tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    features = parse(tomllib.loads(suggested(tmp_path / "out"))).features
    assert features["x"].clip == (0.0, 199 / 7) and "id" in features


def test_validation_rows_come_out_of_train_and_share_no_user(tmp_path: Path) -> None:
    """The test split is the one without a validation split, to the row; the three share no user."""
    source = tabular.Csv((clicks(tmp_path / "a.csv"),), **CSV)
    plain = tabular.convert(source, tabular.Split(by="user"), tmp_path / "plain")
    made = tabular.convert(source, tabular.Split(by="user", validation=0.2), tmp_path / "out")
    rows = {name: rows_of(tmp_path / "out" / name) for name in made.datasets}
    print({name: table.num_rows for name, table in rows.items()})
    assert list(rows) == ["train", "validation", "test"] and rows["validation"].num_rows > 300
    assert made.test.digest == plain.test.digest
    users = [set(table["user"].to_pylist()) for table in rows.values()]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]
    assert rows["train"].num_rows < plain.train.num_rows
    config = parse(tomllib.loads(suggested(tmp_path / "out")))
    assert config.data.validation == str(tmp_path / "out/validation") and config.evaluation_steps


def test_a_file_without_a_header_and_labels_by_their_text(tmp_path: Path) -> None:
    """The form of the census files: names from the side, spaces after commas, a label that is a text."""
    text = "73, Not in universe, Widowed, - 50000.\n58, Private, Never married, 50000+.\n71, x, Never married, -\n"
    text += "58, Private, Widowed, 50000+.\n"
    path = write(tmp_path / "census.data", text)
    source = tabular.Csv(
        (path,), "income", "marital", names=("age", "class", "marital", "income"),
        positive={"income": "50000+.", "marital": "Never married"}, funnel=False,
    )  # fmt: skip
    made = tabular.convert(source, tabular.Split(), tmp_path / "out")
    rows = rows_of(tmp_path / "out/train").to_pylist()
    labels = [(r["income"], r["marital"], r["age"]) for r in rows]
    assert labels == [(0, 0, 73), (1, 1, 58), (0, 1, 71), (1, 0, 58)]
    config = parse(tomllib.loads(suggested(tmp_path / "out")))
    assert not config.data.funnel and config.model.head == "independent" and not made.tally.notes


def test_names_that_do_not_exist_name_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,clicked,v\n1,0,0\n")
    for source, split in (
        (tabular.Csv((path,), "clickd", "v"), tabular.Split()),
        (tabular.Csv((path,), "clicked", "v", ids=("usr",)), tabular.Split()),
        (tabular.Csv((path,), "clicked", "v", bags={"users": ";"}), tabular.Split()),
        (tabular.Csv((path,), "clicked", "v"), tabular.Split(by="uSer")),
    ):
        with pytest.raises(DataError, match="did you mean `(user|clicked)`"):
            tabular.convert(source, split, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--click c --conversion c", "both name `c`"),
        ("--click c --conversion v --bag c:|", "`c` is a label"),
        ("--click c --conversion v=yes --id v", "`v` is a label"),
        ("--click c --conversion v --id t --bag t:|", "`t` is named as --id and as --bag"),
        ("--click c --conversion v --bag t:| --bag t:;", "a column has one separator"),
        ("--click c --conversion v --bag t:| --split-by t", "name a column of one value"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: str, says: str) -> None:
    path = write(tmp_path / "a.csv", "u,t,c,v\n1,a|b,0,0\n")
    parser = Parser()
    add_csv(parser.add_subparsers())
    arguments = parser.parse_args(["csv", path, str(tmp_path / "out"), *options.split()])
    with pytest.raises(ConfigError, match=re.escape(says)):
        tabular.convert(csv_of(arguments), split_of(arguments), tmp_path / "out")


def test_a_configuration_to_be_made_holds_out_rows_to_stop_by(tmp_path: Path) -> None:
    """From 1 MB on, unless --validation says otherwise; a small log would lose more than it gains."""
    small, large = write(tmp_path / "a.csv", "x,c,v\n" * 9), write(tmp_path / "b.csv", "x,c,v\n" * 200_000)
    parser = Parser()
    add_csv(parser.add_subparsers())

    def share(path: str, *options: str) -> float:
        given = ["csv", path, str(tmp_path / "out"), "--click", "c", "--conversion", "v", *options]
        return split_of(parser.parse_args(given)).validation

    assert share(large, "--suggest", "x.toml") == 0.1 and share(small, "--suggest", "x.toml") == share(large) == 0
    assert share(large, "--suggest", "x.toml", "--validation", "0") == 0
    assert share(small, "--validation", "0.3") == 0.3


def test_both_splits_or_none(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.csv", "x,c,v\n1,0,0\n"), write(tmp_path / "b.csv", "y,c,v\n1,0,0\n")
    with pytest.raises(DataError, match=r"missing \['x'\], extra \['y'\]"):
        tabular.convert(tabular.Csv((train,), "c", "v"), tabular.Split((test,)), tmp_path / "out")
    assert not (tmp_path / "out/train").exists()


# --------------------------------------------------------------------------------------------------------- scripts
def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dist_mtl", "convert", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)


def test_the_script_converts_a_csv_suggests_as_describe_does_and_lists_it_again(tmp_path: Path) -> None:
    path, train, mine = clicks(tmp_path / "a.csv", rows=500), tmp_path / "out/train", tmp_path / "mine.toml"
    options = ["--click", "clicked", "--conversion", "bought", "--bag", "tags:|", "--id", "ad", "--split-by", "user"]
    done = run_script("csv", path, tmp_path / "out", *options, "--suggest", mine)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out/test") in done.stdout and "rows in 1 file, digest" in done.stdout
    assert parse(tomllib.loads(mine.read_text())).data.test == str(tmp_path / "out/test")
    assert mine.read_text() == suggested(tmp_path / "out")  # with nothing said of the labels
    again = run_script("csv", path, tmp_path / "other", *options, "--suggest", mine)
    assert again.returncode == 64 and "is there already" in again.stderr and not (tmp_path / "other").exists()
    before = manifest.read(train)
    (train / manifest.NAME).unlink()
    done = run_script("manifest", train)
    assert done.returncode == 0 and before.digest[:16] in done.stdout, done.stderr
    assert manifest.read(train).digest == before.digest


def test_the_script_tells_an_error_with_its_exit_code(tmp_path: Path) -> None:
    done = run_script("csv", tmp_path / "absent.csv", tmp_path / "out", "--click", "c", "--conversion", "v")
    assert done.returncode == 65 and "there is no such file" in done.stderr and "Traceback" not in done.stderr
    done = run_script("csv", "a", tmp_path / "out", "--click", "c", "--conversion", "v", "--bag", "tags")
    assert done.returncode == 64 and "separator" in done.stderr
