"""AliExpress, raw or processed: every row with its page's columns, in the columns of the public benchmarks."""

import csv
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import aliexpress, lines
from tests.support import raw_logs
from tests.support.samples import rows_of

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/aliexpress"
USER_IDS, USER_NUMBERS = [*range(2, 9), 32, 33], range(9, 32)
ITEM_IDS = [19, 34, 35, 36, 40, 41, 42]


def joined(folder: Path, split: str) -> list[list[float]]:
    """The published conversion, row by row, in the order of the item file: column k of a line is line[k - 1]."""
    with (folder / f"nl_user_{split}.csv").open() as users, (folder / f"nl_item_{split}.csv").open() as items:
        user_of = {line[0]: line for line in csv.reader(users)}
        rows = []
        for item in csv.reader(items):
            user = user_of[item[0]]
            numbers = [c for c in range(2, 49) if c not in ITEM_IDS]
            texts = [item[0], *(user[c - 1] for c in USER_IDS), *(item[c - 1] for c in ITEM_IDS)]
            texts += [*(user[c - 1] for c in USER_NUMBERS), *(item[c - 1] for c in numbers)]
            rows.append([*map(float, texts), int(item[48] != "0"), int(item[48] == "2")])
    return rows


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    raw_logs.write_aliexpress(tmp_path / "raw", pages=120, per_page=5)
    return tmp_path / "raw"


@pytest.mark.parametrize("jobs", [1, 2])
def test_raw_files_become_the_processed_columns(
    raw: Path, tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 15_000)
    made, tally = aliexpress.convert(aliexpress.find(raw), tmp_path / "out", jobs=jobs)
    for split, listed in made.items():
        table, wanted = rows_of(tmp_path / "out" / split), joined(raw, split)
        assert listed.num_rows == len(wanted) and len(table.column_names) == 82 and len(listed.files) > 1
        found = [list(row.values()) for row in table.to_pylist()]
        assert all(row == pytest.approx(expected, rel=1e-6) for row, expected in zip(found, wanted, strict=True))
    assert list(made["train"].schema.items())[:2] == [("search_id", "int64"), ("categorical_1", "int32")]
    assert tally.told() == ["800 rows read: 600 train, 200 test"]


def test_zipped_and_gzipped_files_are_the_same(raw: Path, tmp_path: Path) -> None:
    plain, _ = aliexpress.convert(aliexpress.find(raw), tmp_path / "plain")
    for path in list(raw.glob("*item*.csv")):
        with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
        path.unlink()
    zipped, _ = aliexpress.convert(aliexpress.find(raw, "NL"), tmp_path / "zipped")
    assert [m.digest for m in plain.values()] == [m.digest for m in zipped.values()]


def test_validation_takes_whole_pages_out_of_train(raw: Path, tmp_path: Path) -> None:
    made, tally = aliexpress.convert(aliexpress.find(raw), tmp_path / "out", validation=0.2)
    pages = {name: set(rows_of(tmp_path / "out" / name)["search_id"].to_pylist()) for name in made}
    print({name: len(ids) for name, ids in pages.items()})
    assert list(made) == ["train", "validation", "test"] and len(pages["validation"]) > 10
    assert not pages["train"] & pages["validation"] and len(pages["train"] | pages["validation"]) == 120
    assert tally.written["train"] + tally.written["validation"] == 600


def test_items_without_a_page_and_repeated_pages_are_counted(raw: Path, tmp_path: Path) -> None:
    users = (raw / "nl_user_train.csv").read_text().splitlines()
    other = users[3].split(",")
    other[1] = "77"
    (raw / "nl_user_train.csv").write_text("\n".join([*users[1:], ",".join(other)]) + "\n")
    made, tally = aliexpress.convert(aliexpress.find(raw), tmp_path / "out")
    assert made["train"].num_rows == 595
    dropped, repeated = (next(line for line in tally.told() if word in line) for word in ("dropped", "had one before"))
    assert dropped.startswith("5 item lines without a line for their page") and "nl_item_train.csv, line " in dropped
    assert repeated.startswith("1 user lines") and repeated.endswith("nl_user_train.csv, line 120)")
    kept = rows_of(tmp_path / "out/train").to_pylist()
    assert {r["categorical_1"] for r in kept if r["search_id"] == int(other[0])} == {int(users[3].split(",")[1])}


