"""Real ranks in about a second: every case forks its gloo ranks from a server that has torch and torchrec imported.

    Cluster(2).run(function, *args)      what each rank returned; a failure shows every rank's traceback and output
    Cluster(2).start(function, *args)    a `Running`: kill ranks by hand, wait for the rest
    wait_for(run_dir, test, running)     follow a run's events.jsonl, the same stream that a user has

Every wait is bounded, every child is reaped. Rendezvous: the parent holds the store at a port that the kernel chose, as
torchrun's agent does; so no two cases race for a port.
"""

import faulthandler
import json
import multiprocessing
import os
import pickle
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GRACE = 20.0  # seconds that the other ranks have to end once one has failed
# Modules whose import costs time; the test modules themselves stay out, so that an edit is always seen.
PRELOAD = [
    "pytest",
    "torch",
    "torchrec",
    "dist_mtl.train",
    "dist_mtl.scoring.evaluate",
    "dist_mtl.cli.arguments",
    "tests.support.workers",
    "tests.support.compare_runs",
    "tests.support.fault_workers",
    "tests.support.harms",
    "tests.support.group_workers",
    "tests.support.score_workers",
    "tests.support.warm",
]


@dataclass
class Exit:
    """How one rank ended. `code` is negative for a signal; `value` is what the function returned."""

    rank: int
    code: int
    value: Any
    trace: str  # of the exception that ended it, or empty
    stdout: str
    stderr: str


class RankFailure(AssertionError):
    """A rank did not end well; the message holds every rank's account."""

    def __init__(self, reason: str, exits: list[Exit]) -> None:
        accounts = [f"--- rank {e.rank}, exit code {e.code}\n{e.trace}{e.stdout}{e.stderr}" for e in exits]
        super().__init__(f"{reason}\n" + "\n".join(accounts))
        self.exits = exits


class Cluster:
    """`world` ranks, as a launcher would set them up, `local_world` of them on each (pretended) node."""

    def __init__(self, world: int, local_world: int | None = None) -> None:
        self.world, self.local_world = world, local_world or world

    def run(self, function: Callable, *args: Any, timeout: float = 60) -> list[Any]:
        """The values that `function(*args)` returned, by rank. Raises RankFailure."""
        exits = self.start(function, *args).wait(timeout)
        if any(e.code for e in exits):
            raise RankFailure("a rank failed", exits)
        return [e.value for e in exits]

    def start(self, function: Callable, *args: Any) -> "Running":
        """Fork the ranks. `function` must be importable, `args` and the value picklable."""
        return Running(self, function, args)


