"""`convert csv` decides types by all rows, so that no value is lost in silence; and it obeys types that are given."""

import datetime
import decimal
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.cli.arguments import Parser
from dist_mtl.cli.convert import add_csv, convert_csv
from dist_mtl.data.column_class import RawColumn
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.marks import labels_of
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import lines, tabular
from dist_mtl.tools.convert.like import Like
from tests.support.samples import rows_of


def run(folder: Path, *options: str, name: str = "out") -> pa.Table:
    """The train rows that the command line makes of FOLDER/a.csv."""
    parser = Parser()
    add_csv(parser.add_subparsers())
    convert_csv(parser.parse_args(["csv", str(folder / "a.csv"), str(folder / name), "--jobs=1", *options]))
    return rows_of(folder / name / "train")


def column(folder: Path, values: list[str], *options: str) -> pa.ChunkedArray:
    """The column `x` of these texts, beside labels."""
    (folder / "a.csv").write_text("x,c,v\n" + "".join(f"{value},0,0\n" for value in values))
    return run(folder, "--click=c", "--conversion=v", *options)["x"]


CASES = {
    # name: (texts, type, what is said)
    "whole": (["1", "-5", "", "9223372036854775807", "-9223372036854775808"], "int64", None),
    "beyond int64": (["1", "9223372036854775808"], "string", "1 row holds a whole number beyond int64.*line 3.*uint64"),
    "far beyond": (["1", "9" * 400], "string", "beyond int64"),
    "below int64": (["1", "-9223372036854775809"], "string", "beyond int64.*--type x=double"),
    "zeros in front": (["7", "007", "07"], "string", "2 rows hold a number that would not come back.*first '007'"),
    "zeros beside fractions": (["1.5", "007"], "string", "not come back"),
    "plus": (["7", "+7"], "string", "not come back.*'\\+7'"),
    "hex": (["7", "0x1F"], "string", "not come back.*'0x1F'"),
    "exponents": (["7", "1e5"], "string", "may be a number or an id.*'1e5'.*--type x=double"),
    "exponents beside fractions": (["7.5", "1e5", "-0", "2E-3"], "double", None),
    "minus zero": (["7", "-0"], "string", "'-0'"),
    "underscore": (["1000", "1_000"], "string", "1 of 2 values are numbers.*'1_000'"),
    "thousands": (["1000", '"1,000"'], "string", "'1,000'"),
    "fractions": (["1.5", "2", "", ".5", "1."], "double", None),
    "beyond 2**53 beside a fraction": (["9007199254740993", "1.5"], "string", "merge with others"),
    "at 2**53 beside a fraction": (["9007199254740992", "1.5"], "double", None),
    "digits": (["0.1234567890123456789", "0.5"], "double", "1 row holds more digits than a double.*--type x=string"),
    "digits of a double": (["0.10000000000000001", "0.1", "1.234567890123456690e+00"], "double", None),
    "too large": (["1e400", "1.5"], "string", "merge with others.*'1e400'"),
    "too small": (["1e-400", "1.5"], "double", "more digits"),
    "points of whole numbers": (["12.0", "13.0"], "double", "all its values are whole.*--type x=int64"),
    "large points": (["1234567890123456789.0", "1.5"], "double", "more digits"),
    "versions": (["1.9", "1.10", "1.1"], "double", "such as 1.10.*first '1.10'.*--id x"),
    "prices": (["1.90", "1.10", "1.15", "7.00"], "double", None),
    "exponents that end in 0": (["1.5e-10", "1.25"], "double", None),
    "infinities": (["1", "inf", "-Infinity"], "double", "2 rows hold no number.*'inf'"),
    "an odd nan": (["1.5", "nan(ind)"], "string", "'nan\\(ind\\)'"),
    "spaces": ([" 1", "2 ", " 3 "], "int64", None),
    "spaces alone": (["1", "  "], "int64", None),
    "null tokens": (["1", "NA", "NULL", "\\N", " None "], "int64", None),
    "null tokens in text": (["DE", "NA", ""], "string", "1 row holds a text such as 'NA', kept.*--null=NA"),
    "dates": (["2024-01-01", "2024-01-02"], "string", None),
    "booleans": (["true", "false"], "string", None),
    "mixed booleans": (["1", "0", "true"], "string", "2 of 3 values are numbers.*'true'"),
    "one odd token": (["1"] * 99 + ["n/a"], "string", "99 of 100 values.*line 101.*--null=n/a.*--id x"),
    "a dash": (["1.5"] * 99 + ["-"], "string", "--null=-"),
    "text": (["a1", "b2", "7"], "string", None),
    "nothing": (["", "", ""], "string", None),
    "quoted nothing": (["a", '""', ""], "string", '1 row holds "" and 1 nothing at all'),
    "spaces alone in text": (["a", "  ", "NA"], "string", "1 row holds a text such as 'NA'"),
    "quoted numbers": (['"1"', '"22"'], "int64", None),
}


