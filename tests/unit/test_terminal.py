"""Text of others on a terminal: never markup, never a control character; streams that cannot fail."""

import ast
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from dist_mtl.cli import arguments
from dist_mtl.terminal import console as rich_home
from dist_mtl.terminal.console import Console, Table, Words, progress_bars, stacked, styled
from dist_mtl.terminal.printable import printable
from dist_mtl.terminal.streams import Shown

ROOT = Path(__file__).resolve().parents[2]
NASTY = "\x1b]0;x\x07\x1b[2J\u202egnp\u200b\u2028\x9b1m\x00\x7f\ud83d\r\n[/b][red]x[/red] :smile: [link=x]"


def shown_by(*printed: object, terminal: bool = True) -> str:
    """What a console prints, as if to a terminal."""
    console = Console()
    console.file = io.StringIO()
    console._force_terminal = terminal
    console.no_color = True
    for one in printed:
        console.print(one)
    return console.file.getvalue()


def test_printable_escapes_what_hides_or_steers_and_nothing_else() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        escaped = printable(character) != character
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        assert escaped or not hidden, f"U+{code:04X}"
        if escaped:
            assert printable(character).isascii() and printable(character).startswith("\\")
    assert printable("größe 日本 \xa0 🙂 ❤️ a\\b [red]") == "größe 日本 \xa0 🙂 ❤️ a\\b [red]"
    assert printable("a\nb\tc\x1b[2J\u202e\U000e0001") == r"a\nb\tc\x1b[2J\u202e\U000e0001"
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert printable(printable(NASTY)) == printable(NASTY)


@pytest.mark.parametrize("text", [NASTY, "[/b]", "[red]x", "\\[red]x", "[bold]", "[/]", ":warning:", "[@click=f]x[/]"])
def test_a_text_is_no_markup_wherever_it_stands(text: str) -> None:
    table = Table(text)
    table.add_column(text, no_wrap=True, min_width=200)
    table.add_row(text)
    table.add_row(stacked(text, text))
    bars = progress_bars(Words("{task.description}"), Words("{task.fields[rest]}"))
    bars.add_task(text, rest=text)
    rendered = [column.render(bars.tasks[0]).plain for column in bars.columns]
    assert rendered == [printable(text)] * 2
    console = Console()
    console.file = io.StringIO()
    console.width = 250
    console.print(table)
    assert console.file.getvalue().count(printable(text)) == 5, "title, header, cell and the lines of the stacked one"
    console.print(styled(text, "bold"), text, soft_wrap=True)
    page = console.file.getvalue()
    assert page.endswith(f"{printable(text)} {printable(text, keep=chr(10))}\n")
    assert not [c for c in page if c != "\n" and printable(c) != c]


def test_only_one_module_imports_what_takes_a_text_for_markup() -> None:
    """Columns of a bar that hold no text, frames of tables and names of types are everybody's."""
    free = {"BarColumn", "TaskProgressColumn", "TimeElapsedColumn", "TimeRemainingColumn", "MofNCompleteColumn"}
    free |= {"DownloadColumn", "TransferSpeedColumn", "TaskID", "Progress", "Group", "RenderableType", "box"}
    for path in [*(ROOT / "dist_mtl").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        if path == Path(rich_home.__file__):
            continue
        source = ast.parse(path.read_text())
        for node in ast.walk(source):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "rich"], path
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "rich":
                assert {alias.name for alias in node.names} <= free, path


@pytest.mark.parametrize("columns", ["0", "1", "abc", "²", "-5", "99999999999", ""])
def test_a_terminal_without_a_width_is_wide_enough(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    assert 40 <= Console().width <= 4_000
    assert "word" in shown_by(styled("word"))


def test_a_name_ends_no_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments._tell("features.a\u2028b\x85c\x1cd: wrong\nmend it", None)
    assert capsys.readouterr().err == "error: features.a\u2028b\x85c\x1cd: wrong\nerror: mend it\n"


def test_a_process_without_a_stream_prints_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that calls the Python interface."""
    monkeypatch.setattr(sys, "stdout", None)
    Console().print("nowhere")


CHILD = """
import sys
from dist_mtl.terminal.streams import guard_streams
guard_streams()
print("größe", chr(27) + "[2J", chr(0x202e), flush=True)
print("x" * 100_000)
import warnings; warnings.warn("look" + chr(27))
print(argument := "done", file=sys.stderr)
sys.__stdout__.write(chr(27)); sys.__stderr__.flush()
open(sys.argv[1], "w").write(argument + str(sys.stdin.read()))
"""


@pytest.mark.parametrize("stdout", ["", ">&-", ">/dev/full", "| true", "| head -c 5", "1</dev/null"])
@pytest.mark.parametrize("stderr", ["", "2>&-", "2>/dev/full"])
def test_a_lost_stream_changes_neither_the_result_nor_the_code(tmp_path: Path, stdout: str, stderr: str) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    out = tmp_path / "out"
    line = f"set -o pipefail; '{sys.executable}' '{tmp_path}/child.py' '{out}' <&- {stderr} {stdout}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "done"
    assert b"\x1b" not in done.stdout + done.stderr and b"Traceback" not in done.stderr
    if not stdout:
        assert done.stdout.startswith(rb"gr\xf6\xdfe \x1b[2J \u202e" + b"\n")
        assert len(done.stdout) > 100_000


def test_a_full_disk_costs_a_text_and_not_those_after_it(tmp_path: Path) -> None:
    """There may be room again: a training that writes its log to a full disk goes on, and so does the log."""
    number = os.open("/dev/full", os.O_WRONLY)
    stream = Shown(number, "utf-8")
    print("lost", file=stream, flush=True)
    target = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(target, number)
    print("kept", file=stream)
    stream.plain.write("styled\x1b[0m\n")
    assert (tmp_path / "log").read_bytes() == b"kept\nstyled\x1b[0m\n"
    os.close(number)
    os.close(target)