def test_empty_features_stay_empty(raw: Path, tmp_path: Path) -> None:
    for name, places in (("nl_user_train.csv", (1, 8)), ("nl_item_train.csv", (18, 1))):
        text = (raw / name).read_text().splitlines()
        row = text[0].split(",")
        for place in places:
            row[place] = ""
        (raw / name).write_text("\n".join([",".join(row), *text[1:]]) + "\n")
    aliexpress.convert(aliexpress.find(raw), tmp_path / "out")
    table = rows_of(tmp_path / "out/train")
    nulls = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    assert nulls == {"categorical_1": 5, "numerical_1": 5, "categorical_10": 1, "numerical_24": 1}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (48, "3", "line 7: column `item_49` is the label"),
        (48, "", "line 7: column `item_49` is empty"),
        (0, "", "line 7: column `item_1` is empty"),
        (18, "x", "line 7: column `item_19`: no int32 'x'"),
        (1, "0.5,0.5", "line 7: Expected 49 columns, got 50"),
    ],
)
def test_a_bad_line_is_told_by_its_number(raw: Path, tmp_path: Path, place: int, value: str, says: str) -> None:
    text = (raw / "nl_item_test.csv").read_text().splitlines()
    row = text[6].split(",")
    row[place] = value
    (raw / "nl_item_test.csv").write_text("\n".join([*text[:6], ",".join(row), *text[7:]]) + "\n")
    with pytest.raises(DataError, match=rf"nl_item_test.csv, {says}"):
        aliexpress.convert(aliexpress.find(raw), tmp_path / "out")
    assert not (tmp_path / "out").exists()  # the train split was done by then


def test_files_that_are_not_there_or_several_countries(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty/train.csv: there is no such file.*CC_user_train.csv"):
        aliexpress.find(tmp_path / "empty")
    (raw / "es_user_train.csv").write_text("")
    with pytest.raises(DataError, match="countries es, nl; name one with --country"):
        aliexpress.find(raw)
    assert aliexpress.find(raw, "nl").splits["test"][1] == raw / "nl_item_test.csv"
    with pytest.raises(DataError, match="es_item_train.csv: there is no such file"):
        aliexpress.find(raw, "es")
    with pytest.raises(ConfigError, match="validation share 1.5"):
        aliexpress.convert(aliexpress.find(raw, "nl"), tmp_path / "out", validation=1.5)


def test_a_processed_file_with_other_columns_is_told(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("search_id,click\n")
    (tmp_path / "train.csv").write_text("search_id,click\n1,0\n")
    with pytest.raises(DataError, match="train.csv: 2 columns, of which number 2 is `click`, not `categorical_1`"):
        aliexpress.convert(aliexpress.find(tmp_path), tmp_path / "out")


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/aliexpress (not ours to ship)")
def test_real_processed_rows_come_through_unchanged(tmp_path: Path) -> None:
    """2,000 real rows; and raw files cut out of them give the same datasets again."""
    made, _ = aliexpress.convert(aliexpress.find(REAL), tmp_path / "processed")
    (tmp_path / "raw").mkdir()
    for split, listed in made.items():
        table = rows_of(tmp_path / "processed" / split)
        with (REAL / f"{split}.csv").open() as stream:
            wanted = [list(map(float, row)) for row in list(csv.reader(stream))[1:]]
        found = [list(row.values()) for row in table.to_pylist()]
        assert listed.num_rows == 1_000
        assert all(row == pytest.approx(expected, rel=1e-6) for row, expected in zip(found, wanted, strict=True))
        write_raw(table, tmp_path / "raw", split)
    again, _ = aliexpress.convert(aliexpress.find(tmp_path / "raw"), tmp_path / "again")
    for split in made:
        assert rows_of(tmp_path / "again" / split).equals(rows_of(tmp_path / "processed" / split))


def write_raw(table: pa.Table, folder: Path, split: str) -> None:
    """The user and item files that a processed table comes of."""
    ids, numbers = (lambda i: f"categorical_{i}"), (lambda i: f"numerical_{i}")
    user = {1: "search_id"} | {c: ids(i) for i, c in enumerate(USER_IDS, 1)}
    user |= {c: numbers(i) for i, c in enumerate(USER_NUMBERS, 1)}
    item = {1: "search_id"} | {c: ids(i) for i, c in enumerate(ITEM_IDS, 10)}
    item |= {c: numbers(i) for i, c in enumerate((c for c in range(2, 49) if c not in ITEM_IDS), 24)}
    label = pa.array([a + b for a, b in zip(table["click"].to_pylist(), table["conversion"].to_pylist(), strict=True)])
    users = table.select([user[c] for c in range(1, 34)]).group_by("search_id", use_threads=False)
    first = users.aggregate([(user[c], "first") for c in range(2, 34)])
    raw_logs.write_lines(folder / f"nl_user_{split}.csv", first.select(_order(first)))
    items = table.select([item[c] for c in range(1, 49)]).append_column("label", label)
    raw_logs.write_lines(folder / f"nl_item_{split}.csv", items)


def _order(table: pa.Table) -> list[str]:
    """The key first: a group_by puts it first or last, by the version of Arrow."""
    return ["search_id", *(name for name in table.column_names if name != "search_id")]
