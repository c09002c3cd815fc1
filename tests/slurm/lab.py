"""A Slurm of two nodes, n1 and n2, with accounting, on one machine: real daemons, inside of lane.py's namespaces."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = Path("/mnt")  # every Linux has it; a tmpfs lies on it here, in a mount namespace of our own
NODES = ("n1", "n2")
HOSTS = "127.0.0.1 localhost\n10.77.0.254 ctl\n10.77.0.1 n1\n10.77.0.2 n2\n"


@dataclass(frozen=True)
class Job:
    """A job as torchx submitted it. It runs in `Lab.work`, where launch/ is the repository's."""

    handle: str
    submitted: float  # Unix time
    lab: "Lab"

    @property
    def number(self) -> str:
        return self.handle.rpartition("/")[2]

    def accounted(self, name: str) -> list[str]:
        """One field of the accounting, of each component; a heterogeneous job has one component a node."""
        words = ("sacct", "--noheader", "--parsable2", "--allocations", f"--format={name}", f"--jobs={self.number}")
        return sorted(self.lab.call(*words).splitlines())

    def field(self, name: str) -> str:
        """One field of `scontrol show job`, of the first component."""
        words = self.lab.call("scontrol", "show", "job", self.number).split()
        return next(word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}="))

    def processes(self, program: str = "", env: str = "", node: str = "") -> dict[int, str]:
        """The node of each process of this job, by process id; `env`: only where that is set, `program`: where it runs.

        Slurm's own slurmstepd is not among them: it has not the job's environment.
        """
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                names = dict(pair.split("=", 1) for pair in read(folder / "environ") if "=" in pair)
                line, at = read(folder / "cmdline"), self.lab.spaces.get(os.readlink(folder / "ns/net"))
            except OSError:
                continue  # ended, or a zombie
            runs = any(word.rpartition("/")[2] == program for word in line[:2])
            asked = (runs or not program) and (env in names or not env) and node in ("", at)
            if names.get("SLURM_JOB_ID") == self.number and at is not None and asked:
                found[int(folder.name)] = at
        return found

    def told(self, suffix: str = "") -> str:
        """What the job wrote: the batch script, and stdout (`out`) and stderr (`err`) of every node."""
        files = sorted(self.lab.work.glob(f"slurm-{self.number}*{suffix}"))
        return "".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in files)

    def until(self, test: Callable[[], object], seconds: float) -> None:
        """Wait until `test()` holds. Raises AssertionError with all that the job said."""
        deadline = time.monotonic() + seconds
        while not test():
            if time.monotonic() > deadline:
                queue = self.lab.call("scontrol", "show", "job", self.number)
                raise AssertionError(f"not within {seconds} s\n{self.told()[-8000:]}\n{queue}\n{self.lab.logs()}")
            time.sleep(0.2)

    def ended(self, state: str) -> bool:
        """Whether all components have ended. Raises AssertionError where one did otherwise than by `state`."""
        states = self.accounted("State")
        wrong = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"} - {state}
        assert not wrong & set(states), f"{states}\n{self.told()[-8000:]}"
        return bool(states) and set(states) == {state}


@dataclass(frozen=True)
class Lab:
    """The cluster at work."""

    env: dict[str, str]
    spaces: dict[str, str]  # node by its network namespace, as /proc/PID/ns/net names it

    @property
    def work(self) -> Path:
        """Where jobs run."""
        return FOLDER / "work"

    def call(self, *words: str, **env: str) -> str:
        """Run a command on the controller; its stdout. Raises AssertionError with both outputs where it fails."""
        return run(*words, env=self.env | env, cwd=self.work)

    def torchx(self, *words: str, **env: str) -> Job:
        """`torchx run -s slurm WORDS`."""
        began = time.time()
        handle = self.call("torchx", "run", "-s", "slurm", *words, **env).split()[-1]
        assert handle.startswith("slurm://"), handle
        return Job(handle, began, self)

    def logs(self) -> str:
        """The end of each daemon's log."""
        return "".join(f"--- {file.name}\n{file.read_text()[-800:]}" for file in sorted(FOLDER.glob("*.log")))


