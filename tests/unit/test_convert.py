"""Converters: MovieLens and anyone's CSV become datasets; bad input is told by file, column and row."""

import gzip
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dist_mtl.config.file import load, parse
from dist_mtl.data import manifest
from dist_mtl.data.convert import movielens, tabular
from dist_mtl.data.convert.profile import SKETCH, Profile
from dist_mtl.errors import DataError

ROOT = Path(__file__).parents[2]
ML100K = ROOT.parent / "shared/data/ml100k"
needs_movielens = pytest.mark.skipif(not ML100K.is_dir(), reason="no ../shared/data/ml100k (not ours to ship)")

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"


def raw_movielens(folder: Path, films: int = 40) -> Path:
    """40 users, film f rated by user u where (u * f) % 5 is 1, four to five stars."""
    folder.mkdir()
    pairs = [(u, f) for u in range(1, 41) for f in range(1, films + 1) if u * f % 5 == 1]
    lines = [f"{u}\t{f}\t{4 + (u + f) % 2}\t{874724710 + 86400 * k}\n" for k, (u, f) in enumerate(pairs)]
    (folder / "ml-100k.inter").write_text(INTER + "".join(lines))
    genres = ["Drama", 'Sci-Fi "War', "Children's Comedy"]  # a lone quote must not swallow the lines after it
    years = [str(1950 + f) if f > 1 else "unknown" for f in range(1, films + 1)]
    (folder / "ml-100k.item").write_text(
        ITEM + "".join(f"{f}\tFilm {f}\t{years[f - 1]}\t{genres[f % 3]}\n" for f in range(1, films + 1))
    )
    (folder / "ml-100k.user").write_text(USER + "".join(f"{u}\t{20 + u}\tM\twriter\tT8H1N\n" for u in range(1, 41)))
    return folder


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


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
    assert made.profile.rows == train.num_rows and made.profile.clicks == sum(train["clicked"].to_pylist())


def test_csv_blocks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tabular.Csv((clicks(tmp_path / "a.csv"), clicks(tmp_path / "b.csv", seed=1)), **CSV)
    tabular.convert(source, tabular.Split(by="user"), tmp_path / "whole")
    monkeypatch.setattr(tabular, "BLOCK_BYTES", 20_000)
    small = tabular.convert(source, tabular.Split(by="user"), tmp_path / "blocks")
    assert rows_of(tmp_path / "whole/train").equals(rows_of(tmp_path / "blocks/train"))
    assert small.train.num_rows + small.test.num_rows == 6_000


def test_csv_reads_gzip_tabs_and_test_files_of_their_own(tmp_path: Path) -> None:
    text = Path(clicks(tmp_path / "a.csv", rows=50)).read_text().replace(",", "\t")
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as stream:
        stream.write(text)
    source = tabular.Csv((str(tmp_path / "a.tsv.gz"),), delimiter="\t", **CSV)
    made = tabular.convert(source, tabular.Split(test_paths=source.paths), tmp_path / "out")
    assert made.train.num_rows == made.test.num_rows == 50
    alone = tabular.convert(source, tabular.Split(), tmp_path / "alone")
    assert alone.test is None and not (tmp_path / "alone/test").exists()


def test_csv_suggests_a_configuration_that_loads(tmp_path: Path) -> None:
    path = clicks(tmp_path / "a.csv", rows=6_000)
    made = tabular.convert(tabular.Csv((path,), **CSV), tabular.Split(by="user"), tmp_path / "out")
    config = parse(tomllib.loads(made.profile.config("out/train", "out/test")))
    assert config.data.labels == ("clicked", "bought") and config.data.train == "out/train"
    kinds = {name: feature.kind for name, feature in config.features.items()}
    assert kinds == {"user": "id", "ad": "id", "score": "dense", "amount": "dense", "tags": "bag", "day": "id"}
    assert config.features["amount"].log and not config.features["score"].log
    assert config.features["score"].std == pytest.approx(1, abs=0.1)
    assert config.tables["ad"].rows >= 900 and config.tables["tags"].rows >= 30
    assert config.features["tags"].max_length == 3
    assert "request id: nearly every row has a value of its own" in made.profile.config("a", None)


def test_suggested_names_are_valid_and_distinct() -> None:
    profile = Profile(labels=("c", "v"))
    label = pa.array([0, 1, 0, 1], pa.int8())
    names = ["a.b", "a b", "a_b", 'q"x', "größe"]
    profile.add(pa.table({name: [1, 2, 1, 2] for name in names} | {"c": label, "v": label}))
    config = parse(tomllib.loads(profile.config("t", None)))
    assert sorted(feature.column or name for name, feature in config.features.items()) == sorted(names)