@pytest.mark.parametrize("name", CASES)
def test_no_value_is_lost_unsaid(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, kind, says = CASES[name]
    made = column(tmp_path, texts)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert str(made.type) == kind
    assert re.search(says, "\n".join(notes)) if says else not notes, notes
    bare = [text.strip('"') for text in texts]
    if kind == "string":
        assert made.to_pylist() == [text or None for text in bare]
    elif kind == "int64":
        tokens = {"", "NA", "NULL", "\\N", "None"}
        assert made.to_pylist() == [None if text.strip() in tokens else int(text) for text in bare]
    else:
        assert made.to_pylist() == [float(text) if text else None for text in bare]


def test_forty_users_stay_forty(tmp_path: Path) -> None:
    users = [str(2**64 - 1 - k) for k in range(40)]
    made = column(tmp_path, users)
    assert made.to_pylist() == users
    (tmp_path / "again").mkdir()
    exact = column(tmp_path / "again", users, "--type=x=uint64")
    assert exact.type == pa.uint64() and [str(x) for x in exact.to_pylist()] == users


@pytest.mark.parametrize("place", ["block", "segment", "file", "test"])
def test_the_type_holds_values_wherever_they_stand(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id beyond int64 in a later block, segment, or file, or among the test rows."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1_000)
    if place == "segment":
        monkeypatch.setattr(lines, "SEGMENT_BYTES", 2_000)
    many, wide = "1,0,0\n" * 1_000, f"{2**63},0,0\n"
    (tmp_path / "a.csv").write_text("x,c,v\n" + many + (wide if place in ("block", "segment") else ""))
    (tmp_path / "b.csv").write_text("c,x,v\n" + f"0,{2**63},0\n")  # another order of columns
    further = {"file": [str(tmp_path / "b.csv")], "test": ["--test", str(tmp_path / "b.csv")]}.get(place, [])
    parser = Parser()
    add_csv(parser.add_subparsers())
    sources = [str(tmp_path / "a.csv"), *(further if place == "file" else [])]
    options = ["--click=c", "--conversion=v", "--jobs=1", *(further if place == "test" else [])]
    convert_csv(parser.parse_args(["csv", *sources, str(tmp_path / "out"), *options]))
    table = rows_of(tmp_path / "out" / ("test" if place == "test" else "train"))
    assert table["x"].to_pylist()[-1] == str(2**63) and rows_of(tmp_path / "out/train")["x"].type == pa.string()
    assert f"line {2 if place in ('file', 'test') else '1,002'}" in capsys.readouterr().out


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(-(10**20), 10**20).map(str),
            st.floats(allow_nan=False).map(repr),
            st.decimals(allow_nan=False, allow_infinity=False).map(str),
            st.from_regex(r"[+-]?0?[0-9]{1,3}(\.[0-9]{1,3})?(e[0-9])?", fullmatch=True),
            st.sampled_from(["", "NA", "inf", "-", "0x10", "1_0", " 7"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_different_texts_stay_different_or_are_said(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Two numbers that differ get one value only where a line says that digits are lost."""
    folder = tmp_path_factory.mktemp("types")
    with redirect_stdout(StringIO()) as said:
        made = column(folder, texts).to_pylist()
    numbers = {}
    for text, value in zip(texts, made, strict=True):
        if isinstance(value, int | float) and np.isfinite(value):
            numbers.setdefault(value, set()).add(decimal.Decimal(text.strip()))
        elif isinstance(value, str):
            assert value == text
    merged = any(len(different) > 1 for different in numbers.values())
    assert not merged or "more digits than a double holds" in said.getvalue()


# ------------------------------------------------------------------------------------------------ types that are given
GIVEN = [
    ("int64", ["1", "", "NA"], [1, None, None]),
    ("int8", ["1", "-128"], [1, -128]),
    ("uint64", ["1", str(2**64 - 1)], [1, 2**64 - 1]),
    ("double", ["1", "2.5", "NaN", "inf"], [1.0, 2.5, None, float("inf")]),
    ("float", ["0.5", "1e3"], [0.5, 1000.0]),
    ("string", ["1", "NA", "", "007"], ["1", "NA", None, "007"]),
    ("text", ["1"], ["1"]),
    ("bool", ["1", "0", "true", "False", ""], [True, False, True, False, None]),
    ("date", ["2024-02-29", ""], [datetime.date(2024, 2, 29), None]),
    ("timestamp", ["2024-02-29 12:30:00", "2024-02-29"], [datetime.datetime(2024, 2, 29, 12, 30),
                                                         datetime.datetime(2024, 2, 29)]),
    ("timestamp[us, tz=UTC]", ["2024-02-29 12:30:00Z"], [datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)]),
    ("time", ["12:30:01"], [datetime.time(12, 30, 1)]),
    ("decimal128(6, 2)", ["1234.56", "7"], [decimal.Decimal("1234.56"), decimal.Decimal("7.00")]),
    ("duration[s]", ["90"], [datetime.timedelta(seconds=90)]),
    ("binary", ["ab"], [b"ab"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "texts", "values"), GIVEN, ids=[kind for kind, _, _ in GIVEN])
def test_a_type_that_is_given_is_the_type(kind: str, texts: list[str], values: list, tmp_path: Path) -> None:
    assert column(tmp_path, texts, f"--type=x={kind}").to_pylist() == values


@pytest.mark.parametrize(
    ("kind", "texts", "says"),
    [
        ("int64", ["1", "A9", "B9"], "line 3: column `x` holds 'A9', which is no int64 .--type x=int64; 2 of 3 rows"),
        ("int64", ["1", "1.5"], "'1.5', which is no int64"),
        ("int64", [str(2**63)], "no int64"),
        ("int8", ["128"], "no int8"),
        ("uint64", ["-1"], "no uint64"),
        ("double", ["1", "n/a"], "line 3: column `x` holds 'n/a'.*--null=n/a"),
        ("double", ["0x1F"], "no double"),
        ("double", ["nan(ind)"], "no double"),
        ("float", ["1e40"], "no float"),
        ("bool", ["1", "2"], "no bool"),
        ("bool", ["yes"], "no bool"),
        ("date", ["2024-02-30"], "no date32"),
        ("date", ["01/02/2024"], "no date32"),
        ("timestamp", ["1709164800"], "no timestamp"),
        ("timestamp[s]", ["2024-01-01 00:00:00.5"], "no timestamp"),
        ("decimal128(6, 2)", ["1.234"], "no decimal128"),
        ("decimal128(6, 2)", ["123456.7"], "no decimal128"),
        ("time", ["25:00"], "no time64"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_line_and_their_number(
    kind: str, texts: list[str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        column(tmp_path, texts, f"--type=x={kind}")
    assert not (tmp_path / "out").exists()


def test_a_number_written_otherwise_is_read_under_a_given_type_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = column(tmp_path, ["7", "007", "+7", "7.0", "-007", "000", "NA"], "--type=x=int64")
    assert made.to_pylist() == [7, 7, 7, 7, -7, 0, None]
    assert "`x`: 5 rows hold a whole number written otherwise (first '007'" in capsys.readouterr().out


def test_null_tokens_are_what_the_options_say(tmp_path: Path) -> None:
    texts = ["1", "NA", "?", "-999", "", " ? "]
    for number, (options, values) in enumerate(
        [
            (["--null=?"], [1, None, None, -999, None, None]),
            (["--null=?", "--null=-999"], [1, None, None, None, None, None]),
            (["--null="], ["1", "NA", "?", "-999", None, " ? "]),
            (["--null=", "--null=?"], ["1", "NA", None, "-999", None, None]),
            (["--id=x"], ["1", "NA", "?", "-999", None, " ? "]),
            (["--id=x", "--null=NA"], ["1", None, "?", "-999", None, " ? "]),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert column(folder, texts, *options).to_pylist() == values, options


def test_null_tokens_that_are_numbers_are_no_values(tmp_path: Path) -> None:
    made = column(tmp_path, ["1.5", "-1", "2.5"], "--null=-1")
    assert made.to_pylist() == [1.5, None, 2.5]
    (tmp_path / "b").mkdir()
    assert column(tmp_path / "b", ["1", "-1", "2"], "--null=-1").to_pylist() == [1, None, 2]


def test_the_types_of_a_bags_elements(tmp_path: Path) -> None:
    assert column(tmp_path, ["1|2", "", "3||4"], "--bag=x:|", "--type=x=int64").to_pylist() == [[1, 2], [], [3, 4]]
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="line 3: column `x` holds '1.b', which is no list of int64"):
        column(tmp_path / "b", ["1|2", "1|b"], "--bag=x:|", "--type=x=int64")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--type x=int46", "did you mean `int64`"),
        ("--type x=list", "no type that a text can become"),
        ("--type x=struct<a: int64>", "no type that a text can become"),
        ("--type x=null", "no type that a text can become"),
        ("--type x", "write COL=TYPE"),
        ("--type x=int64 --type x=double", "`x` is to be int64 and double"),
        ("--type x=int64 --id x", "named as --id and as --type"),
        ("--type c=int64", "`c` is a label"),
        ("--type y=int64", "no column `y`"),
    ],
)
def test_types_that_make_no_sense_are_refused(options: str, says: str, tmp_path: Path) -> None:
    given = re.findall(r"(--\w+ [^-]\S*(?: int64>)?)", options)
    with pytest.raises((ConfigError, DataError), match=says):
        column(tmp_path, ["1"], *(option.replace(" ", "=", 1) for option in given))


# ------------------------------------------------------------------------------------------------------ odd files
def test_columns_without_a_name_are_called_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pandas writes its index so; a delimiter at the end of the lines makes one, too."""
    (tmp_path / "a.csv").write_text(",x,c,v,\n0,5,0,0,\n1,6,0,0,\n")
    table = run(tmp_path, "--click=c", "--conversion=v")
    assert table.column_names == ["column_1", "x", "c", "v", "column_5"]
    assert "`column_1`: column 1 has no name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("x,c,v\ngröße,0,0\n".encode("latin-1"), "line 2: column `x`.*UTF-8|UTF8"),
        ("größe,c,v\n1,0,0\n".encode("latin-1"), "line 1: not UTF-8"),
        ("x,c,v\n1,0,0\n".encode("utf-16"), "line 1: not UTF-8"),
        ("x,c,v\n1,0,0\n".encode("utf-16-le"), "line 1: not UTF-8"),
        (b"x,X,x,c,v\n1,2,3,0,0\n", "names x more than once; give each"),
        (b"x,c,v\n1,0,0,\n", "line 2: Expected 3 columns, got 4"),
    ],
)
def test_odd_files_are_refused_with_what_to_do(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError, match=says):
        run(tmp_path, "--click=c", "--conversion=v")


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfx,c,v\r\n1,0,0\r\n2,1,1\r\n")
    assert run(tmp_path, "--click=c", "--conversion=v").to_pylist() == [
        {"x": 1, "c": 0, "v": 0},
        {"x": 2, "c": 1, "v": 1},
    ]


def test_labels_are_zero_or_one_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,c,v\n1,true,0.0\n2,1,1.0\n3,FALSE,0\n4, 1, True \n")
    assert run(tmp_path, "--click=c", "--conversion=v")["c"].to_pylist() == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["?"] * 9 + ["7"], "1 of 10 values are numbers.*--null='\\?' reads it as missing"),
        (["?", "n/a", "7", "8.5", "9", "?"], "--null='\\?' --null=n/a reads them"),
        ([f"a{k}" for k in range(5)] + ["7"] * 6, "--null=TOKEN"),
        (["x" * 300, *["7"] * 9], "--null=TOKEN"),
        ([f"a{k}" for k in range(5)] + ["7"], None),
    ],
)
def test_odd_tokens_are_said_with_the_options_that_remove_them(
    texts: list[str], says: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert column(tmp_path, texts).to_pylist() == texts
    said = capsys.readouterr().out
    assert re.search(says, said) if says else "note:" not in said, said


def test_rows_to_be_scored_need_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("x,c,v\n1,0,0\n2,,\n")
    assert run(tmp_path).column_names == ["x", "c", "v"]
    said = capsys.readouterr().out
    assert "no labels (--click, --conversion): the rows can be scored" in said and "predict.py RUN" in said
    labels = ("--click=c", "--conversion=v")
    assert run(tmp_path, *labels, "--unlabelled", name="b").column_names == ["x"]
    with pytest.raises(DataError, match="line 3: label `c` is empty .1 of 2 rows.*--unlabelled"):
        run(tmp_path, *labels, name="d")
    with pytest.raises(ConfigError, match="the other label with --conversion"):
        run(tmp_path, "--click=c", name="e")
    with pytest.raises(ConfigError, match="rows without labels cannot be trained"):
        run(tmp_path, "--suggest=x.toml", name="f")


def test_a_delimiter_that_is_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x;c;v\n1;0;0\n")
    with pytest.raises(DataError, match="one column, `x;c;v`.*--delimiter=';'"):
        run(tmp_path)


# -------------------------------------------------------------------------------------------------------- a pattern
LIKE = {
    "int16": ("5", 5),
    "uint64": (str(2**64 - 1), 2**64 - 1),
    "halffloat": ("0.5", 0.5),
    "float": ("0.25", 0.25),
    "bool": ("1", True),
    "large_string": ("a", "a"),
    "binary": ("a", b"a"),
    "fixed_size_binary[2]": ("ab", b"ab"),
    "date64[ms]": ("2024-01-02", datetime.date(2024, 1, 2)),
    "timestamp[ns]": ("2024-01-02 00:00:00.5", None),
    "timestamp[us, tz=Europe/Berlin]": ("2024-01-02T00:00:00+01:00", None),
    "time32[s]": ("10:00:00", datetime.time(10)),
    "duration[us]": ("7", datetime.timedelta(microseconds=7)),
    "decimal128(5, 1)": ("7.5", decimal.Decimal("7.5")),
    "dictionary<values=string, indices=int32, ordered=0>": ("a", "a"),
    "null": ("", None),
}


@pytest.mark.parametrize("kind", LIKE)
def test_a_column_gets_the_type_of_the_pattern(kind: str, tmp_path: Path) -> None:
    """Also where it has no value; and what does not fit is refused, whatever the type."""
    text, value = LIKE[kind]
    arrow = pa.dictionary(pa.int32(), pa.string()) if kind.startswith("dictionary") else RawColumn("", kind).arrow
    pattern = pa.table({"x": pa.nulls(1, arrow), "c": pa.array([0], pa.int8()), "v": pa.array([0], pa.int8())})
    write_dataset(tmp_path / "pattern", [pattern])
    labels = ("--click=c", "--conversion=v", f"--like={tmp_path / 'pattern'}")
    (tmp_path / "a.csv").write_text(f"v,x,c\n0,{text},1\n0,,0\n")
    made = run(tmp_path, *labels)
    assert made.column_names == ["x", "c", "v"]
    stored = rows_of(tmp_path / "pattern")["x"].type  # Parquet has no date64, nor seconds
    assert made["x"].type == (pa.string() if kind.startswith("dictionary") else stored)
    assert value is None or made["x"].to_pylist() == [value, None]
    (tmp_path / "a.csv").write_text("v,x,c\n0,,0\n")
    assert run(tmp_path, *labels, name="nothing")["x"].null_count == 1
    if pa.types.is_string(made["x"].type) or kind in ("large_string", "binary"):
        return
    (tmp_path / "a.csv").write_text("v,x,c\n0,,0\n0,no!,0\n")
    with pytest.raises(DataError, match="line 3: column `x` holds 'no!', which is no .*1 of 2 rows"):
        run(tmp_path, *labels, name="odd")


def test_types_that_a_csv_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    for number, values in enumerate(([{"a": 1}], [[[1]]])):
        write_dataset(tmp_path / f"p{number}", [pa.table({"x": values, "y": [1]})])
        (tmp_path / "a.csv").write_text("x,y\n1,1\n")
        with pytest.raises(DataError, match="`x` has a type in .*p. that a CSV cannot hold"):
            run(tmp_path, f"--like={tmp_path / f'p{number}'}", name=f"o{number}")


def test_numbers_written_otherwise_fit_a_pattern_only_on_demand(tmp_path: Path) -> None:
    write_dataset(tmp_path / "pattern", [pa.table({"x": [1]})])
    (tmp_path / "a.csv").write_text("x\n12.0\n")
    with pytest.raises(DataError, match="'12.0', which is no int64.*or read it as the number with --type x=int64"):
        run(tmp_path, f"--like={tmp_path / 'pattern'}")
    assert run(tmp_path, f"--like={tmp_path / 'pattern'}", "--type=x=int64")["x"].to_pylist() == [12]


def test_a_weight_and_labels_of_a_pattern(tmp_path: Path) -> None:
    """Three labels, and a weight that rows to be scored need not have."""
    types = {"x": pa.int64(), "w": pa.float64(), **dict.fromkeys("abc", pa.int8())}
    like = Like("run", types, frozenset("xw"), tuple("abc"), True, frozenset("w"), is_run=True)
    source = tabular.Csv((str(tmp_path / "a.csv"),), like=like)
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert tabular.convert(source, tabular.Split(), tmp_path / "scored").labels == ()
    (tmp_path / "a.csv").write_text("c,x,b,a\n0,1,1,1\n")
    with pytest.raises(DataError, match="no column `w`"):
        tabular.convert(source, tabular.Split(), tmp_path / "refused")
    (tmp_path / "a.csv").write_text("c,x,w,b,a\n0,1,0.5,1,1\n1,1,1,0,1\n")
    made = tabular.convert(source, tabular.Split(), tmp_path / "out")
    table = rows_of(tmp_path / "out/train")
    assert table.to_pylist()[0] == {"x": 1, "w": 0.5, "a": 1, "b": 1, "c": 0}
    assert labels_of(table.schema) == (["a", "b", "c"], True)
    assert "1 rows have `c` without `b`" in made.tally.told()[1]


def test_empty_lines_of_one_column_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text('x\n1\n\n2\n""\n')
    assert run(tmp_path)["x"].to_pylist() == [1, 2, None]
    assert '1 empty line(s) are no rows; a row without a value is written ""' in capsys.readouterr().out
