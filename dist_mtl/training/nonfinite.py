"""Steps that were not trained, since a value was not finite: which rows they had, and how many a run may have."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dist_mtl.bounded import BeyondBounds, parse_json, read_bytes
from dist_mtl.config import Config
from dist_mtl.data.files.reader import Block
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import EMPTY
from dist_mtl.errors import NonFiniteError
from dist_mtl.observability.events import Observer, jsonable
from dist_mtl.observability.run_dir import write_file
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.train_step import ADVICE, Outcome
from dist_mtl.terminal.wording import plural

NAME = "bad_steps.jsonl"
MAX_BYTES = 1 << 30  # a step of 65,536 shuffled rows takes 1 MB


def skip(outcome: Outcome, skipped: int, dataset: Dataset, config: Config, rt: Runtime, observer: Observer) -> None:
    """Leave the step of `outcome` untrained, and write its rows down; `skipped` steps of the run were so before.

    Raises NonFiniteError, on every rank, if that is one step too many.
    """
    path, allowed = (observer.run_dir() or Path(config.run.dir)) / NAME, config.train.skip_nonfinite
    problem = _written(path, outcome, dataset, rt)
    message = outcome.flaw.told(outcome.step)
    where = f"its rows are in {path}" if problem is None else f"its rows could not be written to {path}: {problem}"
    if skipped >= allowed:
        budget = (
            f" {plural(skipped, 'step was', 'steps were')} skipped before, as many as train.skip_nonfinite lets be."
            if allowed
            else ""
        )
        error = NonFiniteError(f"{message}; {where}.{budget} {ADVICE}")
        error.all_ranks = True
        raise error
    observer.event("skip", step=outcome.step, reason=f"{message}; {where}", skipped=skipped + 1, allowed=allowed)


def _written(path: Path, outcome: Outcome, dataset: Dataset, rt: Runtime) -> str | None:
    """One line for the step, by the first rank, which can tell every rank's rows. Returns why it was not, if so."""
    if not rt.world.is_first:
        return None
    ranks = [
        asdict(share) | {"rank": rank, "finite": share.is_finite, "rows": rows_of(dataset, outcome.step, rank, rt.size)}
        for rank, share in enumerate(outcome.flaw.shares)
    ]
    told = {"step": outcome.step, "losses": outcome.flaw.losses, "ranks": ranks}
    try:
        # A run that was killed comes to a step again: it stands there once, as it was the last time.
        kept = of_others(read_bytes(path, MAX_BYTES), outcome.step) if path.exists() else []
        write_file(path, b"".join(line + b"\n" for line in [*kept, json.dumps(jsonable(told)).encode()]))
    except (OSError, BeyondBounds) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def of_others(lines: bytes, step: int) -> list[bytes]:
    """The lines that do not tell of this step; those that are no JSON are not ours to remove."""
    return [line for line in lines.splitlines() if not _tells_of(line, step)]


def _tells_of(line: bytes, step: int) -> bool:
    try:
        told = parse_json(line)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("step") == step


def rows_of(dataset: Dataset, step: int, rank: int, world: int) -> list[dict[str, Any]]:
    """The rows that a rank takes in a global step: by row group, ranges [first, last + 1) of its rows."""
    order = dataset.order
    epoch, place = divmod(step - 1, order.steps_per_epoch)
    segment = order.segment(epoch, order.window_of(place), rank, world)
    picks = segment.picks[place - segment.first_step]
    numbers = [np.arange(span.start, span.stop) for span in segment.spans]
    blocks = [np.full(span.stop - span.start, span.block) for span in segment.spans]
    taken, none = picks[picks != EMPTY], np.zeros(0, np.int64)
    block_N, row_N = (np.concatenate([none, *parts])[taken] for parts in (blocks, numbers))
    return [_described(dataset.blocks[block], np.sort(row_N[block_N == block])) for block in np.unique(block_N)]


def _described(block: Block, row_R: np.ndarray) -> dict[str, Any]:
    breaks = np.flatnonzero(np.diff(row_R) != 1) + 1
    ranges = [[int(run[0]), int(run[-1]) + 1] for run in np.split(row_R, breaks)]
    return {"path": block.path, "row_group": block.row_group, "ranges": ranges}
