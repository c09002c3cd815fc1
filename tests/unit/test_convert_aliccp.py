r"""Ali-CCP: every token of every row, with its weight, as a plain reading of the files finds them."""

from pathlib import Path

import numpy as np
import pytest

from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import aliccp, lines
from tests.support import raw_logs
from tests.support.samples import rows_of

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/aliccp"


def tokens(text: str) -> dict[str, list[tuple[int, float]]]:
    """Field -> (id, value) in the order of the list, read one by one."""
    found: dict[str, list[tuple[int, float]]] = {}
    for token in text.split("\x01") if text else []:
        field, rest = token.split("\x02")
        number, value = rest.split("\x03")
        found.setdefault(field, []).append((int(number), float(value)))
    return found


def plain(folder: Path, split: str) -> list[dict]:
    """The rows, joined with a dictionary."""
    common = {}
    for line in (folder / f"common_features_{split}.csv").read_text().splitlines():
        key, _, text = line.split(",")
        common.setdefault(key, tokens(text))
    rows = []
    for line in (folder / f"sample_skeleton_{split}.csv").read_text().splitlines():
        sample, click, conversion, key, _, text = line.split(",")
        row = {"sample_id": int(sample), "common_feature_index": key}
        row |= {"click": int(click), "conversion": int(conversion)}
        rows.append(row | {"tokens": common.get(key, {}) | tokens(text)})
    return rows


def assert_equal(found: dict, wanted: dict) -> None:
    """One row, as the dataset has it, against a plain reading."""
    heads = ("sample_id", "common_feature_index", "click", "conversion")
    assert {k: found[k] for k in heads} == {k: wanted[k] for k in heads}
    for field in aliccp.FIELDS:
        pairs = wanted["tokens"].get(field, [])
        ids, values = [i for i, _ in pairs], pytest.approx([v for _, v in pairs], rel=1e-6)
        if field not in aliccp.MANY:
            assert found[field] == (ids[0] if ids else None)
        else:
            assert found[field] == ids
        if field in aliccp.WEIGHTED:
            weights = found[f"{field}_weight"]
            assert (weights if field in aliccp.MANY else [] if weights is None else [weights]) == values


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    raw_logs.write_aliccp(tmp_path / "raw", rows=240, commons=20, scale=0.1)
    return tmp_path / "raw"


def rewrite(path: Path, line: int, change: dict[str, str]) -> None:
    """Replace texts in one line (from 1) of a file."""
    text = path.read_text().split("\n")
    for old, new in change.items():
        assert old in text[line - 1]
        text[line - 1] = text[line - 1].replace(old, new, 1)
    path.write_text("\n".join(text))


@pytest.mark.parametrize(("small", "jobs"), [(False, 1), (True, 1), (True, 2)], ids=["one block", "many", "two jobs"])
def test_every_value_of_every_field_with_its_weight(
    raw: Path, tmp_path: Path, small: bool, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 3_000)
        monkeypatch.setattr(lines, "SEGMENT_BYTES", 10_000)
    made, tally = aliccp.convert(aliccp.find(raw), tmp_path / "out", jobs=jobs)
    for split, listed in made.items():
        found, wanted = rows_of(tmp_path / "out" / split).to_pylist(), plain(raw, split)
        assert len(found) == len(wanted) == listed.num_rows
        for row, expected in zip(found, wanted, strict=True):
            assert_equal(row, expected)
    total = sum(len(pairs) for row in plain(raw, "train") for pairs in row["tokens"].values())
    lengths = [sum(map(len, rows_of(tmp_path / "out/train")[f].to_pylist())) for f in aliccp.MANY]
    print(f"{total:,} tokens, of which {sum(lengths):,} in the fields of many values")
    assert made["train"].schema["110_14"] == made["train"].schema["853"] == "list<element: int32>"
    assert len(made["train"].files) == (1 if not small else len(lines.segments([raw / "sample_skeleton_train.csv"])))
    assert tally.told()[0] == "300 rows read: 240 train, 60 test"


def test_tokens_in_any_order_are_sorted_into_their_fields(raw: Path, tmp_path: Path) -> None:
    for path in raw.iterdir():
        rows = [line.rsplit(",", 1) for line in path.read_text().splitlines()]
        draw = np.random.default_rng(3)
        path.write_text("".join(f"{h},{chr(1).join(draw.permutation(t.split(chr(1))))}\n" for h, t in rows))
    aliccp.convert(aliccp.find(raw), tmp_path / "out")
    for row, expected in zip(rows_of(tmp_path / "out/train").to_pylist(), plain(raw, "train"), strict=True):
        assert_equal(row, expected)


@pytest.mark.parametrize("drop", [False, True])
def test_conversions_without_a_click_are_kept_or_dropped_and_counted(raw: Path, tmp_path: Path, drop: bool) -> None:
    made, tally = aliccp.convert(aliccp.find(raw), tmp_path / "out", drop=drop)
    rows = rows_of(tmp_path / "out/train").to_pylist()
    broken = [r for r in plain(raw, "train") if r["conversion"] > r["click"]]
    assert len(broken) == 2 and len(rows) == 240 - 2 * drop
    assert sum(r["conversion"] > r["click"] for r in rows) == 2 * (not drop)
    first = broken[0]["sample_id"]
    told = "dropped" if drop else "kept, data.violations decides"
    line = f"4 lines convert without a click: {told} (first: {raw / 'sample_skeleton_train.csv'}, line {first})"
    assert line in tally.told() and tally.read == 300
    assert made["test"].num_rows == 60 - 2 * drop