@contextmanager
def lab() -> Iterator[Lab]:
    """Start everything, and end it by process id; what is left after that ends with the namespaces."""
    assert os.environ.get("SLURM_LANE") == "inside" and os.getppid() == 1, "only inside of tests.slurm.lane"
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "slurm-lane", str(FOLDER))
    for name in ("state", "spool.n1", "spool.n2", "munge", "base", "work", "etc"):
        (FOLDER / name).mkdir(mode=0o755)
    run("hostname", "ctl")
    bind("/etc/hosts", HOSTS)
    bind("/etc/resolv.conf", "")  # nobody answers in here; without this every lookup of an address waits 10 s
    for name in ("slurm.conf", "slurmdbd.conf", "cgroup.conf"):
        (FOLDER / "etc" / name).write_text((HERE / name).read_text().replace("FOLDER", str(FOLDER)))
        (FOLDER / "etc" / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
    (FOLDER / "work/launch").symlink_to(ROOT / "launch")
    env = dict(os.environ)
    env |= {"SLURM_CONF": f"{FOLDER}/etc/slurm.conf", "PYTHONPATH": str(ROOT), "HOME": str(FOLDER)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    started: list[subprocess.Popen] = []

    def daemon(name: str, *words: str) -> subprocess.Popen:
        with (FOLDER / f"{name}.out.log").open("ab") as log:
            started.append(subprocess.Popen(words, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        return started[-1]

    try:
        yield start(daemon, env)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def start(daemon: Callable[..., subprocess.Popen], env: dict[str, str]) -> Lab:
    """Networks, then the daemons in the order in which each needs the ones before."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "addr", "add", "10.77.0.254/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    key = FOLDER / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={FOLDER}/munge/{file}" for option, file in files.items()]
    daemon("munged", "munged", "--foreground", f"--key-file={key}", *options)
    base = f"--datadir={FOLDER}/base"
    run("mariadb-install-db", "--no-defaults", "--user=root", "--auth-root-authentication-method=normal", base)
    small = ("--bind-address=127.0.0.1", f"--socket={FOLDER}/base.socket", f"--pid-file={FOLDER}/base.pid")
    daemon("mariadbd", "mariadbd", "--no-defaults", "--user=root", base, *small)
    wait_for("MariaDB", lambda: listens(3306))
    daemon("slurmdbd", "slurmdbd", "-D")
    wait_for("slurmdbd", lambda: listens(6819))
    run("sacctmgr", "--immediate", "add", "cluster", "lab", env=env)
    daemon("slurmctld", "slurmctld", "-D")
    wait_for("slurmctld", lambda: listens(6817))
    spaces = {}
    for number, name in enumerate(NODES, start=1):
        script = f"hostname {name}; until ip link show eth0 >&2; do sleep 0.1; done; exec slurmd -D -N {name}"
        node = daemon(f"slurmd.{name}", "unshare", "--net", "--uts", "bash", "-c", script)
        ours = os.readlink("/proc/self/ns/net")
        wait_for(name, lambda pid=node.pid, ours=ours: os.readlink(f"/proc/{pid}/ns/net") != ours)
        inside = ("nsenter", f"--net=/proc/{node.pid}/ns/net", "ip")
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
        run("ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        run(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            run(*inside, "link", "set", link, "up")
        spaces[os.readlink(f"/proc/{node.pid}/ns/net")] = name
    made = Lab(env, spaces)
    wait_for("two idle nodes", lambda: made.call("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])
    return made


def read(path: Path) -> list[str]:
    """The strings of a file of /proc that ends each with a zero byte. Raises OSError."""
    return path.read_bytes().decode(errors="replace").split("\0")


def run(*words: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """A command's stdout. Raises AssertionError with both outputs where it fails."""
    quiet = subprocess.DEVNULL
    done = subprocess.run(words, env=env, cwd=cwd, stdin=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def bind(path: str, text: str) -> None:
    """`text` in the place of a file, for this mount namespace only."""
    ours = FOLDER / "etc" / Path(path).name
    ours.write_text(text)
    run("mount", "--bind", str(ours), path)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: str, test: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            tails = "".join(f"--- {file.name}\n{file.read_text()[-1500:]}" for file in sorted(FOLDER.glob("*.log")))
            raise AssertionError(f"{what}: not there within {seconds} s\n{tails}")
        time.sleep(0.2)
