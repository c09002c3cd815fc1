"""What does not fit together, in plain words, and the command that mends it: a pure function of `Findings`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dist_mtl.errors import ConfigError
from dist_mtl.parallel.world import World
from dist_mtl.tools.doctor.findings import Findings

# Releases that were built for each other, newest first: torch, torchrec, fbgemm. fbgemm is compiled against one minor
# release of torch and fails to load, or worse, with another one. The first row is the one in requirements/, and run.
TRIPLES = (("2.13", "1.8", "1.8"), ("2.12", "1.7", "1.7"), ("2.11", "1.6", "1.6"))
OLDEST_PYTHON = (3, 11)  # tomllib and the syntax of dist_mtl
NEWEST_PYTHON = (3, 14)  # fbgemm 1.8 has wheels up to this one
SYSTEMS = ("Linux x86_64", "Linux aarch64")  # the ones that fbgemm has wheels for
NEEDED = (  # and one of the two fbgemm
    "torch", "torchrec", "numpy", "pyarrow", "pydantic", "rich", "scipy", "jinja2", "xxhash",
)  # fmt: skip
LOW_RAM_GIB = 1.0  # two ranks of the quickstart need 0.3 GB each, before their tables
LOW_DISK_GIB = 2.0  # the sample logs, a few commits and the logs of a run

# What the loader's words mean; the first match wins.
REASONS = (
    (r"undefined symbol", "Libraries of two releases meet, most often an fbgemm that was built for another torch."),
    (r"libcuda\.so", "It needs the NVIDIA driver, and this machine has none."),
    (r"libtorch_cuda|libc10_cuda", "It is a CUDA build, and torch is a CPU build."),
    (
        r"lib(cu|nv|nccl)\w*\.so.*(cannot open|not found)",
        "It is a CUDA build whose NVIDIA libraries are absent (a CPU machine, or an install with --no-deps).",
    ),
    (r"GLIBC(XX)?_", "Its wheel needs a newer system than this one (Debian 10, RHEL 8 or later)."),
    (r"SIGILL", "It uses instructions that this processor does not have (fbgemm wants AVX2)."),
    (r"No module named|cannot import name", "A package that it needs is missing or of another release."),
    (r"did not end within", "The file system is very slow, or the NVIDIA driver hangs."),
)

Stack = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. A warning keeps nothing from running. `mend` is a command, or a sentence."""

    severity: Literal["error", "warning"]
    what: str
    why: str
    mend: str


def diagnose(f: Findings) -> tuple[Problem, ...]:
    """Every problem, errors first.

    The software is judged from the bottom up and only to the first layer with an error: what is wrong further up is
    most often its consequence, and its mending changes the picture.
    """
    problems: list[Problem] = []
    for layer in (_python, _missing, _flavours, _triple, _imports, _cuda):
        problems += layer(f)
        if has_error(problems):
            break
    for side in (_launch, _ranks, _resources):
        problems += side(f)
    return tuple(sorted(problems, key=lambda problem: problem.severity != "error"))


def has_error(problems: Sequence[Problem]) -> bool:
    """Whether something has to be mended before anything runs."""
    return any(problem.severity == "error" for problem in problems)


def _error(what: str, why: str, mend: str) -> Problem:
    return Problem("error", what, why, mend)


def _warning(what: str, why: str, mend: str) -> Problem:
    return Problem("warning", what, why, mend)


def _num_gpus(f: Findings) -> int:
    return len(f.driver.gpus) if f.driver else 0


def _fbgemm(f: Findings) -> str:
    """The version of the fbgemm that is installed, whichever build; empty if there is none."""
    return f.distributions.get("fbgemm-gpu") or f.distributions.get("fbgemm-gpu-cpu") or ""


def _is_cuda_build(f: Findings) -> bool:
    """Whether the installed torch was built for CUDA; where it can not be imported, from its version and the error."""
    if f.torch:
        return f.torch.cuda is not None
    error = f.imports["torch"] or ""
    return "+cu" in f.distributions.get("torch", "") or bool(re.search(r"lib(cu|nv|nccl)\w*\.so", error))


