"""python -m benchmarks.scaling for real: ranks of its own, every series measured, and the page of it."""

import csv
import subprocess
import sys
from pathlib import Path

from tests.support.harness import ROOT

FILE = """
dir = "{dir}/out"
ranks = [1, 2]
rows = [1_000]
scaling = ["weak"]
rows_per_rank = 128
rounds = 3
steps = 2
[logs]
folder = "{dir}/logs"
rows = 16_384
ids = 3
dense = 2
rows_per_table = 20_000
"""


def test_a_small_run(tmp_path: Path) -> None:
    (tmp_path / "scale.toml").write_text(FILE.format(dir=tmp_path))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scaling", str(tmp_path / "scale.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/scale.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["ranks"], row["rows_per_table"]) for row in rows] == [
        ("weak", "1", "1000"),
        ("weak", "2", "1000"),
    ]
    for row in rows:
        weights = 3 * int(row["rows_per_table"]) * 16 * 4
        states = 3 * int(row["rows_per_table"]) * 4
        whole = (weights + states) / 1e6
        least = whole / int(row["ranks"])
        assert least * 0.99 <= float(row["tables_mb"]) <= whole, row
        assert 0 < float(row["low"]) <= float(row["gain"]) <= float(row["high"]) and float(row["step_ms"]) > 0
        assert float(row["memory_mb"]) > 100 and row["interleaved"] == "True"
    assert {row["gain"] for row in rows if row["ranks"] == "1" and row["rows_per_table"] == "1000"} == {"1.0"}
    assert "in collectives" in done.stdout and (tmp_path / "out/split.png").exists()
    assert not (tmp_path / "out/run").exists(), "a measurement is no run"