def test_cardinality_is_exact_below_the_sketch_and_close_above() -> None:
    for distinct in (100, SKETCH - 1, 300_000):
        profile = Profile(labels=("c", "v"))
        zero = pa.array(np.zeros(distinct, np.int8))
        for _ in range(2):
            profile.add(pa.table({"id": np.arange(distinct) * 977, "c": zero, "v": zero}))
        error = 0.05 if distinct > SKETCH else 0
        assert profile.columns["id"].cardinality == pytest.approx(distinct, rel=error)


def test_a_conversion_without_a_click_is_kept_counted_and_answered_by_a_policy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,c,v\n1,0,1\n2,1,1\n3,0,0\n")
    made = tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    assert made.train.num_rows == 3 and made.profile.violations == 1
    assert parse(tomllib.loads(made.profile.config("t", None))).data.violations == "drop"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,c,v\n1,0,0\n2,2,0\n", ["label `c`", "2.0 in row 2", "not 0 or 1"]),
        ("x,c,v\n1,0,0\n2,1,\n", ["label `v`", "empty in row 2"]),
        ("x,c,v\n1,no,0\n", ["column `c`", "no"]),
        ("x,click,v\n1,0,0\n", ["no column `c`", "the label"]),
        ("x,c,v\n1,0\n", ["Expected 3 columns, got 2"]),
        ("x,x,c,v\n1,1,0,0\n", ["x more than once"]),
        ("", ["mpty"]),
        ("x,c,v\n", ["no rows"]),
    ],
)
def test_bad_csv_is_told(tmp_path: Path, text: str, says: list[str]) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError) as error:
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    assert all(part in str(error.value) for part in says), error.value
    assert not (tmp_path / "out/train").exists()


def test_a_type_that_changes_later_is_told_with_its_row_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "BLOCK_BYTES", 1_000)
    path = write(tmp_path / "a.csv", "x,c,v\n" + "1,0,0\n" * 1_000 + "A9,0,0\n")
    with pytest.raises(DataError, match=r"column `x`: Row #1002: .*A9.*--id x"):
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")
    made = tabular.convert(tabular.Csv((path,), "c", "v", ids=("x",)), tabular.Split(), tmp_path / "out")
    assert made.train.schema["x"] == "string" and made.train.num_rows == 1_001


def test_a_label_is_told_by_its_row_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "BLOCK_BYTES", 1_000)
    path = write(tmp_path / "a.csv", "x,c,v\n" + "1,0,0\n" * 1_000 + "1,7,0\n")
    with pytest.raises(DataError, match="7.0 in row 1001"):
        tabular.convert(tabular.Csv((path,), "c", "v"), tabular.Split(), tmp_path / "out")


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


