"""A run that dies again and again at one place is stopped: a launcher that restarts it would do so for ever.

RUN/attempts.json has the starts from one commit (or from none) that did not end in words. A further commit, an end, a
named error and a preemption all end the row; what is left is a process that was killed, hung, or met a defect.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_mtl.bounded import BeyondBounds, parse_json, read_bytes
from dist_mtl.checkpoint import store
from dist_mtl.config.training import RunConfig
from dist_mtl.errors import CheckpointError, DistMtlError, InternalError, Preempted
from dist_mtl.observability.events import Observer
from dist_mtl.observability.run_dir import write_file
from dist_mtl.parallel.runtime import Runtime

NAME = "attempts.json"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Attempts:
    """When the starts from a commit were made; `start`: its folder, or `the beginning`."""

    start: str
    began: tuple[str, ...] = ()


@contextmanager
def attempt(run: RunConfig, rt: Runtime, observer: Observer) -> Iterator[None]:
    """Count this start, and take it back at an end in words; tell of a preemption. Collective.

    Raises InternalError, on every rank, if `run.attempts` starts from the same place have died before.
    """
    path = Path(run.dir) / NAME
    if problem := rt.from_first(lambda: _begin(path, run)):
        observer.event("warning", message=problem)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Preempted):
            observer.event("preempted", message=str(error))
        # An embedded run has a person who sees its end, and nothing that starts it again.
        if rt.embedded or isinstance(error, DistMtlError) and not isinstance(error, InternalError):
            _forget(observer, rt)
        raise
    _forget(observer, rt)


def _begin(path: Path, run: RunConfig) -> str | None:
    """Returns a warning where the file can not be kept: a full disk costs the count, not the training."""
    newest = store.latest(run.dir)
    start = "the beginning" if newest is None else newest.name
    before = _read(path)
    if before.start != start:
        before = Attempts(start)
    if len(before.began) >= run.attempts:
        raise InternalError(
            f"{run.dir}: {len(before.began)} attempts from {start} have died without a further commit, the last one "
            f"begun at {before.began[-1]} ({path}). Look at what their ranks said, mend it, and remove {path} to start "
            f"again; run.attempts = {run.attempts} says how many there may be"
        )
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    try:
        write_file(path, json.dumps(asdict(Attempts(start, (*before.began, now)))) + "\n")
    except OSError as error:
        return f"{path}: {error.strerror}; attempts that die are not counted"
    return None


def _read(path: Path) -> Attempts:
    """None that count, if the file is not there or cut short. Raises CheckpointError: it was made by somebody else."""
    try:
        tree = parse_json(read_bytes(path, MAX_BYTES))
        return Attempts(str(tree["start"]), tuple(map(str, tree["began"])))
    except BeyondBounds as error:
        raise CheckpointError(f"{path}: not what a run writes there: {error}; remove it and start again") from None
    except (OSError, ValueError, KeyError, TypeError):
        return Attempts("")


def _forget(observer: Observer, rt: Runtime) -> None:
    """In the folder that the run has, for another run may have made one under its old name meanwhile."""
    if rt.world.is_first and (folder := observer.run_dir()) is not None:
        with suppress(OSError):  # it would be read as one attempt that died; it takes more to stop a run
            (folder / NAME).unlink(missing_ok=True)
