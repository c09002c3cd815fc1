"""Who this process is among the ranks: the only reader of the launcher's environment. Imports no torch.

Written for Python 3.9, as the doctor is, which looks at the same variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dist_mtl.errors import ConfigError

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
AGENT = ("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE")  # and TORCHELASTIC_...
THREADS = "OMP_NUM_THREADS"
DEBUG, DEBUG_LEVELS = "TORCH_DISTRIBUTED_DEBUG", ("OFF", "INFO", "DETAIL")  # torch ends its import on another value
MOST_RANKS, MOST_RESTARTS, LAST_PORT = 100_000, 10**9, 65_535


@dataclass(frozen=True)
class LentStore:
    """The store that the only agent of a job lends its ranks. It outlives a restart; `attempt` counts those."""

    host: str
    port: int
    attempt: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> LentStore | None:
        """None where ranks make a store of their own, and with several agents, which count their restarts apart."""
        lent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and environment.get("GROUP_WORLD_SIZE") == "1"
        if not lent:
            return None
        attempt = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0, MOST_RESTARTS)
        return cls(environment["MASTER_ADDR"], _number(environment, "MASTER_PORT", 1, LAST_PORT), attempt)


@dataclass(frozen=True)
class World:
    """Rank and size over all nodes and on this node, as torchrun, TorchX and Slurm's torchrun set them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    agent: bool = False  # torchrun's, which ends the other ranks as soon as one has ended
    store: LentStore | None = None  # none: where the ranks meet is for torch to find out

    @classmethod
    def from_env(cls) -> World:
        """The world that the launcher describes; a world of one where there is none. Raises ConfigError as `of`."""
        check_torch(os.environ)
        return cls.of(os.environ)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> World:
        """The world of an environment. ConfigError: a variable is missing or invalid, and which one."""
        if not any(name in environment for name in RANKS):
            return cls()
        _number(environment, "RANK", 0, MOST_RANKS - 1)  # whatever the size is, which may be missing
        size = _number(environment, "WORLD_SIZE", 1, MOST_RANKS)
        rank = _number(environment, "RANK", 0, size - 1)
        local_size = _number(environment, "LOCAL_WORLD_SIZE", 1, size, default=1)
        local_rank = _number(environment, "LOCAL_RANK", 0, local_size - 1, default=0)
        if size == 1:
            return cls(agent="TORCHELASTIC_RUN_ID" in environment)  # nobody to meet, wherever that would be
        if not environment.get("MASTER_ADDR"):
            raise _wrong(environment, "MASTER_ADDR", "the name or the address of the first rank's machine")
        _number(environment, "MASTER_PORT", 1, LAST_PORT)
        agent = "TORCHELASTIC_RUN_ID" in environment
        return cls(rank, size, local_rank, local_size, agent, LentStore.of(environment))

    @classmethod
    def alone(cls) -> World:
        """The world of a verb that is one process: what a launcher has set is removed, for its children as well."""
        for name in (*launcher_variables(os.environ), DEBUG):
            os.environ.pop(name, None)
        return cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def check_torch(environment: Mapping[str, str]) -> None:
    """Raise ConfigError for what ends the import of torch, or what OpenMP passes over with other threads."""
    level, threads = environment.get(DEBUG, "OFF"), environment.get(THREADS, "1")
    if level not in DEBUG_LEVELS:
        levels = ", ".join(DEBUG_LEVELS)
        raise ConfigError(f"{DEBUG}={level!r}: torch does not start with it; set one of {levels}, or unset it")
    if not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,4}\s*", part, re.ASCII) for part in threads.split(",")):
        raise ConfigError(f"{THREADS}={threads!r}: a whole number from 1 on is needed; set one, or unset {THREADS}")


def launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a launcher of ranks has set there."""
    names = (*RANKS, *ADDRESS, *AGENT)
    return {n: value for n, value in environment.items() if n in names or n.startswith("TORCHELASTIC_")}


def _number(environment: Mapping[str, str], name: str, least: int, most: int, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    number = int(text) if text is not None and len(text) < 10 and text.isascii() and text.isdecimal() else -1
    if not least <= number <= most:
        raise _wrong(environment, name, f"a whole number from {least} to {most}")
    return number


def _wrong(environment: Mapping[str, str], name: str, right: str) -> ConfigError:
    told = f"{name}={environment[name]!r}" if name in environment else f"{name} is not set"
    rest = {n: value for n, value in environment.items() if n in (*RANKS, *ADDRESS) and n != name}
    beside = f", beside {' '.join(f'{n}={value!r}' for n, value in rest.items())}" * bool(rest)
    return ConfigError(
        f"{told}{beside}: {right} is needed. A launcher such as torchrun sets these variables. If they are left over "
        f"from another job: unset {' '.join(launcher_variables(environment))}"
    )
