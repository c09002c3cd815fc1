"""What this machine and this environment have: facts, no judgement (that is diagnosis.py).

Works without torch. torch, fbgemm and torchrec are imported in a child process, because a wrong build of them can end
the process that imports it.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.errors import ConfigError
from dist_mtl.parallel.world import DEBUG, check_torch, launcher_variables

DISTRIBUTIONS = (
    "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "torchx-nightly", "urllib3",
    "numpy", "pyarrow", "pydantic", "rich",
)  # fmt: skip
PROBED = ("torch", "fbgemm_gpu", "torchrec")  # in the order in which one needs the other
PROBE_MARK = "dist_mtl probe: "  # the libraries print to stdout too
PROBE_TIMEOUT = 240.0  # seconds; the three imports take 5 s here and took 50 s in 16 processes on two cores
NVIDIA_SMI_TIMEOUT = 30.0  # seconds; it takes 1 s, and a hung driver makes it wait for ever
GIB = 2**30


@dataclass(frozen=True)
class Torch:
    """The build of torch. `cuda` is the CUDA release it was built for; `cuda_error` says why CUDA can not be used."""

    version: str
    cuda: str | None
    cuda_error: str | None
    gloo: bool
    nccl: bool


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gib: float


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says. `cuda` is the newest CUDA release that the driver runs; `error` is set if it failed."""

    version: str
    cuda: str
    gpus: tuple[Gpu, ...]
    error: str | None


@dataclass(frozen=True)
class Findings:
    """All facts that a diagnosis needs. `imports` maps each of PROBED to the error of its import, None if it works."""

    python: tuple[int, int, int]
    executable: str
    system: str  # "Linux x86_64"
    distributions: Mapping[str, str]  # the installed ones of DISTRIBUTIONS, name to version
    imports: Mapping[str, str | None]
    torch: Torch | None  # None: torch can not be imported
    fbgemm_variant: str | None  # "cpu" or "cuda", from the files that import; None: they do not, or do not say
    driver: Driver | None  # None: no nvidia-smi
    cuda_visible_devices: str | None
    cores: int  # that this process may use
    ram_gib: float
    ram_available_gib: float
    disk_free_gib: float
    components_registered: bool  # torchx finds dist_mtl.torchx_components
    scheduler: str  # that `torchx run` takes here
    scheduler_file: str | None  # the file that says so; None: torchx's own default
    ranks: Mapping[str, str]  # what a launcher has set
    refused: str | None  # a variable of torch that a run refuses, and why
    lost_hostname: str | None  # this machine's name, where it does not resolve


def describe(error: BaseException) -> str:
    """The error and what caused it: torch says "could not load this library", and only the cause says which symbol."""
    cause = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}" + (f" <- {describe(cause)}" if cause else "")


def probe() -> None:
    """In a child process: import each of PROBED, use it once, and print one marked JSON line for each."""
    for name in PROBED:
        facts: dict[str, object] = {"name": name, "error": None}
        try:
            facts |= _PROBES[name]()
        except Exception as error:
            facts["error"] = describe(error)
        print(PROBE_MARK + json.dumps(facts), flush=True)


def _probe_torch() -> dict[str, object]:
    import torch

    cuda_error = None
    if torch.version.cuda is not None:
        try:
            torch.ones(1, device="cuda").add_(1).item()  # also meets "no kernel image" of a GPU too old or too new
        except Exception as error:
            cuda_error = describe(error)
    distributed = torch.distributed.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cuda_error": cuda_error,
        "gloo": distributed and torch.distributed.is_gloo_available(),
        "nccl": distributed and torch.distributed.is_nccl_available(),
    }


def _probe_fbgemm() -> dict[str, object]:
    import fbgemm_gpu
    import torch

    lengths = torch.tensor([1, 2])
    if torch.cuda.is_available() and getattr(fbgemm_gpu, "__variant__", "") == "cuda":
        lengths = lengths.cuda()
    offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths).tolist()
    if offsets != [0, 1, 3]:
        raise RuntimeError(f"fbgemm.asynchronous_complete_cumsum of [1, 2] gave {offsets}, not [0, 1, 3]")
    return {"variant": getattr(fbgemm_gpu, "__variant__", None)}


def _probe_torchrec() -> dict[str, object]:
    import torchrec.distributed  # noqa: F401

    return {}


_PROBES = {"torch": _probe_torch, "fbgemm_gpu": _probe_fbgemm, "torchrec": _probe_torchrec}


def read_probe(stdout: str, returncode: int | None) -> dict[str, dict[str, object]]:
    """The facts of each of PROBED from what the child printed; `returncode` None means that it ran out of time.

    The first package without a line is the one whose import ended the child.
    """
    lines = [line.removeprefix(PROBE_MARK) for line in stdout.splitlines() if line.startswith(PROBE_MARK)]
    facts = {row["name"]: row for row in map(json.loads, lines)}
    if returncode is None:
        ending = f"its import did not end within {PROBE_TIMEOUT:.0f} s"
    elif returncode < 0:
        ending = f"its import crashed the process with signal {signal.Signals(-returncode).name}"
    else:
        ending = f"its import ended the process with exit code {returncode}"
    for name in PROBED:
        if name not in facts:
            facts[name] = {"name": name, "error": ending}
            ending = "not tried: an import before it ended the process"
    return facts