class Running:
    """Ranks at work."""

    def __init__(self, cluster: Cluster, function: Callable, args: tuple) -> None:
        from torch.distributed import TCPStore

        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.processes, self._pipes = [], []
        for rank in range(cluster.world):
            environment = {
                "RANK": rank,
                "WORLD_SIZE": cluster.world,
                "LOCAL_RANK": rank % cluster.local_world,
                "LOCAL_WORLD_SIZE": cluster.local_world,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self._store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
            }
            ours, theirs = context.Pipe(duplex=False)
            log = os.path.join(self._folder.name, str(rank))
            settings = {name: str(value) for name, value in environment.items()}
            process = context.Process(target=_rank, args=(settings, log, theirs, function, args))
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)
        self._received: dict[int, tuple[Any, str]] = {}

    @property
    def alive(self) -> bool:
        return any(p.is_alive() for p in self.processes)

    def kill(self, *ranks: int) -> None:
        """SIGKILL: the rank has no say in it."""
        for rank in ranks:
            os.kill(self.processes[rank].pid, signal.SIGKILL)

    def wait(self, timeout: float) -> list[Exit]:
        """Wait for every rank; raise RankFailure with all stacks when `timeout` (or the grace) is over. Reaps all."""
        deadline = time.monotonic() + timeout
        try:
            while self.alive:
                self._receive(min(0.2, max(0.0, deadline - time.monotonic())))
                if any(p.exitcode for p in self.processes):
                    deadline = min(deadline, time.monotonic() + GRACE)
                if time.monotonic() > deadline:
                    self._dump_stacks()
                    raise RankFailure(f"not all ranks ended in {timeout} s (stacks on their stderr)", self._end())
            return self._end()
        finally:
            self._end()

    def _receive(self, seconds: float) -> None:
        waiting: dict[Any, int] = {p: r for r, p in enumerate(self._pipes) if r not in self._received and not p.closed}
        sentinels = [p.sentinel for p in self.processes if p.is_alive()]
        for ready in wait([*waiting, *sentinels], seconds):
            if ready in waiting:
                try:
                    self._received[waiting[ready]] = pickle.loads(ready.recv_bytes())
                except EOFError:  # ended without a word: killed, or os._exit
                    ready.close()

    def _dump_stacks(self) -> None:
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR1)
        time.sleep(0.5)

    def _end(self) -> list[Exit]:
        if self._folder is None:
            return []
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join(10)
        self._receive(0)
        exits = []
        for rank, process in enumerate(self.processes):
            value, trace = self._received.get(rank, (None, ""))
            texts = [Path(self._folder.name, f"{rank}.{kind}") for kind in ("out", "err")]
            stdout, stderr = (t.read_text(errors="replace") if t.exists() else "" for t in texts)
            exits.append(Exit(rank, process.exitcode, value, trace, stdout, stderr))
            process.close()
            self._pipes[rank].close()
        self.processes = []
        self._folder.cleanup()
        self._folder = self._store = None
        return exits


def _rank(environment: dict[str, str], log: str, pipe: Connection, function: Callable, args: tuple) -> None:
    """Runs in the child. Plain pickle by value: torch's own reducers would lend memory of a process about to end."""
    for number, kind in ((1, "out"), (2, "err")):
        file = os.open(f"{log}.{kind}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(file, number)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.update(environment)
    try:
        value = function(*args)
    except SystemExit:
        raise
    except BaseException:
        pipe.send_bytes(pickle.dumps((None, traceback.format_exc())))
        sys.exit(1)
    pipe.send_bytes(pickle.dumps((value, "")))


def script(path: str, *arguments: str) -> None:
    """Be `python PATH ARGUMENTS...` in this process; ends it with the script's exit code."""
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def run_script(world: int, name: str, *arguments: str, timeout: float = 60) -> list[Exit]:
    """`launch/NAME ARGUMENTS...` on `world` ranks."""
    return Cluster(world).start(script, str(ROOT / "launch" / name), *map(str, arguments)).wait(timeout)


def verb(name: str, *arguments: str) -> None:
    """Be `dist-mtl NAME ARGUMENTS...` in this process; ends it with the verb's exit code."""
    from dist_mtl.cli import main

    sys.argv = ["dist-mtl", name, *arguments]
    main()


def run_verb(world: int, name: str, *arguments: str, timeout: float = 60) -> list[Exit]:
    """`dist-mtl NAME ARGUMENTS...` on `world` ranks."""
    return Cluster(world).start(verb, name, *map(str, arguments)).wait(timeout)


def events(run_dir: str | Path, name: str | None = None) -> list[dict]:
    """The events of a run so far; with `name`, those of that name. A line that is being written is left for later."""
    path = Path(run_dir) / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [e for e in found if name in (None, e["event"])]


def wait_for(run_dir: str | Path, test: Callable[[dict], bool], running: Running, timeout: float = 60) -> dict:
    """The first event that passes `test`, as soon as it is written."""
    deadline = time.monotonic() + timeout
    while True:
        alive = running.alive  # asked first: what a rank wrote before it ended must still be seen
        if found := [e for e in events(run_dir) if test(e)]:
            return found[0]
        if not alive or time.monotonic() > deadline:
            raise RankFailure("the event did not come", running.wait(1))
        time.sleep(0.002)
