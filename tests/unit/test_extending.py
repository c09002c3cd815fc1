"""docs/extending.md: its diffs apply, touch as few places as it says, and what they add is trained."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
DIFFS = re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL)
MOST_FILES, MOST_PLACES = 3, 5
USE = """
import sys
import dist_mtl as dm
from tests.support import samples
samples.write_logs("train", 320)
run = dm.train(dm.load_config(samples.tree("."), {
    "model.backbone": {"kind": "gated", "width": 16},
    "model.confidence": {"weight": 0.1},
    "features.hour": {"kind": "cyclic", "column": "age", "period": 24.0},
    "tables.user.sharding": "table_column_wise",
    "optim.embedding.kind": "adagrad",
    "train.max_steps": 2,
}))
assert run.events("step")[-1]["losses"]["confidence"] > 0
assert dm.load_model(run).predict(samples.logs(2)).num_rows == 2
print("trained with", dm.__file__)
"""


def places(diff: str) -> dict[str, int]:
    """File -> places that are edited there: runs of lines that are added or removed."""
    found: dict[str, int] = {}
    for part in re.split(r"^--- .*\n", diff, flags=re.MULTILINE)[1:]:
        path = re.match(r"\+\+\+ b/(\S+)", part)[1]
        found[path] = len(re.findall(r"(?:^[+-].*\n?)+", part.partition("\n")[2], flags=re.MULTILINE))
    return found


def rows_of_the_table() -> list[tuple[int, int]]:
    return [
        (int(files), int(count)) for files, count in re.findall(r"^\| a .*? \| (\d) \| (\d) \|", PAGE, re.MULTILINE)
    ]


def test_the_table_counts_what_the_diffs_edit() -> None:
    counted = [(len(found), sum(found.values())) for found in map(places, DIFFS)]
    assert counted == rows_of_the_table() and len(counted) == 4
    assert all(files <= MOST_FILES and count <= MOST_PLACES for files, count in counted)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package with the diffs applied."""
    shutil.copytree(ROOT / "dist_mtl", tmp_path / "copy" / "dist_mtl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copy" / "tests").symlink_to(ROOT / "tests")
    for diff in DIFFS:
        command = ["git", "apply", "--unsafe-paths", "--unidiff-zero", f"--directory={tmp_path / 'copy'}", "-"]
        done = subprocess.run(command, input=diff, capture_output=True, text=True, cwd=tmp_path)
        assert not done.returncode, done.stderr
    return tmp_path / "copy"


def test_what_the_diffs_add_is_trained(package: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith(f"trained with {package}")
