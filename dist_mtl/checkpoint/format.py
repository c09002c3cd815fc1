"""What a commit says of itself, and which configurations may continue from it."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data import order as orders
from dist_mtl.data.files.quarantine import Lost
from dist_mtl.errors import CheckpointError, ConfigError
from dist_mtl.metrics.recalibration import Fit
from dist_mtl.selection import Selection
from dist_mtl.tested import Tested

NAME = "commit.json"
RECALIBRATION = "recalibration.json"
VERSION = 3  # 1 had no metric sums and no selection, 2 finer sums of the sliding window
# Keys that may differ between the run that made a commit and the run that continues it.
FREE = (
    "run",
    "train.epochs",
    "train.max_steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "data.train",  # the manifest's digest decides, not the place
    "data.test",
    "data.validation",
    "metrics",
    "diagnose",
    "select",  # a selection knows what its scores are of, and begins anew if that has changed
    "train.evaluate_every",
    "train.evaluate_every_rows",
    "data.verify",
    "data.quarantine",
    "data.leaks",
    "data.sample",
)
DECAYING = ("train.epochs", "train.max_steps")  # fixed once the learning rates are a function of the number of steps


@dataclass(frozen=True)
class Commit:
    """`commit.json`: a folder that has it is complete, for it comes with the rename that publishes the folder."""

    version: int
    step: int
    world: int
    manifest: str  # digest
    counts: dict[str, int]  # rows dropped and ids clamped since the run began
    config: dict[str, Any]
    plan: list[dict[str, Any]]
    versions: dict[str, str]
    reason: str = "periodic"  # why it was made: periodic, best, stopped, end
    selection: Selection = Selection()
    lost: tuple[Lost, ...] = ()  # damaged row groups that were skipped since the run began
    tested: tuple[Tested, ...] = ()  # the evaluations of a stream, each partition before it was trained
    order: int = 1  # version of the order in which the rows are shuffled


def versions() -> dict[str, str]:
    """The releases that made a commit, for whoever has to read it years later."""
    found = {}
    for package in ("dist_mtl", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read(folder: Path) -> Commit:
    """Parse a commit's description. Raises CheckpointError: unreadable, or of a newer format."""
    path = folder / NAME
    try:
        commit = TypeAdapter(Commit).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: not a commit: {str(error).splitlines()[0]}") from None
    if commit.version > VERSION:
        raise CheckpointError(
            f"{path}: format version {commit.version}; this program knows {VERSION}. Upgrade dist_mtl"
        )
    return commit


def read_recalibration(folder: Path) -> Fit | None:
    """The recalibration that was fitted for a commit; None if none was. Raises CheckpointError."""
    path = folder / RECALIBRATION
    try:
        return TypeAdapter(Fit).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{path}: not a recalibration: {str(error).splitlines()[0]}; fit it again with launch/recalibrate.py"
        ) from None


def write_recalibration(folder: Path, fit: Fit) -> Path:
    """Store a fit with a commit, complete or not at all; an earlier one goes as a whole. Raises CheckpointError."""
    path = folder / RECALIBRATION
    staged = path.with_suffix(".json.tmp")
    try:
        staged.write_text(json.dumps(asdict(fit), indent=1) + "\n")
        staged.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: can not be written: {error.strerror}") from None
    return path


def check_same_run(commit: Commit, config: Config, manifest: str, steps: int, folder: Path) -> None:
    """Raise CheckpointError if `config` on this dataset, for `steps` steps, would not continue the run of `commit`."""
    if commit.step > steps:
        raise CheckpointError(
            f"{folder}: trained {commit.step} steps, more than the {steps} that this run is to have; raise "
            f"train.epochs or train.max_steps, or choose another run.dir"
        )
    before, now = _flat(_completed(commit.config)), _flat(config.model_dump(mode="json"))
    free = FREE if config.optim.decay == "none" else tuple(k for k in FREE if k not in DECAYING)
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and not _is_free(k, free))
    if changed:
        lines = "\n".join(f"  {key}: {_brief(before, key)} -> {_brief(now, key)}" for key in changed)
        raise CheckpointError(
            f"{folder}: made with another configuration, so this run would not continue it:\n{lines}\n"
            f"Choose another run.dir, or remove this one to start afresh"
        )
    if commit.order != orders.VERSION and config.data.shuffle and commit.step < steps:
        raise CheckpointError(
            f"{folder}: made by an earlier version, which shuffled the rows in another order; rows would be repeated "
            f"or lost. End the run with that version, or choose another run.dir"
        )
    if commit.manifest != manifest:
        raise CheckpointError(
            f"{folder}: made with another version of the dataset (manifest {commit.manifest[:12]}, now "
            f"{manifest[:12]}); rows would be repeated or lost. Choose another run.dir, or restore the data"
        )


def _completed(tree: dict[str, Any]) -> dict[str, Any]:
    """A commit's configuration with the defaults of keys that came later; as it is if it can not be read."""
    try:
        return parse(tree).model_dump(mode="json")
    except ConfigError:
        return tree


def _brief(flat: dict[str, Any], key: str) -> str:
    """A value for a message: boundaries of quantiles may be thousands."""
    text = str(flat.get(key, "(absent)"))
    return text if len(text) <= 120 else text[:117] + "..."


def _is_free(key: str, free: tuple[str, ...]) -> bool:
    return any(key == one or key.startswith(one + ".") for one in free) or key.endswith(".sharding")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {k: v for name, below in tree.items() for k, v in _flat(below, f"{prefix}.{name}".lstrip(".")).items()}