def _run_probe() -> dict[str, dict[str, object]]:
    # The child has to find what this process finds, whether dist_mtl is installed or run from a checkout.
    code = f"import sys; sys.path[:] = {sys.path!r}; from dist_mtl.tools.doctor.findings import probe; probe()"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={name: value for name, value in os.environ.items() if name != DEBUG},  # `refused` tells of it
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROBE_TIMEOUT,
        )
    except subprocess.TimeoutExpired as late:
        return read_probe((late.stdout or b"").decode(errors="replace"), None)
    return read_probe(child.stdout, child.returncode)


def read_driver(query: str, banner: str) -> Driver:
    """The driver from nvidia-smi's CSV rows (name, memory in MiB, driver version) and from its banner."""
    rows = [[cell.strip() for cell in line.split(",")] for line in query.splitlines() if line.count(",") == 2]
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*([\d.]+)", banner)
    # A GPU with unified memory has "[N/A]" in the memory column.
    gpus = tuple(Gpu(name, float(mib) / 1024 if mib.isdigit() else 0.0) for name, mib, _ in rows)
    return Driver(rows[0][2] if rows else "unknown", cuda.group(1) if cuda else "", gpus, None)


def _driver() -> Driver | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    if shutil.which(query[0]) is None:
        return None
    texts = []
    for command in (query, query[:1]):
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=NVIDIA_SMI_TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Driver("unknown", "", (), str(error))
        if done.returncode != 0:
            return Driver("unknown", "", (), (done.stdout + done.stderr).strip() or f"exit code {done.returncode}")
        texts.append(done.stdout)
    return read_driver(*texts)


def _limit(path: str) -> list[str]:
    """The words of a cgroup v2 file; none where there is no such limit."""
    try:
        return Path("/sys/fs/cgroup", path).read_text(encoding="ascii").split()
    except OSError:
        return []


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _limit("cpu.max")  # "max 100000" or "200000 100000": microseconds in each period
    if quota and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def _ram_gib() -> tuple[float, float]:
    """(total, available), within the container's limit; zeros where the system does not say."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0.0, 0.0
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    total, available = kib["MemTotal"] * 1024 / GIB, kib["MemAvailable"] * 1024 / GIB
    limit, current = _limit("memory.max"), _limit("memory.current")
    if limit and limit[0].isdigit() and current:
        total = min(total, int(limit[0]) / GIB)
        available = min(available, (int(limit[0]) - int(current[0])) / GIB)
    return total, available


def _scheduler() -> tuple[str, str | None]:
    """(scheduler, file) as torchx finds it: $TORCHXCONFIG alone, else the home directory, which wins over this one."""
    named = os.environ.get("TORCHXCONFIG")
    for file in [Path(named)] if named else [Path(os.path.expanduser("~"), ".torchxconfig"), _here() / ".torchxconfig"]:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            return "unknown", f"{file} (not readable as INI)"
        if scheduler := parser.get("cli:run", "scheduler", fallback=""):
            return scheduler, str(file)
    return "local_docker", None


def _here() -> Path:
    """This folder, also where it was deleted meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def _refused() -> str | None:
    """What a run would say of the environment."""
    try:
        check_torch(os.environ)
    except ConfigError as error:
        return str(error)
    return None


def _lost_hostname() -> str | None:
    """The name by which torchrun's agent is looked up (torch.distributed.elastic), if it does not resolve here."""
    name = os.environ.get("PET_LOCAL_ADDR") or socket.getfqdn(socket.gethostname())
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):  # a name of more than 63 characters is not encoded
        return name
    return None


def _distributions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _components_registered() -> bool:
    """Whether torchx, in this environment, finds dist_mtl.torchx_components."""
    # An editable install leaves dist_mtl.egg-info in the checkout: `python -m` sees it there, the torchx script, whose
    # sys.path starts at its own folder, does not.
    path = [entry for entry in sys.path if entry and Path(entry) != _here()]
    return any(
        point.group == "torchx.components" and point.value == "dist_mtl.torchx_components"
        for distribution in importlib.metadata.distributions(name="dist_mtl", path=path)
        for point in distribution.entry_points
    )


def collect() -> Findings:
    """Look at this machine and this environment; takes about 6 s, nearly all of it in the child's imports."""
    probed = _run_probe()
    torch = {key: value for key, value in probed["torch"].items() if key not in ("name", "error")}
    ram_gib, ram_available_gib = _ram_gib()
    scheduler, scheduler_file = _scheduler()
    return Findings(
        python=sys.version_info[:3],
        executable=sys.executable,
        system=f"{platform.system()} {platform.machine()}",
        distributions=_distributions(),
        imports={name: facts["error"] for name, facts in probed.items()},
        torch=Torch(**torch) if torch else None,
        fbgemm_variant=probed["fbgemm_gpu"].get("variant"),
        driver=_driver(),
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=_cores(),
        ram_gib=ram_gib,
        ram_available_gib=ram_available_gib,
        disk_free_gib=shutil.disk_usage(".").free / GIB,
        components_registered=_components_registered(),
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        ranks=launcher_variables(os.environ),
        refused=_refused(),
        lost_hostname=_lost_hostname(),
    )
