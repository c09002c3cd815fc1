"""Commits of a run: stage, publish by one rename, keep the newest few. The newest complete one is where a run goes on.

First form: sharded files by torch.distributed.checkpoint; every rank writes and reads its own part, and a commit can be
read under any world size and plan with the same optimizer states.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch.distributed.checkpoint as dcp

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.format import Commit
from dist_mtl.config import Config
from dist_mtl.errors import CheckpointError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

FOLDER = "checkpoints"
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)


def latest(run_dir: str | Path) -> Path | None:
    """The folder of the newest complete commit; None if there is none. Computed, never stored."""
    found = sorted((Path(run_dir) / FOLDER).glob("step-*/" + commits.NAME))
    return found[-1].parent if found else None


def save(model: ShardedModel, step: int, config: Config, manifest: str, rt: Runtime) -> Path:
    """Commit the state after `step`. All ranks call it; when it returns, the commit is complete."""
    root = Path(config.run.dir) / FOLDER
    target, staged = root / f"step-{step:010d}", root / f".staged-{step:010d}"
    if rt.world.is_first:
        shutil.rmtree(staged, ignore_errors=True)  # of a killed attempt; never published
        staged.mkdir(parents=True)
    rt.barrier()
    dcp.save(model.state(), checkpoint_id=staged)
    if rt.world.is_first:
        commit = Commit(
            version=commits.VERSION,
            step=step,
            world=rt.size,
            manifest=manifest,
            config=config.model_dump(mode="json"),
            plan=model.plan,
            versions=commits.versions(),
        )
        (staged / commits.NAME).write_text(json.dumps(asdict(commit), indent=1) + "\n")
        os.rename(staged, target)
        for old in sorted(root.glob("step-*/" + commits.NAME))[: -config.train.keep]:
            shutil.rmtree(old.parent)
    rt.barrier()
    return target


def load(model: ShardedModel, folder: Path) -> None:
    """Fill `model` from a commit, resharding as needed. Raises CheckpointError if a tensor is missing or differs in shape."""
    model.materialise_states()
    state = model.state()
    try:
        dcp.load(state, checkpoint_id=folder)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{folder}: can not be loaded into this model: {reason}") from None
    model.load_state(state)
