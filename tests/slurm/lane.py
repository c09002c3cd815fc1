"""`make slurm-test`: what the tests of this folder need, and namespaces of their own to run in.

    python -m tests.slurm.lane [arguments of pytest]

Everything is inside of a process, a mount, a network and a UTS namespace: addresses, daemons, the data base and all
files (a tmpfs) are in there, and the kernel removes them when the first process ends, however it ends. Outside of them
only Debian's packages remain. Exit code 69 where something is missing, else pytest's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge", "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server", "ip": "iproute2", "unshare": "util-linux",
}  # fmt: skip
UNSHARE = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--net", "--uts"]
SBIN = Path(os.sep, "usr", "sbin")  # of Debian
POLICY = SBIN / "policy-rc.d"
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h


def missing() -> list[str]:
    """The Debian packages whose programs are not here."""
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})


def install(packages: list[str]) -> None:
    """By apt. None of their daemons is started: policy-rc.d is Debian's question whether one may be."""
    print(f"installing {' '.join(packages)} by apt-get", flush=True)
    quiet: dict[str, Any] = {"check": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    quiet["env"] = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    ours = not POLICY.exists()
    try:
        if ours:
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], **quiet)
    finally:
        if ours:
            POLICY.unlink()


def refuse(why: str) -> NoReturn:
    print(f"make slurm-test: {why}", file=sys.stderr)
    sys.exit(UNAVAILABLE)


def main() -> None:
    os.environ["PATH"] += f"{os.pathsep}{SBIN}"  # a login of root may lack them
    packages = missing()
    if packages and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        refuse(f"needs {', '.join(packages)}, and to install them root and apt-get")
    if packages:
        install(packages)
    if packages := missing():
        refuse(f"apt-get install did not bring {', '.join(packages)}; install them by hand")
    if os.geteuid() != 0 or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        refuse("needs root with CAP_SYS_ADMIN, to make namespaces: a virtual machine or a privileged container")
    # bash is the first process of the namespace and reaps what loses its parent; Python would not.
    tests = [sys.executable, "-m", "pytest", "-q", "-s", "tests/slurm", *sys.argv[1:]]
    os.chdir(ROOT)
    os.environ["SLURM_LANE"] = "inside"
    os.execvp(UNSHARE[0], [*UNSHARE, "--", "bash", "-c", '"$@"; exit $?', "bash", *tests])


if __name__ == "__main__":
    main()
