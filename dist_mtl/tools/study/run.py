"""A study at work: tune, choose, train every seed, compare. What is finished is not run again.

The test set is evaluated once a cell, at the end of its training; tuning sees `tune.fit` and `tune.validation` alone.
"""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel

import dist_mtl
from dist_mtl.bounded import parse_json, read_bytes
from dist_mtl.checkpoint import store
from dist_mtl.errors import DataError
from dist_mtl.observability.run_dir import STAGED, check, check_outputs
from dist_mtl.scoring.evaluate import Evaluation
from dist_mtl.tools.study.cell_results import About, Code, code_of, read, write_about
from dist_mtl.tools.study.cells import Cell, Pair, Plan
from dist_mtl.tools.study.jobs import Failure, Job, run_jobs
from dist_mtl.tools.study.progress import Progress

MAX_COMPARISON = 1 << 28  # bytes of its JSON: a line for each slice
CHECKOUT = Path(dist_mtl.__file__).parents[1]  # of git, where the package is not installed from a wheel
PREDICTIONS = "predictions"  # below a run's folder, where dist-mtl compare keeps them


@dataclass(frozen=True)
class Choice:
    """Among the candidates of a backbone and method, by the score of each on validation."""

    scores: tuple[float | None, ...]  # None: it failed
    best: int | None  # from 1; None: not all of them have a score


@dataclass(frozen=True)
class Worked:
    """A study after its work: the cells of both stages, finished or not."""

    choices: dict[Pair, Choice]
    tuning: tuple[Cell, ...]
    final: tuple[Cell, ...]
    failures: tuple[Failure, ...]
    code: Code


def work(plan: Plan, slots: int) -> Worked:
    """Run what is not finished, `slots` processes at a time. Raises DataError: no data."""
    check_study(plan.study.dir)
    study, progress, code = plan.study, Progress(), code_of(CHECKOUT)
    tuning = plan.tuning()
    later = len(plan.pairs) * len(study.seeds)
    failures = _train(plan, "tuning", tuning, slots, progress, code, later) if tuning else []
    choices = choose(plan, tuning)
    final = plan.final({pair: choice.best for pair, choice in choices.items() if choice.best is not None})
    failures += _train(plan, "training", final, slots, progress, code)
    if study.delong:
        failures += _compare(plan, final, slots, progress)
    return Worked(choices, tuning, final, tuple(failures), code)


def look(plan: Plan) -> Worked:
    """The same of what is there, running nothing."""
    check_study(plan.study.dir)
    tuning = plan.tuning()
    choices = choose(plan, tuning)
    final = plan.final({pair: choice.best for pair, choice in choices.items() if choice.best is not None})
    return Worked(choices, tuning, final, (), code_of(CHECKOUT))


def check_study(folder: str | Path) -> None:
    """Check all that a study and its cells write. Raises ConfigError, see `outputs`."""
    names = [f"study.{kind}" for kind in ("json", "md", "html")]
    check(folder, files=(*names, *(f"{name}{STAGED}" for name in names)), folders=("cells",))
    for cell in sorted((Path(folder) / "cells").glob("*/")):
        check_outputs(cell)


# ------------------------------------------------------------------------------------------------------------- training
def _train(
    plan: Plan,
    stage: str,
    cells: Sequence[Cell],
    slots: int,
    progress: Progress,
    code: Code,
    later: int = 0,
) -> list[Failure]:
    """Train the cells that are not finished."""
    todo = sum(read(cell) is None for cell in cells)
    with progress.stage(stage, todo, len(cells) - todo, later):
        jobs = [_training(plan, cell, code) for cell in cells]
        return run_jobs(jobs, slots, plan.study.threads, progress)


def _training(plan: Plan, cell: Cell, code: Code) -> Job:
    command = cell.command(plan.study.base)
    return Job(
        name=cell.name,
        command=command,
        lock=cell.folder / "lock",
        log=cell.folder / "train",
        done=lambda: read(cell) is not None,
        prepare=partial(write_about, cell, About(("python", *command), code)),
        tidy=partial(prune, cell.folder) if plan.study.keep_commits == "last" else _nothing,
    )


def _nothing() -> None:
    """There is nothing to do."""


def prune(run_dir: Path) -> None:
    """Remove the commits that a finished run was not evaluated by; the newest stays, which knows the best one."""
    newest = store.latest(run_dir)
    if newest is None:
        return
    kept = {newest.name, store.find(run_dir, "best").name}
    for old in newest.parent.iterdir():
        if old.name not in kept:
            doomed = old if old.name.startswith(".") else old.with_name(f".old-{old.name}")
            os.rename(old, doomed)  # first: a kill in between must not leave a part of a commit under its name
            shutil.rmtree(doomed)


