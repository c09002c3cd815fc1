"""Commits of a run: save, find, verify, load. The newest sound one is where a run goes on.

A commit is a folder: one file of tensors a rank, `index.json`, `commit.json`, and `XXH128SUMS` over all of them.
Nothing in it can run code, any number of ranks under any plan can read it, and no bit of it can change unnoticed.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from dist_mtl.checkpoint import durable_io, staging
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.format import Commit
from dist_mtl.checkpoint.index import fill, read_index
from dist_mtl.checkpoint.staging import Staging, complete
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.data import order
from dist_mtl.data.column_class import Columns, RawColumn
from dist_mtl.errors import CheckpointError, DamagedCommitError, NonFiniteError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.shard import ShardedModel

FOLDER = "checkpoints"
WINDOW = "window"  # the sums of the sliding training metrics, beside "model" and "optimizer"
Tensors = dict[str, Tensor]


def latest(run_dir: str | Path) -> Path | None:
    """The folder of the newest commit; None if there is none. Computed, never stored; its bytes are not looked at."""
    found = complete(Path(run_dir) / FOLDER)
    return found[-1] if found else None


def exists(run_dir: str | Path, step: int) -> bool:
    """Whether there is a commit of this step."""
    return (Path(run_dir) / FOLDER / commits.name_of(step)).is_dir()


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
    if not str(step).isdigit() or not (folder := newest.parent / commits.name_of(int(step))).is_dir():
        there = ", ".join(str(int(one.name[5:])) for one in complete(newest.parent))
        raise CheckpointError(f"{run_dir}: no commit `{step}`; there are `best`, `latest` and the steps {there}")
    return folder


def newest_sound(run_dir: str | Path, rt: Runtime, on_damaged: Callable[[Path, str], None]) -> Path | None:
    """The newest commit of which every byte is as it was written; None if there never was a commit. Collective.

    Damaged ones after it are told of and set aside, since the run will come to their steps again. Raises
    CheckpointError, at every start, if all are damaged: to begin anew is for a person to decide, and what looks like
    damage of all of them may be a disk that is not at hand, so nothing is renamed then.
    """
    root = Path(run_dir) / FOLDER
    found = rt.from_first(lambda: complete(root))  # file systems may show the others less
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(found):
        try:
            verify(folder, rt)
        except DamagedCommitError as error:
            rt.from_first(lambda one=folder, told=str(error): _check_shared(one, told))
            damaged.append((folder, str(error)))
            continue
        for one, reason in damaged:
            on_damaged(rt.from_first(lambda bad=one: staging.set_aside(bad)), reason)
        return folder
    earlier = rt.from_first(lambda: staging.put_aside(root))
    if damaged or earlier:
        newest = f", the newest because {damaged[0][1]}" if damaged else f": {earlier[-1]} is what is left"
        raise _agreed(
            CheckpointError(
                f"{run_dir}: none of its {len(damaged) + len(earlier)} commits is sound{newest}. Restore one from a "
                f"copy, or choose another run.dir to begin anew"
            )
        )
    return None


def _check_shared(folder: Path, told: str) -> None:
    """Raise CheckpointError if what a rank finds damaged (it is named in `told`) is sound where the first rank sees it.

    One file is read again, not all of them: the other ranks wait.
    """
    with suppress(DamagedCommitError):
        sums = _listed(folder)
        commits.read(folder)
        for name in (one for one in sums if f"{folder / one}:" in told):
            durable_io.check_file(folder, name, sums[name])
        raise CheckpointError(f"{told}; but the first rank reads {folder} as it was written. Do all nodes share it?")


def newest_description(run_dir: str | Path) -> Commit | None:
    """What the newest commit says of itself that says anything; None if there is none."""
    for folder in reversed(complete(Path(run_dir) / FOLDER)):
        try:
            return commits.read(folder)
        except DamagedCommitError:
            continue  # it will be told, and an older one taken, when the weights are loaded
    return None


def columns_of_run(run_dir: str | Path) -> dict[str, RawColumn]:
    """Every raw column of the dataset that a run was trained on, by name, in its order.

    Raises CheckpointError: the run has no checkpoint, or only such as were made before columns were kept.
    """
    commit = newest_description(run_dir)
    if commit is None:
        raise CheckpointError(f"{run_dir}: no complete checkpoint in it; train first, or correct the path")
    if not commit.columns:
        raise CheckpointError(
            f"{run_dir}: its checkpoints were made by an earlier version, which did not keep the types of the columns; "
            f"name the dataset that it was trained on"
        )
    return commit.columns


def verify(folder: Path, rt: Runtime) -> None:
    """Every byte of a commit against its checksums, each file by one rank. Collective.

    Raises DamagedCommitError, on every rank: a file that differs, is missing, or does not belong to it.
    """
    rt.all_ranks(lambda: verify_share(folder, rt.rank, rt.size))


def verify_share(folder: Path, rank: int = 0, world: int = 1) -> None:
    """The same for every world-th file, and that it is of the step that its name says. No collective."""
    sums = _listed(folder)
    commits.read(folder)
    for name in sorted(sums)[rank::world]:
        durable_io.check_file(folder, name, sums[name])


def _listed(folder: Path) -> dict[str, str]:
    """The files that belong to a commit, with their checksums. Raises DamagedCommitError: others stand there, too."""
    sums = commits.read_sums(folder)
    there = {entry.name for entry in durable_io.entries(folder)} - {durable_io.SUMS}
    if strangers := sorted(name for name in there - sums.keys() if not commits.comes_later(name)):
        raise DamagedCommitError(
            f"{folder / strangers[0]}: does not belong to the commit; {durable_io.SUMS} does not list it"
        )
    return sums


def stage(model: ShardedModel, progress: Progress, window: Tensors, config: Config, rt: Runtime) -> Staging:
    """Begin a commit of the state after a step; it is complete once it was `published`. Collective.

    Raises CheckpointError, on every rank, if the disk refuses; older commits stay as they are.
    """
    tensors = held(model.state() | {WINDOW: window})
    return staging.begin(Path(config.run.dir) / FOLDER, progress.step, tensors, rt)


def publish(
    staged: Staging,
    write: Callable[[], dict[str, str]],
    model: ShardedModel,
    progress: Progress,
    reason: str,
    config: Config,
    manifest: str,
    rt: Runtime,
    columns: Columns = MappingProxyType({}),
) -> tuple[Path, list[str]]:
    """Make the commit complete; its folder, and warnings. `write` writes this rank's part, or tells how that went.
    Collective.

    Raises CheckpointError, on every rank, if the disk refused anywhere, NonFiniteError if a weight is not finite.
    Nothing is left of the attempt then.
    """
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
        judged=progress.judged,
        order=order.VERSION,
        extensions=config.extensions.parts,
        columns=dict(columns),
    )
    try:
        sums = rt.all_ranks(write)
        everyone = rt.gather(sums)
        whole = {name: digest for one in everyone for name, digest in one.items()}
        folder = rt.from_first(lambda: staging.publish(staged, whole, commit))
    except (CheckpointError, NonFiniteError):
        rt.from_first(lambda: staging.discard(staged))
        raise
    return folder, rt.from_first(lambda: staging.settle(folder, config.train.keep))


def save(
    model: ShardedModel, progress: Progress, window: Tensors, reason: str, config: Config, manifest: str, rt: Runtime
) -> Path:
    """Commit the state after a step; when it returns, the commit is complete. Collective. Raises as its halves.

    For a commit outside of a run, which makes its folder at the start and never again.
    """
    rt.from_first(lambda: Path(config.run.dir).mkdir(parents=True, exist_ok=True))
    staged = stage(model, progress, window, config, rt)
    return publish(staged, staged.write, model, progress, reason, config, manifest, rt)[0]


def load(
    model: ShardedModel,
    folder: Path,
    rt: Runtime,
    window: Tensors | None = None,
    weights_only: bool = False,
    verified: bool = False,
) -> None:
    """Verify a commit and fill `model` and the tensors of `window` from it, whatever ranks and plan have made it.

    `weights_only`: leave the optimizer states. `verified`: its bytes were looked at before. Raises CheckpointError, on
    every rank, if it is damaged, or if a tensor is missing or differs in shape or type. Collective.
    """
    if not verified:
        verify(folder, rt)
    if not weights_only:
        model.materialise_states()
    state = model.state()
    if weights_only:
        del state["optimizer"]
    tensors = held(state if window is None else state | {WINDOW: window})
    rt.all_ranks(lambda: fill(folder, read_index(folder), tensors))
    model.load_state(state)


def _agreed(error: CheckpointError) -> CheckpointError:
    error.all_ranks = True
    return error
