"""Predictions of a run, made once: RUN/predictions/step-0000000042-<digest of the data>[-raw].

They are used again for as long as they are those of this commit, of its recalibration and of these data, and hold the
columns that are asked for; their `_predictions.json` says so. The folder appears complete or not at all.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dist_mtl.checkpoint import format as commits
from dist_mtl.data.files.disk import writing
from dist_mtl.errors import DataError
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.scoring.predict import fingerprint, predict, read_about
from dist_mtl.scoring.trained_run import Trained

FOLDER = "predictions"


def predictions(
    run_dir: str, trained: Trained, data: str, digest: str, keep: Sequence[str], raw: bool, rt: Runtime
) -> Path:
    """The folder with the predictions of a commit on `data` (`digest`: its manifest's). All ranks; made if need be.

    Raises DataError: the disk refuses, or a folder of that name is someone else's; and what `predict` raises.
    """
    step = commits.read(trained.folder).step
    out = Path(run_dir) / FOLDER / f"step-{step:010d}-{digest[:12]}{'-raw' if raw else ''}"
    wanted = rt.from_first(lambda: _wanted(out, fingerprint(trained, digest), keep))
    if wanted is None:
        return out
    fresh = out.parent / f".new-{out.name}"
    rt.from_first(lambda: shutil.rmtree(fresh, ignore_errors=True))  # of a killed attempt
    predict(trained, run_dir, data, fresh, wanted, rt)
    rt.from_first(lambda: _publish(fresh, out))
    return out


def _wanted(out: Path, scores: str, keep: Sequence[str]) -> tuple[str, ...] | None:
    """The columns that the predictions to make must keep; None: `out` has them, and the scores of that fingerprint."""
    if not out.exists():
        return tuple(keep)
    try:
        there = read_about(out)
    except DataError:
        raise DataError(
            f"{out}: stands where the predictions of a comparison would, but none made it; move or remove the folder"
        ) from None
    if there.fingerprint != scores:
        return tuple(keep)
    if set(keep) <= set(there.columns):
        return None
    # With the columns of before: two comparisons that take turns do not make them again each time.
    return tuple(dict.fromkeys((*keep, *there.columns)))


def _publish(fresh: Path, out: Path) -> None:
    old = out.parent / f".old-{out.name}"
    shutil.rmtree(old, ignore_errors=True)
    with writing(out):
        if out.exists():
            os.rename(out, old)  # first: a kill while files are removed must not leave a part of them under the name
        os.rename(fresh, out)
    shutil.rmtree(old, ignore_errors=True)
