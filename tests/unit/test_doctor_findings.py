"""What the doctor finds, on real processes and on the output of nvidia-smi."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dist_mtl.tools.doctor.diagnosis import Problem
from dist_mtl.tools.doctor.findings import Findings, read_driver
from dist_mtl.tools.doctor.import_probe import PROBE_MARK, read_probe

ROOT = Path(__file__).resolve().parents[2]


def test_the_driver_is_read_from_nvidia_smi() -> None:
    query = "NVIDIA H200, 143771, 580.95.05\nNVIDIA GB10, [N/A], 580.95.05\n"
    banner = "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0     |"
    driver = read_driver(query, banner)
    assert (driver.version, driver.cuda, driver.error) == ("580.95.05", "13.0", None)
    assert [(gpu.name, round(gpu.memory_gib)) for gpu in driver.gpus] == [("NVIDIA H200", 140), ("NVIDIA GB10", 0)]


@pytest.mark.parametrize("returncode, ending", [(-11, "signal SIGSEGV"), (3, "exit code 3"), (None, "not end within")])
def test_a_child_that_ends_early_blames_the_import_it_was_in(returncode: int | None, ending: str) -> None:
    line = PROBE_MARK + json.dumps({"name": "torch", "error": None, "version": "2.13.0"})
    facts = read_probe(f"noise of a library\n{line}\n", returncode)
    assert facts["torch"]["error"] is None
    assert ending in facts["fbgemm_gpu"]["error"]
    assert "not tried" in facts["torchrec"]["error"]


def doctor(tmp_path: Path, **modules: str) -> tuple[int, list[Problem], Findings]:
    """Run the doctor for real, with these modules in front of the installed ones."""
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "dist_mtl", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    page = json.loads(done.stdout)
    return done.returncode, page["problems"], page["findings"]


# As torch.ops.load_library does: the symbol is named by the cause alone.
FAKE_TORCH = """
try:
    raise OSError("libtorch_cpu.so: undefined symbol: _ZN3c105ErrorC2")
except OSError as error:
    raise OSError("Could not load this library") from error
"""


def test_an_abi_error_on_import_is_survived(tmp_path: Path) -> None:
    code, problems, findings = doctor(tmp_path, torch=FAKE_TORCH, fbgemm_gpu="import torch", torchrec="import torch")
    assert code == 70
    assert findings["torch"] is None
    assert "undefined symbol" in findings["imports"]["torch"]
    assert problems[0]["severity"] == "error"


def test_a_crash_on_import_is_survived(tmp_path: Path) -> None:
    code, problems, findings = doctor(tmp_path, torch="import os; print('noise'); os.abort()")
    assert code == 70
    assert "SIGABRT" in findings["imports"]["torch"]
    assert "not tried" in findings["imports"]["torchrec"]
    assert problems[0]["severity"] == "error"


def test_the_doctor_itself_imports_no_torch() -> None:
    code = "import sys, dist_mtl.tools.doctor, dist_mtl.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("name", "lost"), [("127.0.0.1", None), ("localhost", None), ("x" * 64, "x" * 64), ("a b", "a b")]
)
def test_the_name_that_torchrun_gives_its_ranks_is_looked_up(name: str, lost: str | None) -> None:
    """By torchrun's own variable, so that no name of this machine has to change."""
    code = "from dist_mtl.tools.doctor import findings; print(repr(findings._lost_hostname()))"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PET_LOCAL_ADDR": name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == repr(lost), done.stderr