def test_validation_shares_no_user_with_train(tmp_path: Path) -> None:
    """Nor common features, those of rows without a user among them; no row is lost."""
    raw_logs.write_aliccp(tmp_path / "raw", rows=2_000, commons=300, scale=0.02)
    path = tmp_path / "raw/common_features_train.csv"
    rows = path.read_text().splitlines()
    rows[:3] = [",".join([*row.split(",")[:2], row.split(",")[2].partition("\x01")[2]]) for row in rows[:3]]  # no user
    path.write_text("\n".join(rows) + "\n")
    made, tally = aliccp.convert(aliccp.find(tmp_path / "raw"), tmp_path / "out", validation=0.3)
    sides = [rows_of(tmp_path / "out" / name) for name in ("train", "validation")]
    print({name: listed.num_rows for name, listed in made.items()})
    for column in ("101", "common_feature_index"):
        left, right = (set(side[column].drop_null().to_pylist()) for side in sides)
        assert len(right) > 50 and not left & right
    assert sum(side.num_rows for side in sides) == 2_000 == tally.written["train"] + tally.written["validation"]


def test_rows_without_common_features_and_repeated_ones_are_counted(tmp_path: Path) -> None:
    raw_logs.write_aliccp(tmp_path / "raw", rows=100, commons=10, scale=0.1, orphans=4)
    path = tmp_path / "raw/common_features_train.csv"
    first, *others = path.read_text().splitlines()
    again = ",".join([first.split(",")[0], *others[0].split(",")[1:]])
    path.write_text("\n".join([first, *others, again]) + "\n")
    _, tally = aliccp.convert(aliccp.find(tmp_path / "raw"), tmp_path / "out")
    rows = rows_of(tmp_path / "out/train").to_pylist()
    assert all(r["101"] is None and r["110_14"] == [] and r["205"] is not None for r in rows[:4])
    for row, expected in zip(rows, plain(tmp_path / "raw", "train"), strict=True):
        assert_equal(row, expected)
    told = "\n".join(tally.told())
    assert "8 lines without a line in the common features: kept" in told  # 4 of each split
    repeated = next(line for line in tally.told() if "index that one before had" in line)
    assert repeated.startswith("1 common feature lines") and repeated.endswith(f"(first: {path}, line 11)")


def test_a_length_that_is_not_the_lists_is_kept_and_counted(raw: Path, tmp_path: Path) -> None:
    rewrite(raw / "sample_skeleton_train.csv", 5, {",205\x02": "9,205\x02"})
    _, tally = aliccp.convert(aliccp.find(raw), tmp_path / "out")
    assert any(line.startswith("1 lines whose feature_num") and "line 5)" in line for line in tally.told())


def test_a_value_without_a_column_is_counted_and_can_be_kept(raw: Path, tmp_path: Path) -> None:
    path = raw / "sample_skeleton_train.csv"
    old = next(token for token in path.read_text().splitlines()[6].split("\x01") if token.startswith("206\x02"))
    rewrite(path, 7, {old: old.replace("\x031.0", "\x032.5")})
    _, tally = aliccp.convert(aliccp.find(raw), tmp_path / "out")
    assert any(line.startswith("1 lines with a value other than 1") and "line 7)" in line for line in tally.told())
    kept = aliccp.Schema(weighted=(*aliccp.WEIGHTED, "206"))
    _, tally = aliccp.convert(aliccp.find(raw), tmp_path / "kept", schema=kept)
    assert rows_of(tmp_path / "kept/train")["206_weight"].to_pylist()[5:8] == [1.0, 2.5, 1.0]
    assert not any("other than 1" in line for line in tally.told())


def test_a_field_of_one_value_that_has_two_is_told_and_can_be_a_list(raw: Path, tmp_path: Path) -> None:
    path = raw / "sample_skeleton_train.csv"
    rewrite(path, 7, {"\x01206\x02": "\x01205\x0277\x031.0\x01206\x02"})
    with pytest.raises(DataError, match="line 7: field 205 occurs more than once; --many 205"):
        aliccp.convert(aliccp.find(raw), tmp_path / "out")
    aliccp.convert(aliccp.find(raw), tmp_path / "out", schema=aliccp.Schema(many=(*aliccp.MANY, "205")))
    assert rows_of(tmp_path / "out/train")["205"].to_pylist()[6][1] == 77
    common = raw / "common_features_test.csv"
    rewrite(common, 2, {"\x01110_14": "\x01121\x025\x031.0\x01121\x025\x031.0\x01110_14"})
    with pytest.raises(DataError, match=r"common_features_test.csv, line 2: field 121 occurs more than once"):
        aliccp.convert(aliccp.find(raw), tmp_path / "new", schema=aliccp.Schema(many=(*aliccp.MANY, "205")))
    with pytest.raises(ConfigError, match="field 101 is the user"):
        aliccp.Schema(many=("101",))
    with pytest.raises(ConfigError, match="no field `25`; did you mean `205`"):
        aliccp.Schema(many=("25",))


