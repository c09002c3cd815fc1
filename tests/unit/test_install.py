"""The way from a fresh checkout to a working environment: the locks, the Makefile, CI, and what git keeps out."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CPU, CUDA = ROOT / "requirements/cpu.txt", ROOT / "requirements/cuda.txt"
INSTALL_FILES = (
    "pyproject.toml", "Makefile", ".ci/run", ".gitignore", ".torchxconfig", "requirements/cpu.txt",
    "requirements/cuda.txt",
)  # fmt: skip

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
needs_git = pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")


def lines(lock: Path) -> list[str]:
    return [line for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def pins(lock: Path) -> dict[str, str]:
    return dict(line.split("==") for line in lines(lock))


@pytest.mark.parametrize("lock", [CPU, CUDA], ids=["cpu", "cuda"])
def test_every_line_of_a_lock_is_one_exact_pin(lock: Path) -> None:
    for line in lines(lock):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", line), line
    assert len(pins(lock)) == len(lines(lock)), "a package is pinned twice"


def test_the_two_locks_differ_in_fbgemm_alone() -> None:
    cpu, cuda = pins(CPU), pins(CUDA)
    assert cpu.pop("fbgemm-gpu-cpu") == cuda.pop("fbgemm-gpu")
    assert cpu == cuda
    assert "fbgemm-gpu" not in cpu and "fbgemm-gpu-cpu" not in cuda


def test_the_lock_is_the_newest_triple_of_the_doctor() -> None:
    from dist_mtl.tools.doctor.diagnosis import TRIPLES

    cpu = pins(CPU)
    versions = (cpu["torch"], cpu["torchrec"], cpu["fbgemm-gpu-cpu"])
    assert tuple(version.rpartition(".")[0] for version in versions) == TRIPLES[0]


def test_the_lock_holds_what_the_project_and_its_extras_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [row for extra in project["optional-dependencies"].values() for row in extra]
    for text in wanted:
        requirement = Requirement(text)
        assert pins(CPU)[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_lock_is_closed_under_the_needs_of_its_packages() -> None:
    """With --no-deps, pip neither adds a package that the lock forgets nor minds a pin that another package refuses."""
    locked = pins(CPU)
    judged = 0
    for name, version in locked.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another stack, or the package without its extras
        if distribution.version.partition("+")[0] != version:
            continue
        judged += 1
        for text in distribution.requires or []:
            need = Requirement(text)
            key = canonicalize_name(need.name)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            if key == "fbgemm-gpu" or key.startswith(("nvidia-", "cuda-", "triton")):
                continue  # the one lie of torchrec, and what the CUDA build of torch leaves to pip
            assert key in locked, f"{name} needs {text}"
            assert need.specifier.contains(locked[key], prereleases=True), f"{name} needs {text}, locked {locked[key]}"
    if judged < len(locked) / 2:
        pytest.skip(f"this environment is not the lock: {judged} of {len(locked)} packages match")


@pytest.mark.parametrize("name", INSTALL_FILES)
def test_no_address_and_no_path_of_a_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"\w+://|--(extra-)?index-url|--find-links|--hash|/(root|home|opt|work|Users)/", text)


def test_the_component_is_registered_after_the_builtins() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert list(points["torchx.components"].items()) == [
        ("_builtin", "torchx.components"),
        ("dist", "dist_mtl.torchx_components"),
    ]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # `make test` hands its own flags and variables to every make below it.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def fake_environment(folder: Path, failures: int = 0) -> Path:
    """A .venv whose python writes down what it is asked, and whose pip fails the first `failures` times."""
    venv = folder / "venv"
    python = venv / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {venv}/asked\n'
        f'case "$*" in *install*-r*) [ "$(grep -c -- -r {venv}/asked)" -gt {failures} ];; esac\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return venv


@needs_make
def test_make_alone_lists_the_targets() -> None:
    page = make().stdout
    for target in ("quickstart", "test", "venv", "check", "doctor", "clean"):
        assert f"make {target} " in page


@needs_make
def test_the_cpu_lock_is_installed_without_and_the_cuda_lock_with_dependencies(tmp_path: Path) -> None:
    cpu = make("-n", "venv", "STACK=cpu", f"VENV={tmp_path}").stdout
    cuda = make("-n", "venv", "STACK=cuda", f"VENV={tmp_path}").stdout
    assert "--no-deps -r requirements/cpu.txt" in cpu
    assert "install -qq --no-compile -r requirements/cuda.txt" in " ".join(cuda.split())
    assert make("-n", "venv", "STACK=tpu").returncode != 0


@needs_make
@pytest.mark.parametrize("failures, installs, code", [(0, 1, 0), (1, 2, 0), (2, 2, 2)])
def test_pip_gets_a_second_chance_and_no_third(tmp_path: Path, failures: int, installs: int, code: int) -> None:
    venv = fake_environment(tmp_path, failures)
    done = make("venv", "STACK=cpu", f"VENV={venv}")
    asked = (venv / "asked").read_text(encoding="utf-8")
    assert asked.count("-r requirements/cpu.txt") == installs
    assert done.returncode == code, done.stderr
    assert (venv / ".installed").exists() == (code == 0)
    assert ("--no-build-isolation --editable ." in asked) == (code == 0)
    assert asked.endswith("-m dist_mtl doctor\n") == (code == 0)


@needs_make
def test_a_second_run_installs_nothing_and_another_stack_does(tmp_path: Path) -> None:
    venv = fake_environment(tmp_path)
    assert make("venv", "STACK=cpu", f"VENV={venv}").returncode == 0
    asked = (venv / "asked").read_text(encoding="utf-8")
    assert make("venv", "STACK=cpu", f"VENV={venv}").returncode == 0
    assert (venv / "asked").read_text(encoding="utf-8") == asked
    assert make("venv", "STACK=cuda", f"VENV={venv}").returncode == 0
    later = (venv / "asked").read_text(encoding="utf-8").removeprefix(asked)
    assert "uninstall" in later.splitlines()[0] and "-r requirements/cuda.txt" in later


@needs_make
def test_a_missing_python_is_said_in_words(tmp_path: Path) -> None:
    done = make("venv", f"VENV={tmp_path}/venv", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "dist_mtl needs Python 3.11 or newer; tried: no-such-python." in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_the_quickstart_is_two_ranks_on_one_thread_each(tmp_path: Path) -> None:
    command = make("-n", "quickstart", f"VENV={tmp_path}").stdout
    assert "OMP_NUM_THREADS=1" in command
    assert "torchrun --standalone --nproc_per_node 2 launch/train.py configs/quickstart.toml" in command


def test_ci_runs_the_checks_and_the_tests_and_stops_at_the_first_error() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111 == 0o111
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text and text.endswith("\nmake check\nexec make test\n")


@needs_git
@pytest.mark.parametrize("path", ["dist_mtl/data/order.py", "tests/dist/test_x.py", "dist_mtl/checkpoint/store.py"])
def test_git_keeps_source(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT, timeout=60).returncode == 1


@needs_git
@pytest.mark.parametrize("path", ["data/x.parquet", "runs/a/b", ".venv/x", "dist_mtl.egg-info/x", "a/__pycache__/x"])
def test_git_keeps_out_what_is_made(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT, timeout=60).returncode == 0