def _install(f: Findings, stack: Stack | None = None, fresh: bool = False) -> str:
    """The command that installs the lock, by default this machine's; `fresh`: in the place of broken packages."""
    stack = stack or ("cuda" if _num_gpus(f) else "cpu")
    pip = f"{f.executable} -m pip"
    command = f"{pip} install {'--no-deps ' if stack == 'cpu' else ''}-r requirements/{stack}.txt"
    # pip takes an installed CUDA build of torch 2.13.0 for the torch==2.13.0 of the lock, and the reverse.
    if fresh or ("torch" in f.distributions and _is_cuda_build(f) != (stack == "cuda")):
        command = f"{pip} uninstall -y torch torchrec fbgemm-gpu fbgemm-gpu-cpu; {command}"
    if stack == "cpu" and _is_cuda_build(f):
        # Otherwise the same index hands out the same CUDA build again.
        command += "\n(with PIP_EXTRA_INDEX_URL set to the CPU wheel index that pytorch.org/get-started names)"
    return command


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _because(f: Findings, name: str, otherwise: str) -> str:
    """Why the import of `name` failed, in words and in the loader's own; `otherwise` where nothing is known."""
    error = f.imports[name]
    if error is None:
        return otherwise
    reason = next((words for pattern, words in REASONS if re.search(pattern, error)), otherwise)
    return f"{reason} The message: {_one_line(error)}"


def _python(f: Findings) -> Iterator[Problem]:
    name = ".".join(map(str, f.python))
    if f.system not in SYSTEMS:
        why = f"fbgemm comes for {' and '.join(SYSTEMS)} only."
        yield _error(f"{f.system} has no fbgemm", why, "Use a Linux machine, a container, or WSL2 on Windows.")
    if f.python[:2] < OLDEST_PYTHON:
        why = "dist_mtl needs Python 3.11 or newer."
        yield _error(f"Python {name} is too old", why, "make clean venv PYTHON=python3.11")
    elif f.python[:2] > NEWEST_PYTHON:
        why = "fbgemm 1.8 has wheels for Python up to {}.{}.".format(*NEWEST_PYTHON)
        yield _warning(f"Python {name} is very new", why, "If the install fails: make clean venv PYTHON=python3.11")


def _missing(f: Findings) -> Iterator[Problem]:
    # A nightly or a build from source goes by another name; what imports is not missing.
    missing = [name for name in NEEDED if name not in f.distributions and f.imports.get(name, "absent") is not None]
    if not _fbgemm(f) and f.imports["fbgemm_gpu"] is not None:
        missing.append("fbgemm-gpu" if _num_gpus(f) else "fbgemm-gpu-cpu")
    if missing:
        why = f"{f.executable} does not find what dist_mtl is built on."
        yield _error(f"not installed: {', '.join(missing)}", why, _install(f))


def _flavours(f: Findings) -> Iterator[Problem]:
    """CPU and CUDA builds of torch and fbgemm that were mixed."""
    has_cpu, has_cuda = "fbgemm-gpu-cpu" in f.distributions, "fbgemm-gpu" in f.distributions
    torch = f"torch {f.distributions.get('torch', '')}"
    if has_cpu and has_cuda:
        files = f" The files are those of the {f.fbgemm_variant} build." if f.fbgemm_variant else ""
        why = (
            f"Both write the folder fbgemm_gpu, and the later one won.{files} Most often pip fetched fbgemm-gpu "
            "because torchrec names it; hence --no-deps on a CPU machine."
        )
        yield _error("fbgemm-gpu and fbgemm-gpu-cpu are both installed", why, _install(f, fresh=True))
    elif has_cpu and _is_cuda_build(f):
        what = f"{torch} is a CUDA build, fbgemm-gpu-cpu is a CPU build"
        if _num_gpus(f) == 0 and not any(f.imports.values()):
            why = "It runs, on the CPU; the CUDA build of torch only takes more room."
            yield _warning(what, why, _install(f, fresh=True))
        else:
            why = _because(f, "torch", "The embedding kernels for the GPU are absent.")
            yield _error(what, why, _install(f, fresh=True))
    elif has_cuda and f.distributions.get("torch") and not _is_cuda_build(f):
        why = _because(f, "fbgemm_gpu", "fbgemm-gpu wants libraries that only the CUDA build of torch has.")
        yield _error(f"{torch} is a CPU build, fbgemm-gpu is a CUDA build", why, _install(f, fresh=True))


