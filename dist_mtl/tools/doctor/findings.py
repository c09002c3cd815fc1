"""What this machine and this environment have: facts, no judgement (that is diagnosis.py).

Works without torch: what needs it is tried in a child process (import_probe.py).
"""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.errors import ConfigError
from dist_mtl.parallel.world import check_torch, launcher_variables
from dist_mtl.tools.doctor.import_probe import run_probe

DISTRIBUTIONS = (
    "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "torchx-nightly", "urllib3",
    "numpy", "pyarrow", "pydantic", "rich", "scipy", "jinja2", "xxhash",
)  # fmt: skip
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
    probed = run_probe()
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
