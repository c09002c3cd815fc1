"""Contenders side by side: every round asks each of them for a few steps in turn, so a noisy machine hits all alike.

Each contender lives in processes of its own that wait while the others run. A ratio is taken within a round; reported
are the median over rounds and its quartiles. The absolute rows/s are medians too, and depend on the machine's mood.
CPU time is steadier than wall time where other processes want the cores, and blind to waiting; they still empty the
caches, which only adds time, so that the shortest rounds tell most.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.speed.memory import Memory
from benchmarks.speed.ranks import Ranks

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


@dataclass(frozen=True)
class Found:
    """What was measured of an entry: a step's time, one value a round, and the largest of its processes."""

    seconds: list[float]  # wall, of the slowest rank
    cpu_seconds: list[float]  # of all ranks and threads
    faults: list[float]  # pages that the kernel had to map anew: memory that was given back, and is asked for again
    memory: Memory

    @classmethod
    def of(cls, passes: Sequence["Found"]) -> "Found":
        """Several passes as one, with the memory of the largest."""
        seconds, cpu_seconds, faults = (
            [value for one in passes for value in getattr(one, name)] for name in ("seconds", "cpu_seconds", "faults")
        )
        return cls(seconds, cpu_seconds, faults, max((one.memory for one in passes), key=lambda memory: memory.peak))


class Contender:
    """The processes of an entry. `times(n)` trains n steps; `close()` ends them."""

    def __init__(self, entry: Entry, command: Sequence[str]) -> None:
        self.entry = entry
        self._ranks = Ranks(entry.label, command, 1 if entry.name == "torch-rechub" else entry.ranks, entry.threads)
        self.close = self._ranks.close

    def times(self, steps: int) -> tuple[float, float, float]:
        """Train `steps` steps on every rank; the slowest rank's time, CPU time and page faults of all."""
        told = [[float(part) for part in line.split()] for line in self._ranks.ask(str(steps))]
        wall, cpu, faults = zip(*told, strict=True)
        return max(wall), sum(cpu), sum(faults)

    def memory(self) -> Memory:
        """Of the rank that held most since its set-up."""
        return max(self._ranks.memory(), key=lambda memory: memory.peak)


def compare(commands: Mapping[Entry, Sequence[str]], rounds: int, steps: int, passes: int = 1) -> dict[Entry, Found]:
    """Measure every entry; `commands`: how to start a process of it.

    `passes`: how often to start afresh, for `rounds` each. One process may be some percent faster than its twin for as
    long as it lives: where its memory lies is drawn when it starts.
    """
    found = [_pass(commands, rounds, steps) for _ in range(passes)]
    return {entry: Found.of([one[entry] for one in found]) for entry in commands}


def _pass(commands: Mapping[Entry, Sequence[str]], rounds: int, steps: int) -> dict[Entry, Found]:
    """A first, unmeasured round warms everything up."""
    contenders: list[Contender] = []
    try:
        for entry, command in commands.items():
            contenders.append(Contender(entry, command))
        for contender in contenders:
            contender.times(max(2, steps // 2))
        times: dict[Entry, list[tuple[float, ...]]] = {entry: [] for entry in commands}
        for _ in range(rounds):
            for contender in contenders:
                count = steps * LOADER_STEPS if contender.entry.name == "loader" else steps
                times[contender.entry].append(tuple(value / count for value in contender.times(count)))
        return {c.entry: Found(*map(list, zip(*times[c.entry], strict=True)), c.memory()) for c in contenders}
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


def of_shortest(numerator: list[float], denominator: list[float]) -> float:
    """The ratio of the shortest tenth of both."""

    def shortest(values: list[float]) -> float:
        return statistics.mean(sorted(values)[: max(1, len(values) // 10)])

    return shortest(numerator) / shortest(denominator)