def _triple(f: Findings) -> Iterator[Problem]:
    torch = f.torch.version if f.torch else f.distributions.get("torch", "")
    versions = {"torch": torch, "torchrec": f.distributions.get("torchrec", ""), "fbgemm": _fbgemm(f)}
    minors = tuple(".".join(re.findall(r"\d+", version)[:2]) for version in versions.values())
    if minors in TRIPLES or "" in minors:  # "": a nightly or a build from source; its import is the judge
        return
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    partners = {torch: (torchrec, fbgemm) for torch, torchrec, fbgemm in TRIPLES}.get(minors[0])
    if partners:
        torchrec, fbgemm = partners
        name = "fbgemm-gpu" if "fbgemm-gpu" in f.distributions else "fbgemm-gpu-cpu"
        yield _error(
            f"{found} are not of one release",
            f"torch {minors[0]} goes with torchrec {torchrec} and fbgemm {fbgemm}, which is compiled against it.",
            f'{f.executable} -m pip install --no-deps "torchrec=={torchrec}.*" "{name}=={fbgemm}.*"',
        )
    elif tuple(map(int, minors[0].split("."))) < tuple(map(int, TRIPLES[-1][0].split("."))):
        why = "dist_mtl needs torch {}, torchrec {} and fbgemm {}, or newer.".format(*TRIPLES[-1])
        yield _error(f"torch {torch} is too old", why, _install(f))
    else:
        why = "Known: " + "; ".join("torch {}, torchrec {}, fbgemm {}".format(*triple) for triple in TRIPLES) + "."
        yield _warning(f"{found}: not a release that dist_mtl knows", why, f"If something fails: {_install(f)}")


def _imports(f: Findings) -> Iterator[Problem]:
    broken = next((name for name, error in f.imports.items() if error is not None), None)
    if broken:
        absent = "No module named" in f.imports[broken]
        mend = _install(f, fresh=not absent)
        yield _error(f"{broken} is installed and does not work", _because(f, broken, ""), mend)


def _cuda(f: Findings) -> Iterator[Problem]:
    torch, driver = f.torch, f.driver
    if driver and driver.error:
        mend = "Mend the NVIDIA driver (after its update: reboot), or work on the CPU: make venv STACK=cpu"
        yield _warning("nvidia-smi is here and fails", _one_line(driver.error), mend)
    if torch is None:
        return
    if not torch.gloo:
        yield _error("torch was built without gloo", "Every job needs it, on GPUs too.", _install(f, fresh=True))
    if torch.cuda is None:
        if gpus := _num_gpus(f):
            what = f"{gpus} GPU(s) here, and torch {torch.version} is a CPU build"
            yield _warning(what, "Training runs on the CPU.", _install(f, "cuda"))
    elif torch.cuda_error is not None and "fbgemm-gpu-cpu" not in f.distributions:  # that mix is named by _flavours
        yield _unusable_cuda(f, torch.cuda, torch.cuda_error)
    elif _num_gpus(f) > 1 and not torch.nccl:
        yield _error("torch was built without NCCL", "Several GPUs need it.", _install(f, fresh=True))