# --------------------------------------------------------------------------------------------------------------- choice
def choose(plan: Plan, tuning: Sequence[Cell]) -> dict[Pair, Choice]:
    """The best candidate of each backbone and method, on validation; of equal ones the first."""
    if not tuning:
        return dict.fromkeys(plan.pairs, Choice((), 1))
    scores: dict[Pair, dict[int, list[float | None]]] = {pair: {} for pair in plan.pairs}
    for cell in tuning:
        found = read(cell)
        score = None if found is None else _score(plan, cell, found.evaluation)
        scores[cell.backbone, cell.method].setdefault(cell.candidate, []).append(score)
    return {pair: best_of([_mean(values) for values in by_candidate.values()]) for pair, by_candidate in scores.items()}


def _score(plan: Plan, cell: Cell, evaluation: Evaluation) -> float:
    total = 0.0
    for name, weight in plan.study.tune.metrics.items():
        gain = evaluation.gain(name)
        if math.isnan(gain):
            raise DataError(
                f"tune.metrics: `{name}` of {cell.name} is not defined on {cell.config.data.test} (one class only, or "
                f"no row of its space); validate on more rows, or choose by another metric"
            )
        total += weight * gain
    return total


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def best_of(scores: list[float | None]) -> Choice:
    """The best of candidates that have all been tried, of equal ones the first."""
    known = [score for score in scores if score is not None]
    return Choice(tuple(scores), scores.index(max(known)) + 1 if len(known) == len(scores) else None)


# ----------------------------------------------------------------------------------------------------------- comparison
class _Auc(BaseModel):
    standard_error: float | None  # None: undefined


class _Task(BaseModel):
    auc: _Auc


class _Compared(BaseModel):
    """What a study takes of a comparison; the rest of its JSON is for other readers."""

    tasks: dict[str, _Task]


def comparison_of(baseline: Cell, cell: Cell) -> Path:
    """Where the comparison of a cell with its baseline is told."""
    return cell.folder / f"compared-with-{baseline.name}.json"


def rows_error(baseline: Cell, cell: Cell, metric: str) -> float | None:
    """The paired DeLong error of an AUC's difference; None if it is no AUC, or was not compared."""
    task, _, kind = metric.rpartition(".")
    compared = _told(comparison_of(baseline, cell))
    if compared is None or kind != "auc" or task not in compared.tasks:
        return None
    return compared.tasks[task].auc.standard_error


def _told(path: Path) -> _Compared | None:
    """What the comparison wrote; None if it is not there, cut short, or something else."""
    try:
        return _Compared.model_validate(parse_json(read_bytes(path, MAX_COMPARISON)))
    except (FileNotFoundError, ValueError):
        return None


def _compare(plan: Plan, final: Sequence[Cell], slots: int, progress: Progress) -> list[Failure]:
    """Compare every finished cell with the baseline of its backbone and seed."""
    finished = [cell for cell in final if read(cell) is not None]
    baselines = {(cell.backbone, cell.seed): cell for cell in finished if cell.method == plan.study.baseline}
    pairs = [(baselines.get((cell.backbone, cell.seed)), cell) for cell in finished]
    jobs = [_comparing(plan, one, cell) for one, cell in pairs if one is not None and one is not cell]
    todo = sum(not job.done() for job in jobs)
    with progress.stage("comparing", todo, len(jobs) - todo):
        failures = run_jobs(jobs, slots, plan.study.threads, progress)
    for baseline in baselines.values():
        _forget(baseline.folder)
    return failures


def _comparing(plan: Plan, baseline: Cell, cell: Cell) -> Job:
    out = comparison_of(baseline, cell)
    return Job(
        name=f"{cell.name} against {plan.study.baseline}",
        command=("-m", "dist_mtl", "compare", str(baseline.folder), str(cell.folder), "--json", str(out)),
        lock=baseline.folder / "lock",  # two at once would both make the baseline's predictions
        log=cell.folder / "compare",
        done=lambda: _told(out) is not None,
        prepare=_nothing,
        tidy=partial(_forget, cell.folder),
    )


def _forget(run_dir: Path) -> None:
    """Remove predictions that a comparison has made."""
    shutil.rmtree(run_dir / PREDICTIONS, ignore_errors=True)
