"""`convert csv` of odd files: names, encodings, tokens, delimiters and empty lines."""

import re
from pathlib import Path

import pytest

from dist_mtl.errors import ConfigError, DataError
from tests.support.csv_verb import column, run


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
    assert "no labels (--click, --conversion): the rows can be scored" in said and "dist-mtl predict RUN" in said
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


def test_empty_lines_of_one_column_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text('x\n1\n\n2\n""\n')
    assert run(tmp_path)["x"].to_pylist() == [1, 2, None]
    assert '1 empty line(s) are no rows; a row without a value is written ""' in capsys.readouterr().out
