"""`make gpu-check` rehearsed on CPU ranks: a row that runs and resumes, one that is refused; and no GPU, no table."""

import subprocess
import sys

from benchmarks.figures.gpu_check import CHECKS, config_of
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from tests.support.harness import ROOT

COMMAND = [sys.executable, "-W", "ignore", "-m", "benchmarks.figures.gpu_check"]


def test_rows_that_run_and_rows_that_are_refused() -> None:
    words = ("--device", "cpu", "--only", "sparse_dist", "backward as bf16")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert list(rows) == ["check", "pipeline sparse_dist", "backward as bf16"]
    assert "losses within" in rows["pipeline sparse_dist"] and "resumed: 0 of " in rows["pipeline sparse_dist"]
    assert "refused: sharding.backward = 'bf16': gloo can not carry bfloat16" in rows["backward as bf16"]


def test_every_row_is_a_configuration(tmp_path) -> None:
    tree = config_of(tmp_path, "cpu", 1_000, 4, 2, 256)
    plain = parse(tree)
    for one in CHECKS[1:]:
        config = parse(tree, one.settings)
        assert isinstance(config, Config) and config != plain, one.name
    assert len({one.name for one in CHECKS}) == len(CHECKS)


def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=120, cwd=ROOT, env={"PATH": ""})
    assert done.returncode == 69 and "no GPU here" in done.stderr and not done.stdout
