"""Predictions of a run, made once: RUN/predictions/step-XXXXXXXXXX-<digest of the data>[-raw].

They are used again for as long as they are those of this commit, of its recalibration and of these data, and hold the
columns that are asked for. `compare.json` in the folder says so; the folder appears complete or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dist_mtl.checkpoint import format as commits
from dist_mtl.errors import DataError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.predict import on_disk, predict
from dist_mtl.scoring import Trained

FOLDER = "predictions"
STAMP = "compare.json"


@dataclass(frozen=True)
class Stamp:
    """What a folder of predictions was made from, and the columns that it was asked to keep."""

    fingerprint: str
    keep: tuple[str, ...]


def predictions(
    run_dir: str, trained: Trained, data: str, digest: str, keep: Sequence[str], raw: bool, rt: Runtime
) -> Path:
    """The folder with the predictions of a commit on `data` (`digest`: its manifest's). All ranks; made if need be.

    Raises DataError: the disk refuses, or a folder of that name is someone else's; and what `predict` raises.
    """
    step = commits.read(trained.folder).step
    out = Path(run_dir) / FOLDER / f"step-{step:010d}-{digest[:12]}{'-raw' if raw else ''}"
    wanted = rt.from_first(lambda: _plan(out, _fingerprint(trained.folder, digest, raw), keep))
    if wanted is None:
        return out
    fresh = out.parent / f".new-{out.name}"
    rt.from_first(lambda: shutil.rmtree(fresh, ignore_errors=True))  # of a killed attempt
    predict(trained, run_dir, data, fresh, wanted.keep, rt)
    rt.from_first(lambda: on_disk(_publish, fresh, out, wanted))
    return out


def _plan(out: Path, fingerprint: str, keep: Sequence[str]) -> Stamp | None:
    """The stamp of the predictions to make; None: `out` has it all."""
    wanted = Stamp(fingerprint, tuple(keep))
    if not out.exists():
        return wanted
    there = _stamp(out)
    if there.fingerprint != fingerprint:
        return wanted
    if set(keep) <= set(there.keep):
        return None
    # With the columns of before: two comparisons that take turns do not make them again each time.
    return Stamp(fingerprint, tuple(dict.fromkeys((*keep, *there.keep))))


def _stamp(out: Path) -> Stamp:
    try:
        return TypeAdapter(Stamp).validate_json((out / STAMP).read_bytes())
    except (OSError, ValidationError):
        raise DataError(
            f"{out}: stands where the predictions of a comparison would, but none made it; move or remove the folder"
        ) from None


def _fingerprint(commit: Path, digest: str, raw: bool) -> str:
    """Of all that decides the scores. With the time of the commit: a run made afresh may have one of the same step."""
    description = commit / commits.NAME
    adjusted = {} if raw else commits.read_recalibration(commit)
    told = {
        "commit": hashlib.sha256(description.read_bytes()).hexdigest(),
        "made": description.stat().st_mtime_ns,
        "recalibration": {task: asdict(one) for task, one in sorted(adjusted.items())},
        "raw": raw,
        "data": digest,
        "versions": commits.versions(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _publish(fresh: Path, out: Path, stamp: Stamp) -> None:
    (fresh / STAMP).write_text(json.dumps(asdict(stamp), indent=1) + "\n")
    old = out.parent / f".old-{out.name}"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)  # first: a kill while files are being removed must not leave a part of them under the name
    os.rename(fresh, out)
    shutil.rmtree(old, ignore_errors=True)