def test_both_splits_or_none(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.csv", "x,c,v\n1,0,0\n"), write(tmp_path / "b.csv", "y,c,v\n1,0,0\n")
    with pytest.raises(DataError, match=r"missing \['x'\], extra \['y'\]"):
        tabular.convert(tabular.Csv((train,), "c", "v"), tabular.Split((test,)), tmp_path / "out")
    assert not (tmp_path / "out/train").exists()


# ------------------------------------------------------------------------------------------------------- movielens
def test_raw_movielens_becomes_impressions(tmp_path: Path) -> None:
    train, test = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out").values()
    rows = pa.concat_tables([rows_of(tmp_path / "out/train"), rows_of(tmp_path / "out/test")]).to_pylist()
    rated = {(r["user_id"], r["item_id"]) for r in rows if r["click"]}
    assert rated == {(u, f) for u in range(1, 41) for f in range(1, 41) if u * f % 5 == 1}
    assert len(rows) == train.num_rows + test.num_rows == 10 * len(rated)
    assert not any((r["user_id"], r["item_id"]) in rated for r in rows if not r["click"])
    for r in rows:
        assert r["conversion"] == (r["click"] and (r["user_id"] + r["item_id"]) % 2)
        assert r["genres"] == (["Drama"], ["Sci-Fi", '"War'], ["Children's", "Comedy"])[r["item_id"] % 3]
        assert r["year"] == (1950 + r["item_id"] if r["item_id"] > 1 else 0) and r["age"] == 20 + r["user_id"]
        assert r["zip"] == "T8" and r["hour"] == 3  # 874724710 is Saturday, 1997-09-20, 03:05:10 UTC
    assert min(r["weekday"] for r in rows if r["time"] == 874724710) == 5
    again = movielens.convert(tmp_path / "raw", tmp_path / "again")["train"]
    other = movielens.convert(tmp_path / "raw", tmp_path / "other", seed=8)["train"]
    assert again.digest == train.digest != other.digest


def test_movielens_train_rows_are_split_again_for_validation(tmp_path: Path) -> None:
    """Each user's rows stand in four folders in order of time: fit, validation, and after both of them test."""
    made = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out", validation=True)
    plain = movielens.convert(tmp_path / "raw", tmp_path / "plain")
    assert list(made) == ["train", "test", "fit", "validation"] and list(plain) == ["train", "test"]
    assert all(made[name].digest == plain[name].digest for name in plain)
    rows = {name: rows_of(tmp_path / "out" / name).to_pylist() for name in made}
    print({name: len(found) for name, found in rows.items()})

    def key(row: dict) -> tuple:
        return row["user_id"], row["time"], row["item_id"]

    assert sorted(map(key, rows["fit"] + rows["validation"])) == sorted(map(key, rows["train"]))
    for user in {row["user_id"] for row in rows["train"]}:
        fit, validation, test = (
            [r["time"] for r in rows[n] if r["user_id"] == user] for n in ("fit", "validation", "test")
        )
        assert max(fit) <= min(validation) <= max(validation) <= min(test)
        assert len(validation) == (len(fit) + len(validation)) // 5
    with pytest.raises(DataError, match="plain/train: exists already"):
        movielens.convert(tmp_path / "raw", tmp_path / "plain", validation=True)
    assert not (tmp_path / "plain/fit").exists()


def test_the_last_fifth_of_each_user_is_the_test_split() -> None:
    users = np.array([1, 2] * 10 + [3])
    times = np.array([*range(20, 0, -1), 5])
    late = movielens.last_rows(users, times, 0.2)
    assert np.flatnonzero(late).tolist() == [0, 1, 2, 3]  # the two latest rows of users 1 and 2; a lone row is train
    same = movielens.last_rows(np.zeros(10, int), np.zeros(10, int), 0.2)
    assert np.flatnonzero(same).tolist() == [8, 9]


def test_movielens_input_that_is_not_there_or_not_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file; SRC is a folder with"):
        movielens.convert(tmp_path, tmp_path / "out")
    raw = raw_movielens(tmp_path / "raw")
    (raw / "ml-100k.user").write_text(USER + "1\t20\tM\twriter\t1\n")
    with pytest.raises(DataError, match="user_id 2 has a rating, but no line"):
        movielens.convert(raw, tmp_path / "out")
    (raw / "ml-100k.item").write_text("item_id:token\n1\n")
    with pytest.raises(DataError, match="no column release_year, class"):
        movielens.convert(raw, tmp_path / "out")


@needs_movielens
def test_the_raw_files_give_the_derived_clicks() -> None:
    """Reading both ways takes seconds, so the ratings are compared and nothing is written."""
    derived = movielens.read_derived(ML100K / movielens.DERIVED)
    clicks = derived.filter(pc.equal(derived["click"], 1))
    clicks = clicks.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    ratings = np.loadtxt(ML100K / "ml-100k.inter", skiprows=1, dtype=np.int64)
    ratings = ratings[np.lexsort((ratings[:, 1], ratings[:, 0]))]
    assert derived.num_rows == 1_000_000 and clicks.num_rows == len(ratings) == 100_000
    assert np.array_equal(clicks["item_id"].to_numpy(), ratings[:, 1])
    assert np.array_equal(clicks["conversion"].to_numpy(), ratings[:, 2] == 5)
    config = load(ROOT / "configs/movielens.toml")
    for name in ("user", "item"):
        assert derived[f"{name}_id"].to_numpy().max() == config.tables[name].rows - 1
    late = movielens.last_rows(derived["user_id"].to_numpy(), derived["time"].to_numpy(), 0.2)
    assert late.mean() == pytest.approx(0.2, abs=0.001)


def test_the_movielens_configuration_reads_what_the_converter_writes(tmp_path: Path) -> None:
    made = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out")["train"]
    config = load(ROOT / "configs/movielens.toml")
    assert {feature.column or name for name, feature in config.features.items()} <= made.schema.keys()


# --------------------------------------------------------------------------------------------------------- scripts
def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launch/convert.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)


def test_the_script_converts_a_csv_and_lists_it_again(tmp_path: Path) -> None:
    path = clicks(tmp_path / "a.csv", rows=500)
    labels = ["--click", "clicked", "--conversion", "bought"]
    done = run_script("csv", path, tmp_path / "out", *labels, "--bag", "tags:|", "--id", "ad", "--split-by", "user")
    assert done.returncode == 0, done.stderr
    listed, _, suggested = done.stdout.partition("\n\n")
    assert str(tmp_path / "out/test") in listed and "rows in 1 file(s), digest" in listed
    assert parse(tomllib.loads(suggested)).data.test == str(tmp_path / "out/test")
    train = tmp_path / "out/train"
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
