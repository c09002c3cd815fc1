"""The diagnosis is a pure function: findings in, problems out. `collect` meets packages that are really broken."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from dist_mtl.tools.doctor import render
from dist_mtl.tools.doctor.diagnosis import NEEDED, diagnose, has_error
from dist_mtl.tools.doctor.findings import DISTRIBUTIONS, Driver, Findings, Gpu, Torch

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"numpy": "2.4.6", "pyarrow": "26.0.1", "pydantic": "2.14.3", "rich": "15.0.0"}
LIBRARIES |= {"scipy": "1.17.0", "jinja2": "3.1.6", "xxhash": "3.6.0"}
IMPORTS = {"torch": None, "fbgemm_gpu": None, "torchrec": None}
CPU_TORCH = Torch("2.13.0+cpu", None, None, gloo=True, nccl=False)
CUDA_TORCH = Torch("2.13.0+cu130", "13.0", None, gloo=True, nccl=True)
H200 = Driver("580.95", "13.0", (Gpu("NVIDIA H200", 140.4),), None)
NO_CUDA = "RuntimeError: Found no NVIDIA driver on your system."
UNDEFINED = (
    "OSError: Could not load this library: /x/fbgemm_gpu/fbgemm_gpu_config.so <- "
    "OSError: /x/fbgemm_gpu/fbgemm_gpu_config.so: undefined symbol: _ZN3c104cuda9SetDeviceEab"
)

CPU = Findings(
    python=(3, 11, 7),
    executable="/x/python",
    system="Linux x86_64",
    distributions=LIBRARIES | {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"},
    imports=IMPORTS,
    torch=CPU_TORCH,
    fbgemm_variant="cpu",
    driver=None,
    cuda_visible_devices=None,
    cores=2,
    ram_gib=24.0,
    ram_available_gib=20.0,
    disk_free_gib=70.0,
    components_registered=True,
    scheduler="local_cwd",
    scheduler_file="/x/.torchxconfig",
    ranks={},
    refused=None,
    lost_hostname=None,
)
GPU = replace(
    CPU,
    distributions=LIBRARIES | {"torch": "2.13.0+cu130", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"},
    torch=CUDA_TORCH,
    fbgemm_variant="cuda",
    driver=H200,
)


def installed(base: Findings, **versions: str | None) -> Findings:
    """`base` with other versions of distributions; None takes one away."""
    rows = dict(base.distributions) | {name.replace("_", "-"): version for name, version in versions.items()}
    return replace(base, distributions={name: version for name, version in rows.items() if version})


def broken(base: Findings, **errors: str) -> Findings:
    """`base` with packages whose import fails."""
    torch = None if "torch" in errors else base.torch
    return replace(base, imports=IMPORTS | errors, torch=torch)


CASES = {
    "python too old": (
        replace(CPU, python=(3, 9, 18)), "error", "Python 3.9.18 is too old", "PYTHON=python3.11",
    ),
    "python newer than the wheels": (replace(CPU, python=(3, 15, 0)), "warning", "3.15.0 is very new", "make"),
    "macOS": (replace(CPU, system="Darwin arm64"), "error", "Darwin arm64 has no fbgemm", "Linux"),
    "nothing installed": (
        replace(CPU, distributions={}, torch=None, imports=dict.fromkeys(IMPORTS, "No module named 'torch'")),
        "error", f"not installed: torch, torchrec, {', '.join(LIBRARIES)}, fbgemm-gpu-cpu",
        "install --no-deps -r requirements/cpu.txt",
    ),
    "fbgemm missing on a GPU machine": (
        broken(installed(GPU, fbgemm_gpu=None), fbgemm_gpu="ModuleNotFoundError: No module named 'fbgemm_gpu'"),
        "error", "not installed: fbgemm-gpu", "install -r requirements/cuda.txt",
    ),
    "both fbgemm": (
        installed(CPU, fbgemm_gpu="1.8.0"), "error", "fbgemm-gpu and fbgemm-gpu-cpu are both installed",
        "-y torch torchrec fbgemm-gpu fbgemm-gpu-cpu; /x/python -m pip install --no-deps -r requirements/cpu.txt",
    ),
    "both fbgemm on a GPU machine": (
        installed(GPU, fbgemm_gpu_cpu="1.8.0"), "error", "both installed", "install -r requirements/cuda.txt",
    ),
    "CUDA torch, CPU fbgemm, a GPU": (
        replace(installed(GPU, fbgemm_gpu=None, fbgemm_gpu_cpu="1.8.0"), fbgemm_variant="cpu"),
        "error", "torch 2.13.0+cu130 is a CUDA build, fbgemm-gpu-cpu is a CPU build", "requirements/cuda.txt",
    ),
    "CUDA torch, CPU fbgemm, no GPU, all imports": (
        replace(installed(CPU, torch="2.13.0"), torch=replace(CUDA_TORCH, cuda_error=NO_CUDA)),
        "warning", "torch 2.13.0 is a CUDA build", "PIP_EXTRA_INDEX_URL",
    ),
    "CUDA torch without its libraries": (
        broken(installed(CPU, torch="2.13.0"), torch="OSError: libcudart.so.13: cannot open shared object file"),
        "error", "torch 2.13.0 is a CUDA build", "PIP_EXTRA_INDEX_URL",
    ),
    "CPU torch, CUDA fbgemm": (
        broken(installed(CPU, fbgemm_gpu_cpu=None, fbgemm_gpu="1.8.0"),
               fbgemm_gpu="OSError: libtorch_cuda.so: cannot open shared object file"),
        "error", "torch 2.13.0+cpu is a CPU build, fbgemm-gpu is a CUDA build", "requirements/cpu.txt",
    ),
    "fbgemm of an older release": (
        broken(installed(CPU, fbgemm_gpu_cpu="1.6.0"), fbgemm_gpu=UNDEFINED, torchrec=UNDEFINED),
        "error", "torch 2.13.0+cpu, torchrec 1.8.0, fbgemm 1.6.0 are not of one release",
        '/x/python -m pip install --no-deps "torchrec==1.8.*" "fbgemm-gpu-cpu==1.8.*"',
    ),
    "torchrec of an older release": (
        installed(GPU, torchrec="1.7.0"), "error", "are not of one release", '"fbgemm-gpu==1.8.*"',
    ),
    "a torch before the first triple": (
        replace(installed(CPU, torch="2.9.1", torchrec="1.4.0", fbgemm_gpu_cpu="1.4.2"),
                            torch=replace(CPU_TORCH, version="2.9.1")),
        "error", "torch 2.9.1 is too old", "requirements/cpu.txt",
    ),
    "a torch after the last triple": (
        replace(installed(CPU, torch="2.14.0", torchrec="1.9.0", fbgemm_gpu_cpu="1.9.0"),
                            torch=replace(CPU_TORCH, version="2.14.0")),
        "warning", "torch 2.14.0, torchrec 1.9.0, fbgemm 1.9.0: not a release that", "If something fails",
    ),
    "undefined symbol": (
        broken(CPU, fbgemm_gpu=UNDEFINED), "error", "fbgemm_gpu is installed and does not work", "cpu.txt",
    ),
    "torch crashes on import": (
        broken(CPU, torch="its import crashed the process with signal SIGILL"),
        "error", "torch is installed and does not work", "cpu.txt",
    ),
    "a dependency of torchrec is missing": (
        broken(CPU, torchrec="ModuleNotFoundError: No module named 'tensordict'"),
        "error", "torchrec is installed and does not", "/x/python -m pip install --no-deps -r requirements/cpu.txt",
    ),
    "a GPU and CPU builds": (
        replace(CPU, driver=H200), "warning", "1 GPU(s) here, and torch 2.13.0+cpu is a CPU build",
        "install -r requirements/cuda.txt",
    ),
    "the driver is too old": (
        replace(GPU, driver=replace(H200, version="535.10", cuda="12.2"),
                            torch=replace(CUDA_TORCH, cuda_error="RuntimeError: driver too old")),
        "error", "the NVIDIA driver 535.10 is too old for torch 2.13.0+cu130", "Update the driver to one for CUDA 13",
    ),
    "the GPU is not usable": (
        replace(GPU, torch=replace(CUDA_TORCH, cuda_error="AcceleratorError: no kernel image")),
        "error", "torch can not use the GPU", "nvidia-smi",
    ),
    "the GPUs are hidden": (
        replace(GPU, cuda_visible_devices="", torch=replace(CUDA_TORCH, cuda_error=NO_CUDA)),
        "warning", "CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES",
    ),
    "CUDA builds without a GPU": (
        replace(GPU, driver=None, torch=replace(CUDA_TORCH, cuda_error=NO_CUDA)),
        "warning", "no NVIDIA GPU in sight", "Nothing to do",
    ),
    "nvidia-smi fails": (
        replace(CPU, driver=Driver("unknown", "", (), "couldn't communicate with the NVIDIA driver")),
        "warning", "nvidia-smi is here and fails", "STACK=cpu",
    ),
    "no gloo": (
        replace(CPU, torch=replace(CPU_TORCH, gloo=False)), "error", "without gloo", "cpu.txt",
    ),
    "two GPUs without NCCL": (
        replace(GPU, driver=replace(H200, gpus=H200.gpus * 2),
                            torch=replace(CUDA_TORCH, nccl=False)),
        "error", "without NCCL", "cuda.txt",
    ),
    "urllib3 2 with torchx": (
        installed(CPU, torchx="0.7.0", urllib3="2.8.0"), "warning", "urllib3 2.8.0 is newer than torchx 0.7.0",
        "Nothing to do",
    ),
    "both torchx": (
        installed(CPU, torchx="0.7.0", torchx_nightly="2026.10.26"), "warning", "torchx and torchx-", "uninstall",
    ),
    "components not registered": (
        replace(installed(CPU, torchx="0.7.0"), components_registered=False), "warning",
        "torchx does not know dist_mtl's components", "/x/python -m pip install --no-deps --no-build-isolation -e .",
    ),
    "another scheduler": (
        replace(installed(CPU, torchx="0.7.0"), scheduler="slurm", scheduler_file="/h/.torchxconfig"),
        "warning", "takes the scheduler slurm, not local_cwd", "-s local_cwd",
    ),
    "half of a rank's environment": (
        replace(CPU, ranks={"RANK": "0", "WORLD_SIZE": "8"}), "warning",
        "MASTER_ADDR is not set, beside RANK='0' WORLD_SIZE='8'", "unset RANK WORLD_SIZE",
    ),
    "a value that torch does not start with": (
        replace(CPU, refused="TORCH_DISTRIBUTED_DEBUG='abc': torch does not start with it"), "error",
        "TORCH_DISTRIBUTED_DEBUG='abc'", "unset TORCH_DISTRIBUTED_DEBUG",
    ),
    "a name that does not resolve": (
        replace(CPU, lost_hostname="box"), "warning", "this machine's name, box, does not resolve",
        "torchrun --local_addr 127.0.0.1",
    ),
    "little memory": (replace(CPU, ram_available_gib=0.4), "warning", "0.4 GiB of memory", "fewer ranks"),
    "little disk": (replace(CPU, disk_free_gib=0.4), "warning", "0.4 GiB of disk", "room"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_the_one_problem_and_names_its_cure(case: str) -> None:
    findings, severity, what, mend = CASES[case]
    (problem,) = diagnose(findings)
    assert problem.severity == severity
    assert what in problem.what
    assert problem.why
    assert mend in problem.mend
    page = render(findings, [problem])
    assert problem.what in page and problem.mend.splitlines()[0] in page


@pytest.mark.parametrize(
    "torch, torchrec, fbgemm",
    [("2.13.0", "1.8.0", "1.8.0"), ("2.12.1", "1.7.0", "1.7.1"), ("2.11.0", "1.6.1", "1.6.0")],
)
@pytest.mark.parametrize("base", [CPU, GPU], ids=["cpu", "cuda"])
def test_the_released_triples_fit(base: Findings, torch: str, torchrec: str, fbgemm: str) -> None:
    name = "fbgemm_gpu" if base is GPU else "fbgemm_gpu_cpu"
    findings = installed(base, torch=torch, torchrec=torchrec, **{name: fbgemm})
    assert diagnose(replace(findings, torch=replace(base.torch, version=torch))) == ()


def test_a_job_of_a_launcher_is_no_problem() -> None:
    ranks = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    assert diagnose(replace(CPU, ranks=ranks)) == ()


def test_a_nightly_under_another_name_is_judged_by_its_import() -> None:
    assert diagnose(installed(CPU, fbgemm_gpu_cpu=None)) == ()


def test_the_reason_is_said_in_words_with_the_message() -> None:
    (problem,) = diagnose(broken(CPU, fbgemm_gpu=UNDEFINED))
    assert "built for another torch" in problem.why
    assert "_ZN3c104cuda9SetDeviceEab" in problem.why


def test_a_sound_torch_is_not_fetched_again_and_a_wrong_build_is_removed_first() -> None:
    (missing,) = diagnose(broken(installed(CPU, fbgemm_gpu_cpu=None), fbgemm_gpu="ModuleNotFoundError: x"))
    assert missing.mend == "/x/python -m pip install --no-deps -r requirements/cpu.txt"
    (other_build,) = diagnose(replace(CPU, driver=H200))
    assert other_build.mend.startswith("/x/python -m pip uninstall -y torch ")


def test_errors_come_first_and_the_verdict_counts_them() -> None:
    problems = diagnose(installed(CPU, fbgemm_gpu="1.8.0", torchx="0.7.0", urllib3="2.8.0"))
    assert [problem.severity for problem in problems] == ["error", "warning"]
    assert has_error(problems) and not has_error(problems[1:])
    assert render(CPU, problems).endswith("1 error(s), 1 warning(s): mend the errors, then look again.")
    assert render(CPU, []).endswith("All fits together.")


def test_the_page_says_what_was_found() -> None:
    page = render(GPU, [])
    facts = (
        "3.11.7", "2.13.0+cu130, built for CUDA 13.0, gloo yes, NCCL yes", "fbgemm-gpu 1.8.0", "2 core(s)",
        "NVIDIA H200, 140 GiB; driver 580.95 (CUDA up to 13.0)", "20.0 of 24.0 GiB", "70.0 GiB free",
    )  # fmt: skip
    for fact in facts:
        assert fact in page
    assert "torch         2.13.0+cpu, does not import" in render(broken(CPU, torch=UNDEFINED), [])


def test_the_doctor_misses_every_dependency_that_no_other_one_brings() -> None:
    """markupsafe comes with jinja2, fsspec with torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split("[>=<]", text)[0] for text in project["dependencies"]}
    assert set(NEEDED) == wanted - {"markupsafe", "fsspec"}
    assert set(NEEDED) <= set(DISTRIBUTIONS)
