"""Who this process is among the ranks: the only reader of the launcher's environment. Imports no torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class LentStore:
    """The store that the only agent of a job lends its ranks. It outlives a restart; `attempt` counts those."""

    host: str
    port: int
    attempt: int

    @classmethod
    def from_env(cls) -> "LentStore | None":
        """None where ranks make a store of their own, and with several agents, which count their restarts apart."""
        env = os.environ
        if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env.get("GROUP_WORLD_SIZE") != "1":
            return None
        return cls(env["MASTER_ADDR"], int(env["MASTER_PORT"]), int(env["TORCHELASTIC_RESTART_COUNT"]))


@dataclass(frozen=True)
class World:
    """Rank and size over all nodes and on this node, as torchrun, TorchX and Slurm's torchrun set them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launched: bool = False  # by a launcher, which also set the rendezvous address
    agent: bool = False  # torchrun's, which ends the other ranks as soon as one has ended
    store: LentStore | None = None  # none: where the ranks meet is for torch to find out

    @classmethod
    def from_env(cls) -> "World":
        """The world that the launcher describes; a world of one where there is none."""
        if "RANK" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (int(os.environ.get(name, 1 if "SIZE" in name else 0)) for name in names)
        agent = "TORCHELASTIC_RUN_ID" in os.environ
        return cls(rank, size, local_rank, local_size, launched=True, agent=agent, store=LentStore.from_env())

    @property
    def is_first(self) -> bool:
        return self.rank == 0
