"""The wheel: what is in it, and that it trains, evaluates and reports from an empty folder without the checkout."""

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout"
)


def tracked() -> list[str]:
    """The files that git knows and that are here, the links to folders included."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return [name for name in done.stdout.split("\0") if name and os.path.lexists(ROOT / name)]


def environment() -> dict[str, str]:
    """Without the path to the checkout that tests/conftest.py puts there, and without what a launcher left."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def done(*words: object, cwd: Path) -> str:
    """The output of a command that ends well."""
    ended = subprocess.run([*map(str, words)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in its source, and takes what an earlier build has left there."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--no-cache-dir")
    done(sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", out, source, cwd=out)
    [path] = out.iterdir()
    return path


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a fresh environment with the wheel in it; all that it depends on comes from this one's packages."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    offline = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    done(sys.executable, "-m", "pip", "--python", python, "install", "-q", *offline, wheel, cwd=folder)
    # Behind the wheel on sys.path. Their own .pth files are not read from there, so no editable install takes part.
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    [own] = folder.glob("lib/python3*/site-packages")
    (own / "dependencies.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return python.parent


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [row for row in archive.infolist() if ".dist-info/" not in row.filename]
    names = {row.filename for row in members}

    files = {name for name in tracked() if name.startswith("dist_mtl/") and not (ROOT / name).is_symlink()}
    recipes = {f"dist_mtl/recipes/{Path(name).name}" for name in tracked() if name.startswith("configs/")}
    assert names == files | recipes
    assert {"dist_mtl/py.typed", "dist_mtl/recipes/quickstart.toml", "dist_mtl/tools/report/style.css"} <= names
    assert not [row.filename for row in members if stat.S_ISLNK(row.external_attr >> 16)]


def test_the_wheel_trains_evaluates_and_reports_from_an_empty_folder(binaries: Path, tmp_path: Path) -> None:
    command = binaries / "dist-mtl"
    at = done(binaries / "python", "-c", "import dist_mtl; print(dist_mtl.__file__)", cwd=tmp_path)
    assert Path(at).is_relative_to(binaries.parent), at
    assert "  train " in done(command, "--help", cwd=tmp_path)

    assert "dist-mtl train mine/quickstart.toml" in done(command, "new", "mine", cwd=tmp_path)
    small = ("data.sample.train_rows=20000", "data.sample.test_rows=1000", "train.max_steps=3")
    trained = done(command, "train", "mine/quickstart.toml", *(f"--set={text}" for text in small), cwd=tmp_path)
    evaluated = done(command, "evaluate", "runs/quickstart", cwd=tmp_path)
    assert all("CTCVR" in text and "1,000 rows" in text for text in (trained, evaluated))
    done(command, "report", "runs/quickstart", cwd=tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"mine", "data", "runs"}
    assert "<html" in (tmp_path / "runs/quickstart/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart.toml"])
def test_a_recipe_is_known_by_its_name_where_there_is_no_checkout(binaries: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "quickstart").mkdir()  # a folder of that name, such as of `dist-mtl new quickstart`, is no recipe
    code = "import sys; from dist_mtl.config.file import load; print(load(sys.argv[1]).run.dir)"
    assert done(binaries / "python", "-c", code, name, cwd=tmp_path).strip() == "runs/quickstart"
