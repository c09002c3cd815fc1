"""What a commit says of itself, and which configurations may continue from it."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dist_mtl.bounded import parse_json
from dist_mtl.checkpoint import durable_io
from dist_mtl.checkpoint.train_state import Selection, Tested
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions, Part
from dist_mtl.config.file import parse
from dist_mtl.data import order as orders
from dist_mtl.data.column_class import RawColumn
from dist_mtl.data.files.quarantine import Lost
from dist_mtl.errors import CheckpointError, ConfigError, DamagedCommitError
from dist_mtl.metrics.recalibration import Fit
from dist_mtl.terminal.wording import plural

NAME = "commit.json"
RECALIBRATION = "recalibration.json"
STAGED = f"{RECALIBRATION}.tmp"
VERSION = 4  # before 4: files of torch.distributed.checkpoint, whose metadata is a pickle, which can run code
MAX_BYTES = 256 << 20  # of commit.json: the plan of a cluster has a line for each shard
# Keys that may differ between the run that made a commit and the run that continues it.
FREE = (
    "run",
    "train.epochs",
    "train.max_steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.skip_nonfinite",
    "train.commit",
    "train.failed_commits",
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
    "sharding.plan",
    "sharding.pipeline",
)
DECAYING = ("train.epochs", "train.max_steps")  # fixed once the learning rates are a function of the number of steps
# Of `semi_sync`: where nothing is looked up early, and so is the last step, hence DECAYING with them. The other
# pipelines train the same bits as each other.
DRAINING = ("train.checkpoint_every", "train.evaluate_every", "train.evaluate_every_rows", "sharding.pipeline")

# What a run is said to differ in, the first that does: what decides the steps and the weights before what tunes them.
KINDS = {
    "train.global_batch": "another batch",
    "features": "other features",
    "tables": "other tables",
    "data": "another reading of the data",
    "model": "another model",
    "optim": "other optimizers",
    "seed": "another seed",
}


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
    judged: bool = True  # false: a signal came before the evaluation that was due at this step
    extensions: tuple[Part, ...] = ()  # parts of the model from outside of the package
    columns: dict[str, RawColumn] = field(default_factory=dict)  # of data.train; empty before they were kept


def versions() -> dict[str, str]:
    """The releases that made a commit, for whoever has to read it years later."""
    found = {}
    for package in ("dist_mtl", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_sums(folder: Path) -> dict[str, str]:
    """File -> checksum. Raises DamagedCommitError; CheckpointError: a commit of a version that is no longer read."""
    if (folder / ".metadata").exists() and not (folder / durable_io.SUMS).exists():
        raise CheckpointError(
            f"{folder}: made by an earlier version, in a format that can run code when it is read; this program does "
            f"not read it. Train again in another run.dir, or read it with the version that made it"
        )
    return durable_io.read_sums(folder)


def name_of(step: int) -> str:
    """The folder of a commit."""
    return f"step-{step:010d}"


def read(folder: Path) -> Commit:
    """Parse a commit's description; its bytes are checked. Raises CheckpointError: damaged, or of another format;
    DamagedCommitError, too, for a sound commit under the name of another step: the folder is not what it is taken for.
    """
    path = folder / NAME
    text, wanted = durable_io.read_text(path, MAX_BYTES), read_sums(folder).get(NAME)
    if durable_io.checksum(text.encode()).hexdigest() != wanted:
        raise DamagedCommitError(f"{path}: damaged: its bytes are not those that were committed")
    try:
        tree = parse_json(text.encode())
        if (version := tree["version"]) > VERSION:
            raise CheckpointError(f"{path}: format version {version}; this program knows {VERSION}. Upgrade dist_mtl")
        commit = TypeAdapter(Commit).validate_python(tree)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a commit: {str(error).splitlines()[0]}") from None
    if folder.name.startswith("step-") and folder.name != name_of(commit.step):
        raise DamagedCommitError(
            f"{path}: of step {commit.step:,}, not the step of its folder; a checkpoint was copied or renamed. Give it "
            f"its own name, {name_of(commit.step)}, or remove it"
        )
    return commit


def config_of(commit: Commit, folder: Path | str) -> Config:
    """The configuration that a commit was trained by. Raises CheckpointError: it is none, so the commit was changed."""
    try:
        return parse(commit.config, source=str(folder))
    except ConfigError as error:
        raise CheckpointError(f"{error}\n{folder}: the commit's configuration is none; take another commit") from None


def read_recalibration(folder: Path) -> Fit | None:
    """The recalibration that was fitted for a commit; None if none was. Raises CheckpointError."""
    path = folder / RECALIBRATION
    if not os.path.lexists(path):
        return None
    try:
        told = parse_json(durable_io.read_text(path, MAX_BYTES).encode())
        if told.pop("xxh128") != _digest(told):
            raise DamagedCommitError(f"{path}: damaged: its numbers are not those that were fitted; fit it again")
        return TypeAdapter(Fit).validate_python(told, strict=False)
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a recalibration: {str(error).splitlines()[0]}; fit it again with dist-mtl recalibrate"
        ) from None


def write_recalibration(folder: Path, fit: Fit) -> Path:
    """Store a fit with a commit, complete or not at all; an earlier one goes as a whole. Raises CheckpointError."""
    path = folder / RECALIBRATION
    staged = folder / STAGED
    told = asdict(fit)
    try:
        staged.unlink(missing_ok=True)
        durable_io.write_text(staged, json.dumps(told | {"xxh128": _digest(told)}, indent=1) + "\n")
        staged.replace(path)
        durable_io.sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: can not be written: {error.strerror}") from None
    return path


def comes_later(name: str) -> bool:
    """Whether a file may stand in a commit that is not on its list: a fit, whole or in the making, or what NFS shows of
    a file that was removed while somebody read it."""
    return name in (RECALIBRATION, STAGED) or name.startswith(".nfs")


def _digest(tree: dict[str, Any]) -> str:
    """Of a small description, whatever its layout. It can not stand in the list of the commit's files: it is made
    later, and the list is never written twice."""
    return durable_io.checksum(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def check_extensions(commit: Commit, given: Extensions, folder: Path, exactly: bool = False) -> None:
    """Raise CheckpointError if a part of the model from outside of the package is not there, or is another one.

    `exactly`: nor may there be others, as in a run that continues.
    """
    made, now = ({part.place: part for part in parts} for parts in (commit.extensions, given.parts))
    problems = []
    for place in sorted(made.keys() | now.keys()):
        before, here = made.get(place), now.get(place)
        if here is None:
            problems.append(f"made with {before} from outside of the package, which is not here; pass it with "
                            f"`extensions` of dist_mtl's functions (the scripts cannot take it)")  # fmt: skip
        elif before is None and exactly:
            problems.append(f"made without {here}; choose another run.dir")
        elif before is not None and before.digest != here.digest:
            problems.append(f"made with {before}, and here is {here}; pass the one that it was trained with")
    if problems:
        raise CheckpointError("\n".join(f"{folder}: {problem}" for problem in problems))


def check_same_run(commit: Commit, config: Config, manifest: str, steps: int, folder: Path) -> None:
    """Raise CheckpointError if `config` on this dataset, for `steps` steps, would not continue the run of `commit`.

    The first line has the first reason: other data before another batch, which both change the number of steps.
    """
    before, now = _flat(_completed(commit.config)), _flat(config.model_dump(mode="json"))
    is_early = "semi_sync" in (before.get("sharding.pipeline"), config.sharding.pipeline)
    fixed = DECAYING if is_early or config.optim.decay != "none" else ()
    fixed += DRAINING if is_early else ()
    free = tuple(key for key in FREE if key not in fixed)
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and not _is_free(k, free))
    is_other_data = commit.manifest != manifest and not _reach_differs(before, now)
    if changed or is_other_data:
        lines = [f"{key}: {_brief(before, key)} -> {_brief(now, key)}" for key in changed]
        if is_other_data or before.get("data.train") != now["data.train"]:
            told = [f"{_brief(flat, 'data.train')} (manifest {digest[:12]})"
                    for flat, digest in ((before, commit.manifest), (now, manifest))]  # fmt: skip
            lines.insert(0, f"data.train: {' -> '.join(told)}")
        kind, advice = _kind_of(changed), "remove this one to start afresh"
        if is_other_data:
            kind, advice = "other data", "restore the data: rows would be repeated or lost"
        raise CheckpointError(
            "\n  ".join([f"{folder}: made with {kind}, so this run would not continue it:", *lines])
            + f"\nChoose another run.dir, or {advice}"
        )
    if commit.order != orders.VERSION and config.data.shuffle and commit.step < steps:
        raise CheckpointError(
            f"{folder}: made by an earlier version, which shuffled the rows in another order; rows would be repeated "
            f"or lost. End the run with that version, or choose another run.dir"
        )
    if commit.step > steps:
        raise CheckpointError(
            f"{folder}: trained {plural(commit.step, 'step')}, more than the {steps:,} that this run is to have; raise "
            f"train.epochs or train.max_steps, or choose another run.dir"
        )


def _reach_differs(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the digests of two runs are not of the same rows, so that they say nothing: of a stream, a digest is of
    the partitions up to a step."""
    streams = [{k: v for k, v in flat.items() if k.startswith("data.stream")} for flat in (before, now)]
    keys = ("train.global_batch", "optim.decay")
    return streams != [{"data.stream": None}] * 2 and (
        streams[0] != streams[1] or any(before.get(key) != now[key] for key in keys)
    )


def _kind_of(changed: list[str]) -> str:
    """What has changed, in words, by the first of KINDS that has."""
    for prefix, words in KINDS.items():
        if any(key == prefix or key.startswith(f"{prefix}.") for key in changed):
            return words
    return "another configuration"


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
    return any(key == one or key.startswith(one + ".") for one in free) or key.endswith(
        (".sharding", ".kernel", ".cache_share")
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {k: v for name, below in tree.items() for k, v in _flat(below, f"{prefix}.{name}".lstrip(".")).items()}