def _unusable_cuda(f: Findings, built_for: str, error: str) -> Problem:
    """Why a CUDA build of torch does not reach a GPU."""
    if f.driver is None or not f.driver.gpus:
        mend = f"Nothing to do; to save room: {_install(f, 'cpu')}"
        return _warning("CUDA builds, and no NVIDIA GPU in sight", "Training runs on the CPU.", mend)
    if f.cuda_visible_devices in ("", "-1"):
        mend = "unset CUDA_VISIBLE_DEVICES"
        return _warning("CUDA_VISIBLE_DEVICES hides every GPU", "Training runs on the CPU.", mend)
    need, have = built_for.split(".")[0], f.driver.cuda.split(".")[0]
    if have and int(have) < int(need):  # within one major release of CUDA, an older driver runs newer builds
        return _error(
            f"the NVIDIA driver {f.driver.version} is too old for torch {f.distributions.get('torch', '')}",
            f"It runs CUDA up to {f.driver.cuda}; torch was built for CUDA {built_for}.",
            f"Update the driver to one for CUDA {need}, or work on the CPU: {_install(f, 'cpu')}",
        )
    mend = "nvidia-smi (does another process hold the GPU? is the GPU older than torch's wheels support?)"
    return _error("torch can not use the GPU", _one_line(error), mend)


def _launch(f: Findings) -> Iterator[Problem]:
    installed = [name for name in ("torchx", "torchx-nightly") if name in f.distributions]
    if not installed:
        return
    pip = f"{f.executable} -m pip"
    urllib3 = f.distributions.get("urllib3", "0")
    if len(installed) == 2:
        mend = f"{pip} uninstall -y torchx torchx-nightly; {pip} install --no-deps torchx==0.7.0"
        yield _warning("torchx and torchx-nightly are both installed", "Both write the folder torchx.", mend)
    elif installed == ["torchx"] and int(urllib3.split(".")[0]) >= 2:
        what = f"urllib3 {urllib3} is newer than torchx {f.distributions['torchx']} asks for (< 1.27)"
        yield _warning(what, "Harmless: torchx runs with it, and only `pip check` complains.", "Nothing to do.")
    if not f.components_registered:
        why = "`torchx run dist.ddp -j 2x8 launch/train.py` needs them; with `--script launch/train.py` it does not."
        mend = f"{pip} install --no-deps --no-build-isolation -e ."
        yield _warning("torchx does not know dist_mtl's components", why, mend)
    if f.scheduler != "local_cwd":
        why = "The repository's root has a .torchxconfig that says local_cwd; this folder has none."
        if f.scheduler_file:
            why = f"{f.scheduler_file} says so; one in the home directory wins over the repository's."
        what = f"here `torchx run` takes the scheduler {f.scheduler}, not local_cwd"
        yield _warning(what, why, "To stay on this machine: torchx run -s local_cwd dist.ddp ...")


def _ranks(f: Findings) -> Iterator[Problem]:
    if f.refused is not None:
        name = f.refused.partition("=")[0]
        yield _error(f.refused.partition(": ")[0], "A run refuses it, as torch does.", f"unset {name}")
    try:
        World.of(f.ranks)
    except ConfigError as error:
        why = "Left over from another launcher? A job ends at once, or waits for ranks that nobody starts."
        yield _warning(str(error).partition(". ")[0], why, f"unset {' '.join(f.ranks)}")
    if f.lost_hostname is not None:
        what = f"this machine's name, {f.lost_hostname}, does not resolve"
        why = "torchrun gives it to its ranks as the address to meet at, and they wait for it until they time out."
        mend = "On one node: torchrun --local_addr 127.0.0.1 ... (or: export PET_LOCAL_ADDR=127.0.0.1)\n"
        yield _warning(what, why, mend + "On several: add the name to /etc/hosts or to the DNS")


def _resources(f: Findings) -> Iterator[Problem]:
    if 0 < f.ram_available_gib < LOW_RAM_GIB:
        what = f"{f.ram_available_gib:.1f} GiB of memory available"
        yield _warning(what, "A rank needs 0.3 GB and its tables.", "Close other programs, or use fewer ranks.")
    if f.disk_free_gib < LOW_DISK_GIB:
        what = f"{f.disk_free_gib:.1f} GiB of disk free in this folder"
        yield _warning(what, "Data and commits are written here.", "Free some room, or run in another folder.")
