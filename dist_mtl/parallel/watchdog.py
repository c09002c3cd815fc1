"""A thread in each rank that ends it when nothing moves: the last bound of every wait, in a collective or not.

It decides by a clock, but about its own process alone: the other ranks see a peer that has gone, not a decision.
"""

import faulthandler
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import InternalError
from dist_mtl.parallel.world import World

# Seconds between the stacks and the end. A collective that waits for a hung rank fails at about the time of the stacks,
# and what it says should still be heard.
GRACE = 5.0
TICK = 0.5  # seconds between two looks, and for short timeouts a tenth of them
# Where the clock alone decides. Elsewhere (a start, an evaluation, a commit) a rank may read, sort, hash and write for
# longer than any bound, so there it moves as long as it uses a processor, or a disk.
STRICT = ("reading", "training")
IDLE = 0.02  # of a processor's time


@dataclass(frozen=True)
class _Work:
    """What the process has done so far."""

    seconds: float  # of a processor
    blocks: int  # read from and written to disks

    @classmethod
    def now(cls) -> "_Work":
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, used.ru_inblock + used.ru_oublock)

    def since(self, before: "_Work", seconds: float) -> bool:
        """Whether it was at work in the `seconds` between."""
        return self.blocks > before.blocks or self.seconds - before.seconds > IDLE * seconds


@dataclass(frozen=True)
class Bound:
    """How long a rank may stand still, and the key of the configuration that says so."""

    key: str
    seconds: int


class Watchdog:
    """`alive` tells it that the rank moves. Costs two assignments a call; without `watching` that is all it does."""

    def __init__(self) -> None:
        self.step, self.phase = 0, "start"
        self._moved = time.monotonic()
        self.bound: Bound | None = None  # once training has started

    def alive(self, phase: str | None = None, step: int | None = None) -> None:
        """This rank moves; from now on it is in this phase, at this step."""
        self._moved = time.monotonic()
        self.phase = phase or self.phase
        self.step = self.step if step is None else step

    @property
    def where(self) -> str:
        """What the rank was last known to do."""
        return f"at step {self.step}, in {self.phase}" if self.step else f"in {self.phase}"

    @contextmanager
    def watching(self, config: RunConfig, world: World) -> Iterator[None]:
        """Watch over the process from here to the end, if `config` says so."""
        if not config.watchdog:
            yield
            return
        over = threading.Event()
        self.alive()
        thread = threading.Thread(target=self._watch, args=(config, world, over), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, config: RunConfig, world: World, over: threading.Event) -> None:
        told, tick = False, min(TICK, config.step_timeout / 10, config.start_timeout / 10)
        looked, work = time.monotonic(), _Work.now()
        while not over.wait(tick):
            now, before = time.monotonic(), work
            work = _Work.now()
            if (self.bound is None or self.phase not in STRICT) and work.since(before, now - looked):
                self._moved = now
            if now - looked > 10 * tick:  # this process was stopped, or the machine slept
                self._moved += now - looked
            looked = now
            bound = self.bound or Bound("run.start_timeout", config.start_timeout)
            name, seconds = bound.key, float(bound.seconds)
            waited = now - self._moved
            if waited < seconds:
                told = False
            elif not told:
                told = True
                self._tell(world, f"nothing has moved for {waited:.0f} s ({name} = {seconds:.0f}); the stacks:")
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
            elif waited > seconds + GRACE:
                self._tell(world, f"nothing has moved for {waited:.0f} s, so this rank ends. {self._advice(name)}")
                os._exit(InternalError.exit_code)

    def _advice(self, name: str) -> str:
        return (
            f"The stacks above show where it waits; start it again and it goes on from the newest commit. If it was at "
            f"work, raise {name}"
        )

    def _tell(self, world: World, message: str) -> None:
        who = f"[rank {world.rank}] " if world.size > 1 else ""
        print(f"error: {who}{self.where}: {message}", file=sys.__stderr__, flush=True)
