"""Text of others on every page, table and file that a person reads: shown escaped, never markup."""

import csv
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.scaling.results import Row, write_csv
from dist_mtl.config.training import RunConfig
from dist_mtl.observability.events import Observer
from dist_mtl.terminal.printable import printable
from dist_mtl.tools.report.blocks import Cell, Code, Column, Section, Table
from dist_mtl.tools.report.page import html
from dist_mtl.tools.study import markdown

STEERING = "\x1b]0;x\x07\x1b[2J\u202egnp\u200b\u2028\x9b1m\x00\ud83d"
NASTY = f"{STEERING}\n[/b][red]x|</td><script>`*a* [l](http://x) _i_ user_id"


def hidden(text: str) -> list[str]:
    return [c for c in text if c != "\n" and printable(c) != c]


def section() -> Section:
    table = Table((Column(NASTY),), ((Cell(NASTY, NASTY),),), note=NASTY)
    return Section("a", NASTY, (table, Code(NASTY, (NASTY,))), lede=NASTY)


def test_a_page_holds_no_character_that_steers() -> None:
    page = html("base.html", kind="Study", title=NASTY, story=NASTY, sections=[section()], folder=NASTY)
    assert not hidden(page) and "<script>`" not in page
    assert r"\x1b]0;x\x07\x1b[2J\u202egnp\u200b\u2028\x9b1m\x00\ud83d" in page
    assert page.encode(), "a lone surrogate, of a file's name, can be written"


def test_markdown_takes_a_name_for_text() -> None:
    page = markdown.markdown(NASTY, [section()])
    assert not hidden(page)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 and all(line.endswith(" |") and line.replace("\\|", "").count("|") == 2 for line in rows)
    assert all(r"\`\*a\* \[l\](http://x) \_i\_ user_id" in line and "<" not in line for line in rows)
    assert markdown.code("a `b` c") == "`` a `b` c ``"


def test_a_csv_cell_is_one_line(tmp_path: Path) -> None:
    row = Row(**{field.name: NASTY if field.name == "series" else 1 for field in fields(Row)})
    write_csv([row], tmp_path / "scale.csv")
    text = (tmp_path / "scale.csv").read_text()
    assert not hidden(text.replace("\r\n", "\n")) and len(text.splitlines()) == 2
    assert next(csv.DictReader(text.splitlines()))["series"] == printable(NASTY)


def test_the_console_of_a_run_adds_no_line_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observer = Observer(RunConfig(dir=str(tmp_path / "run")), speaking=True)
    observer.event("warning", message="column x\nstep 7: \x1b[2J")
    observer.event("fitted", features=["a\nb"], seconds=1.0)
    observer.close()
    warning, fitted = capsys.readouterr().err.splitlines()
    assert warning == r"warning      column x\nstep 7: \x1b[2J" and fitted.endswith(r" s: a\nb")
    assert r'"message": "column x\nstep 7: \u001b[2J"' in (tmp_path / "run" / "events.jsonl").read_text()