BAD = [
    ({"205\x02": "205"}, "in the feature list, token Expected 3 columns, got 2"),
    ({"205\x02": "999\x02"}, "field `999` has no place in this file"),
    ({"205\x02": "101\x02"}, "field `101` has no place in this file"),  # it belongs to the common features
    ({"205\x02": "205\x02x"}, "in the feature list, token column `id`: no int32 'x"),
    ({"\x031.0": "\x031.O"}, "in the feature list, token column `value`: no float '1.O'"),
    ({"\x031.0": "\x03nan"}, "a value that is not finite"),
    ({"\x01": "\x01\x01"}, "an empty token in the feature list"),
    ({"9,": "9,1,1,1,1,"}, "Expected 6 columns, got"),
    ({"9,": "9,3,"}, "Expected 6 columns, got 7"),
    ({"9,0,": "9,2,"}, "label `click` is 2.0, not 0 or 1"),
    ({"9,0,0,": "9,0,0,G"}, "not 16 hexadecimal digits"),
]


@pytest.mark.parametrize(("change", "says"), BAD)
def test_a_bad_line_is_told_by_its_number(raw: Path, tmp_path: Path, change: dict[str, str], says: str) -> None:
    path = raw / "sample_skeleton_test.csv"
    lines_ = path.read_text().splitlines()
    lines_[8] = "9,0,0," + lines_[8].split(",", 3)[3]
    path.write_text("\n".join(lines_) + "\n")
    rewrite(path, 9, change)
    with pytest.raises(DataError, match=r"sample_skeleton_test.csv, line 9: ") as error:
        aliccp.convert(aliccp.find(raw), tmp_path / "out")
    assert says in str(error.value) and "\x01" not in str(error.value) and len(str(error.value)) < 500
    assert not (tmp_path / "out").exists()


def test_a_download_that_was_cut_is_refused(raw: Path, tmp_path: Path) -> None:
    path = raw / "common_features_test.csv"
    path.write_bytes(path.read_bytes()[:-40].rsplit(b"\x01", 1)[0])  # at the end of a token: only its number is missing
    with pytest.raises(DataError, match=r"common_features_test.csv, line 5: the file ends in the middle of a line"):
        aliccp.convert(aliccp.find(raw), tmp_path / "out")


def test_an_empty_list_and_empty_lines_and_carriage_returns(raw: Path, tmp_path: Path) -> None:
    path = raw / "sample_skeleton_train.csv"
    rows = path.read_text().splitlines()
    rows[3] = ",".join([*rows[3].split(",")[:4], "0", ""])
    path.write_text("\r\n\r\n".join(rows) + "\r\n\r\n")
    made, tally = aliccp.convert(aliccp.find(raw), tmp_path / "out")
    found = rows_of(tmp_path / "out/train").to_pylist()
    assert len(found) == 240 and found[3]["205"] is None and found[3]["210"] == []
    path.write_text("\n".join(rows) + "\n")
    for row, expected in zip(found, plain(raw, "train"), strict=True):
        assert_equal(row, expected)
    assert len(tally.notes) == 1  # the conversions without a click


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"common_features_train.csv: there is no such file.*sample_train.tar.gz"):
        aliccp.find(tmp_path)
    for folder in ("a", "b"):
        raw_logs.write_aliccp(tmp_path / folder, rows=4, commons=2, scale=0.1)
    with pytest.raises(DataError, match="a/common_features_train.csv and .*b/common_features_train.csv; name"):
        aliccp.find(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/aliccp (not ours to ship)")
def test_the_joined_text_gives_the_same_columns(tmp_path: Path) -> None:
    """20 real rows, 8 to 10 thousand tokens a file, without values: all are 1."""
    made, tally = aliccp.convert(aliccp.find(REAL), tmp_path / "out")
    total = 0
    for split, listed in made.items():
        rows = rows_of(tmp_path / "out" / split).to_pylist()
        for row, line in zip(rows, (REAL / f"{split}_small.txt").read_text().splitlines(), strict=True):
            sample, click, purchase, *pairs = line.split(",")
            wanted: dict[str, list[int]] = {}
            for pair in pairs:
                wanted.setdefault(pair.split(":")[0], []).append(int(pair.split(":")[1]))
            assert [row["sample_id"], row["click"], row["conversion"]] == [int(sample), int(click), int(purchase)]
            for field in aliccp.FIELDS:
                ids = wanted.pop(field, [])
                total += len(ids)
                assert row[field] == (ids if field in aliccp.MANY else ids[0] if ids else None)
                if field in aliccp.MANY:
                    assert row[f"{field}_weight"] == [1.0] * len(ids)
            assert not wanted
        assert listed.num_rows == 10
    print(f"{total:,} tokens")
    assert total > 15_000 and tally.read == 20
