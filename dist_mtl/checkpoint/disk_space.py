"""Room for the commits of a run, looked at before it starts."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.state_shards import Held, held
from dist_mtl.config import Config
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

DESCRIBED = 400  # bytes of JSON for each tensor a rank holds, in index.json, the file's header and the plan
OVERHEAD = 1 << 16  # bytes of the configuration and the selection in commit.json


def warning_of_space(model: ShardedModel, window: Mapping[str, Tensor], config: Config, rt: Runtime) -> str | None:
    """What to say if the disk has less room than the commits to come need; the same on every rank. Collective.

    A commit is written whole before an old one goes: there are up to `train.keep` of them, one more that is the best of
    `select`, and the one that is being written. Those that are there already have their room.
    """
    size, run = commit_bytes(model, window, rt), config.run
    most = config.train.keep + (config.select is not None) + 1
    there = rt.from_first(lambda: len(complete(Path(run.dir) / store.FOLDER)))
    coming = max(1, most - there)
    free = rt.from_first(lambda: shutil.disk_usage(run.dir).free)
    if free >= coming * size:
        return None
    return (
        f"run.dir = '{run.dir}': {_told(free)} are free, and {coming} commits of {_told(size)} need "
        f"{_told(coming * size)}; make room, or choose another folder: a commit that finds no room is given up "
        f"(train.failed_commits)"
    )


def commit_bytes(model: ShardedModel, window: Mapping[str, Tensor], rt: Runtime) -> int:
    """The size of a commit's files, with the sums of the metrics' `window`. Collective."""
    state = held(model.state() | {store.WINDOW: dict(window)})
    mine = sum(_bytes(one) for one in state.values() if rt.world.is_first or not one.replicated)
    if rt.world.is_first:
        mine += OVERHEAD
        if not any(name.endswith("/exp_avg") for name in state):  # AdamW makes its states at the first step
            mine += 2 * sum(weight.nbytes + DESCRIBED for weight in model.cut.dense)
    return int(rt.all_reduce(torch.tensor([mine], dtype=torch.int64, device=rt.device)))


def _bytes(one: Held) -> int:
    return sum(part.tensor.nbytes + DESCRIBED for part in one.parts)


def _told(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
