"""Who this process is among the ranks: the only reader of the launcher's environment. Imports no torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Rank and size over all nodes and on this node, as torchrun, TorchX and Slurm's torchrun set them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launched: bool = False  # by a launcher, which also set the rendezvous address

    @classmethod
    def from_env(cls) -> "World":
        """The world that the launcher describes; a world of one where there is none."""
        if "RANK" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (int(os.environ.get(name, 1 if "SIZE" in name else 0)) for name in names)
        return cls(rank, size, local_rank, local_size, launched=True)

    @property
    def is_first(self) -> bool:
        return self.rank == 0
