"""Room for the commits of a run, looked at before it starts."""

import shutil

import torch

from dist_mtl.config import RunConfig
from dist_mtl.parallel.held import Held, held
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

WANTED = 2  # sizes of a commit: it is written whole before an old one goes, and one more may be being written


def warning_of_space(model: ShardedModel, run: RunConfig, rt: Runtime) -> str | None:
    """What to say if the disk has less room than two commits need; the same on every rank. Collective."""
    needed = WANTED * commit_bytes(model, rt)
    free = rt.from_first(lambda: shutil.disk_usage(run.dir).free)
    if free >= needed:
        return None
    return (
        f"run.dir = '{run.dir}': {free / 1e9:,.2f} GB are free, and two commits need {needed / 1e9:,.2f} GB; make "
        f"room, or choose another folder: a commit that finds no room is given up (train.failed_commits)"
    )


def commit_bytes(model: ShardedModel, rt: Runtime) -> int:
    """The size of a commit's tensors, which is nearly all of it. Collective."""
    state = held(model.state())
    mine = sum(_bytes(one) for one in state.values() if rt.world.is_first or not one.replicated)
    if rt.world.is_first and not any(name.endswith("/exp_avg") for name in state):
        mine += 2 * sum(weight.nbytes for weight in model.cut.dense)  # AdamW makes its states at the first step
    return int(rt.all_reduce(torch.tensor([mine], dtype=torch.int64, device=rt.device)))


def _bytes(one: Held) -> int:
    return sum(part.tensor.nbytes for part in one.parts)
