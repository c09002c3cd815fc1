"""Commits of a run: stage, publish by one rename, keep the newest few. The newest complete one is where a run goes on.

First form: sharded files by torch.distributed.checkpoint; every rank writes and reads its own part, and a commit can be
read under any world size and plan with the same optimizer states. Load only commits that you made: the metadata of
torch.distributed.checkpoint is a pickle, which can run code.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException  # derives from BaseException

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.format import Commit
from dist_mtl.config import Config
from dist_mtl.errors import CheckpointError, NonFiniteError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

FOLDER = "checkpoints"
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)


def latest(run_dir: str | Path) -> Path | None:
    """The folder of the newest complete commit; None if there is none. Computed, never stored."""
    found = sorted((Path(run_dir) / FOLDER).glob("step-*/" + commits.NAME))
    return found[-1].parent if found else None


def save(model: ShardedModel, step: int, config: Config, manifest: str, counts: dict[str, int], rt: Runtime) -> Path:
    """Commit the state after `step`. All ranks call it; when it returns, the commit is complete.

    Raises NonFiniteError if a weight is not finite: such a commit would only hide the last good one. Raises
    CheckpointError if the disk refuses. Both on every rank; older commits stay as they are.
    """
    root = Path(config.run.dir) / FOLDER
    target, staged = root / f"step-{step:010d}", root / f".staged-{step:010d}"
    commit = Commit(
        version=commits.VERSION,
        step=step,
        world=rt.size,
        manifest=manifest,
        counts=counts,
        config=config.model_dump(mode="json"),
        plan=model.plan,
        versions=commits.versions(),
    )
    rt.all_ranks(lambda: _check_finite(model, step))
    rt.from_first(lambda: _on_disk(_stage, root, staged))
    try:
        dcp.save(model.state(), checkpoint_id=staged)
    except (CheckpointException, OSError) as error:
        raise _agreed(f"{staged}: can not be written: {_reason(error)}; older commits are intact") from None
    rt.from_first(lambda: _on_disk(_publish, commit, root, staged, target, config.train.keep))
    return target


def load(model: ShardedModel, folder: Path, weights_only: bool = False) -> None:
    """Fill `model` from a commit, resharding as needed; `weights_only`: leave the optimizer states.

    Raises CheckpointError, on every rank, if a tensor is missing or differs in shape.
    """
    if not weights_only:
        model.materialise_states()
    state = model.state()
    if weights_only:
        del state["optimizer"]
    try:
        dcp.load(state, checkpoint_id=folder)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise _agreed(f"{folder}: can not be loaded into this model: {_reason(error)}") from None
    model.load_state(state)


def _check_finite(model: ShardedModel, step: int) -> None:
    if not model.all_finite():
        raise NonFiniteError(f"step {step}: a weight is not finite, so it was not committed; lower the learning rates")


def _stage(root: Path, staged: Path) -> None:
    """An empty folder for the commit; what killed attempts left behind is removed."""
    for old in (*root.glob(".staged-*"), *root.glob(".old-*")):
        shutil.rmtree(old)
    staged.mkdir(parents=True)


def _publish(commit: Commit, root: Path, staged: Path, target: Path, keep: int) -> None:
    """Rename the staged folder to its name, which makes it a commit; then let the oldest go."""
    (staged / commits.NAME).write_text(json.dumps(asdict(commit), indent=1) + "\n")
    os.rename(staged, target)
    for old in sorted(root.glob("step-*/" + commits.NAME))[:-keep]:
        # Renamed first: a kill while files are being removed must not leave a commit with a part of them.
        doomed = root / f".old-{old.parent.name}"
        os.rename(old.parent, doomed)
        shutil.rmtree(doomed)


def _on_disk(action: Callable[..., None], *arguments: object) -> None:
    try:
        action(*arguments)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}; older commits are intact") from None


def _agreed(message: str) -> CheckpointError:
    """torch.distributed.checkpoint has gathered the failures of all ranks: every rank raises."""
    error = CheckpointError(message)
    error.all_ranks = True
    return error


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
