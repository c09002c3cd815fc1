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
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import lines
from tests.support.csv_verb import column
from tests.support.samples import rows_of

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
