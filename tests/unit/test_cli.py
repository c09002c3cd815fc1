"""`dist-mtl VERB`: one list of verbs, a file for each, the same verbs as scripts where a launcher starts many ranks."""

import subprocess
import sys
from pathlib import Path

import pytest

from dist_mtl.cli import MANY_RANKS, VERBS
from dist_mtl.cli.verbs import main_of
from dist_mtl.config.file import load
from dist_mtl.config.recipes import RECIPES, names, resolved
from dist_mtl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"__init__", "arguments", "verbs"}


def dist_mtl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dist_mtl", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_verb_has_a_file_and_every_file_is_a_verb() -> None:
    files = {path.stem for path in (ROOT / "dist_mtl/cli").glob("*.py")} - SHARED

    assert files == VERBS.keys()
    assert all(callable(main_of(verb)) for verb in VERBS.keys() - {"doctor"})


def test_launch_has_the_verbs_of_many_ranks() -> None:
    assert {path.stem for path in (ROOT / "launch").glob("*.py")} == set(MANY_RANKS)


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dist_mtl.cli import _help; _help(); print({'torch', 'pyarrow', 'pydantic'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
    listed = dist_mtl("--help")
    assert listed.returncode == 0
    for verb, line in VERBS.items():
        assert any(row.split(maxsplit=1) == [verb, line] for row in listed.stdout.splitlines() if row.strip()), verb


@pytest.mark.parametrize(("verb", "says"), [("trian", "did you mean `train`?"), ("", "see dist-mtl --help")])
def test_an_unknown_verb_is_a_wrong_command_line(verb: str, says: str) -> None:
    done = dist_mtl(verb)
    assert done.returncode == 64 and says in done.stderr and "Traceback" not in done.stderr


def test_new_writes_a_recipe_and_never_over_a_file(tmp_path: Path) -> None:
    done = dist_mtl("new", str(tmp_path / "first"))
    written = tmp_path / "first/quickstart.toml"
    assert done.returncode == 0 and written.read_text() == (ROOT / "configs/quickstart.toml").read_text()
    assert dist_mtl("new", str(tmp_path / "first")).returncode == 64
    assert dist_mtl("new", str(tmp_path), "--recipe", "quikstart").returncode == 64


def test_recipes_are_the_files_of_configs() -> None:
    assert {path.name for path in RECIPES.glob("*.toml")} == {path.name for path in (ROOT / "configs").glob("*.toml")}
    assert "quickstart" in names() and not [name for name in names() if name.startswith("study")]
    assert resolved("quickstart") == RECIPES / "quickstart.toml"
    assert resolved("configs/nowhere.toml") == Path("configs/nowhere.toml")
    assert resolved("other/quickstart.toml") == Path("other/quickstart.toml")


def test_a_recipe_that_is_spelt_wrong_is_answered_with_the_nearest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="movilens: No such file or directory. did you mean `movielens`?"):
        load("movilens")
