"""The size of things: functions fit a screen, files fit a head, and nothing is called utils."""

import ast
import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [p for folder in ("dist_mtl", "launch", "tests") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 40


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """pytest skips folders called `dist` or `build` unless it is told not to."""
    skipped = pytestconfig.getini("norecursedirs")
    folders = {p.parent.relative_to(ROOT / "tests") for p in (ROOT / "tests").rglob("test_*.py")}
    assert not [f for f in folders for part in f.parts for pattern in skipped if fnmatch.fnmatch(part, pattern)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_size_and_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 320, "a file of more than 320 lines wants to be two"
    assert path.stem not in ("utils", "util", "common", "base", "helpers", "misc"), (
        "a helper without a home means that a noun is missing"
    )
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name} is longer than a screen"
    if path.name != "__init__.py" or text:
        assert ast.get_docstring(tree), "a file says what it is for"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_swallowed_exceptions(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            only_pass = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not (only_pass and ast.unparse(node.type) in ("Exception", "BaseException")), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_path_of_one_machine(path: Path) -> None:
    """A quoted absolute path is the kernel's or the system's own, or on a machine that does not exist (x, h)."""
    found = re.findall(r"""["']/(?!(?:proc|dev|sys|etc|x|h)/)[\w.-]+/.*""", path.read_text())
    assert not found, found
