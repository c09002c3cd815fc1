"""Contenders side by side: every round asks each of them for a few steps in turn, so a noisy machine hits all alike.

Each contender lives in processes of its own that wait while the others run. A ratio is taken within a round; reported
are the median over rounds and its quartiles. The absolute rows/s are medians too, and depend on the machine's mood.
"""

import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.bench.shape import Shape
from dist_mtl.errors import InternalError

LOADER_STEPS = 4  # the loader alone is so fast that it is timed over more steps


@dataclass(frozen=True)
class Entry:
    """A contender on a number of ranks, with a number of threads each."""

    name: str
    ranks: int
    threads: int

    @property
    def label(self) -> str:
        return (
            f"{self.name} ({self.ranks} rank{'s' * (self.ranks > 1)} x {self.threads} thread{'s' * (self.threads > 1)})"
        )


class Contender:
    """The processes of an entry. Use as a context manager; `seconds(n)` trains n steps."""

    def __init__(self, entry: Entry, shape: Shape, folder: str, rechub_python: str | None) -> None:
        self.entry = entry
        if entry.name == "torch-rechub":
            script = Path(__file__).with_name("rechub.py")
            sizes = [shape.rows, shape.ids, shape.dense, shape.dim, shape.batch]
            commands = [[rechub_python, str(script), *map(str, sizes)]]
        else:
            commands = [
                [sys.executable, "-m", "dist_mtl.bench.worker", entry.name, str(shape.rows), folder]
            ] * entry.ranks
        port = _free_port()
        self.ranks = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | _env(rank, entry, port),
            )
            for rank, command in enumerate(commands)
        ]
        for process in self.ranks:
            self._line(process)

    def seconds(self, steps: int) -> float:
        """Train `steps` steps on every rank; the slowest rank's time."""
        for process in self.ranks:
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        return max(float(self._line(process)) for process in self.ranks)

    def close(self) -> None:
        """End the processes by closing their input, and reap them."""
        for process in self.ranks:
            process.stdin.close()
        for process in self.ranks:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _line(self, process: subprocess.Popen) -> str:
        if not (line := process.stdout.readline().strip()):
            raise InternalError(f"benchmark: {self.entry.label} ended; its error is above")
        return line


def compare(
    entries: Sequence[Entry], shape: Shape, folder: str, rounds: int, steps: int, rechub_python: str | None = None
) -> dict[Entry, list[float]]:
    """Seconds per step of every entry, one value a round. A first, unmeasured round warms everything up."""
    contenders: list[Contender] = []
    try:
        for entry in entries:
            contenders.append(Contender(entry, shape, folder, rechub_python))
        for contender in contenders:
            contender.seconds(max(2, steps // 2))
        found: dict[Entry, list[float]] = {entry: [] for entry in entries}
        for _ in range(rounds):
            for contender in contenders:
                count = steps * LOADER_STEPS if contender.entry.name == "loader" else steps
                found[contender.entry].append(contender.seconds(count) / count)
        return found
    finally:
        for contender in contenders:
            contender.close()


def ratios(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of the rounds' ratios."""
    values = [a / b for a, b in zip(numerator, denominator, strict=True)]
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _env(rank: int, entry: Entry, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(entry.ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(entry.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(entry.threads),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
