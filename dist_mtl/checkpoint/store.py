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
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException  # derives from BaseException

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.format import Commit
from dist_mtl.config import Config
from dist_mtl.data import order
from dist_mtl.data.files.quarantine import Lost
from dist_mtl.errors import CheckpointError, NonFiniteError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.selection import Selection
from dist_mtl.tested import Tested

FOLDER = "checkpoints"
WINDOW = "window"  # the sums of the sliding training metrics, beside "model" and "optimizer"
Tensors = dict[str, Tensor]
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Progress:
    """How far a run has come: the last trained step, what the data policies did, the best commit, what was skipped."""

    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    selection: Selection = Selection()
    lost: tuple[Lost, ...] = ()  # damaged row groups, which the run does without
    tested: tuple[Tested, ...] = ()  # of a stream: each partition before it was trained


def latest(run_dir: str | Path) -> Path | None:
    """The folder of the newest complete commit; None if there is none. Computed, never stored."""
    found = _complete(Path(run_dir) / FOLDER)
    return found[-1] if found else None


def find(run_dir: str | Path, which: str) -> Path:
    """The folder of a commit: `latest`, a step, or `best` (the selected, else the latest). Raises CheckpointError."""
    newest = latest(run_dir)
    if newest is None:
        raise CheckpointError(f"{run_dir}: no complete commit in it; train first, or correct the path")
    if which == "latest":
        return newest
    step = commits.read(newest).selection.best_step if which == "best" else which
    if step is None:
        return newest
    if not str(step).isdigit() or not (folder := newest.parent / _name(int(step))).is_dir():
        there = ", ".join(str(commits.read(one).step) for one in _complete(newest.parent))
        raise CheckpointError(f"{run_dir}: no commit `{step}`; there are `best`, `latest` and the steps {there}")
    return folder


def save(
    model: ShardedModel, progress: Progress, window: Tensors, reason: str, config: Config, manifest: str, rt: Runtime
) -> Path:
    """Commit the state after a step. All ranks call it; when it returns, the commit is complete.

    Raises NonFiniteError if a weight is not finite: such a commit would only hide the last good one. Raises
    CheckpointError if the disk refuses. Both on every rank; older commits stay as they are.
    """
    root = Path(config.run.dir) / FOLDER
    target, staged = root / _name(progress.step), root / f".staged-{progress.step:010d}"
    commit = Commit(
        version=commits.VERSION,
        step=progress.step,
        world=rt.size,
        manifest=manifest,
        counts=progress.counts,
        config=config.model_dump(mode="json"),
        plan=model.plan,
        versions=commits.versions(),
        reason=reason,
        selection=progress.selection,
        lost=progress.lost,
        tested=progress.tested,
        order=order.VERSION,
    )
    rt.all_ranks(lambda: _check_finite(model, progress.step))
    rt.from_first(lambda: _on_disk(_stage, root, staged))
    try:
        dcp.save(model.state() | {WINDOW: window}, checkpoint_id=staged)
    except (CheckpointException, OSError) as error:
        raise _agreed(f"{staged}: can not be written: {_reason(error)}; older commits are intact") from None
    rt.from_first(lambda: _on_disk(_publish, commit, root, staged, target, config.train.keep))
    return target


def load(model: ShardedModel, folder: Path, window: Tensors | None = None, weights_only: bool = False) -> None:
    """Fill `model` and the tensors of `window` from a commit, resharding as needed.

    `weights_only`: leave the optimizer states. Raises CheckpointError, on every rank, if a tensor is missing or differs
    in shape.
    """
    if not weights_only:
        model.materialise_states()
    state = model.state()
    if weights_only:
        del state["optimizer"]
    if window is not None:
        state[WINDOW] = window
    try:
        dcp.load(state, checkpoint_id=folder)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise _agreed(f"{folder}: can not be loaded into this model: {_reason(error)}") from None
    model.load_state(state)


def _name(step: int) -> str:
    return f"step-{step:010d}"


def _complete(root: Path) -> list[Path]:
    """The complete commits, oldest first."""
    return sorted(path.parent for path in root.glob("step-*/" + commits.NAME))


def _check_finite(model: ShardedModel, step: int) -> None:
    if not model.all_finite():
        raise NonFiniteError(f"step {step}: a weight is not finite, so it was not committed; lower the learning rates")


def _stage(root: Path, staged: Path) -> None:
    """An empty folder for the commit; what killed attempts left behind is removed."""
    for old in (*root.glob(".staged-*"), *root.glob(".old-*")):
        shutil.rmtree(old)
    staged.mkdir(parents=True)


def _publish(commit: Commit, root: Path, staged: Path, target: Path, keep: int) -> None:
    """Rename the staged folder to its name, which makes it a commit; then let the oldest go, the best one excepted."""
    (staged / commits.NAME).write_text(json.dumps(asdict(commit), indent=1) + "\n")
    os.rename(staged, target)
    best = commit.selection.best_step
    for old in _complete(root)[:-keep]:
        if best is not None and old.name == _name(best):
            continue
        # Renamed first: a kill while files are being removed must not leave a commit with a part of them.
        doomed = root / f".old-{old.name}"
        os.rename(old, doomed)
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
