"""docs/tour.ipynb: its cells run in order in one fresh process, and its outputs are those of its code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.harness import ROOT
from tests.support.notebook import code_cells

TOUR = ROOT / "docs" / "tour.ipynb"
MOST_BYTES = 100_000


def shown(notebook: dict[str, Any]) -> list[list[str]]:
    """By cell, what kinds of outputs it has."""
    return [
        [key for output in cell["outputs"] for key in output.get("data", {"text": 0})] for cell in code_cells(notebook)
    ]


def test_the_tour_runs(tmp_path: Path) -> None:
    copy = tmp_path / TOUR.name
    copy.write_bytes(TOUR.read_bytes())
    command = [sys.executable, "-m", "tests.support.notebook", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    made, kept = json.loads(copy.read_text()), json.loads(TOUR.read_text())
    assert shown(made) == shown(kept)
    assert sum(row.count("image/png") for row in shown(kept)) == 2
    assert TOUR.stat().st_size < MOST_BYTES
    assert str(tmp_path.parent) not in TOUR.read_text() and "/tmp" not in TOUR.read_text()
