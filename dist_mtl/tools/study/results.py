"""Finished cells -> what a study says: means, paired differences, choices; for JSON, Markdown and HTML."""

import math
import os
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dist_mtl.tools.study.cell_results import Found, read
from dist_mtl.tools.study.cells import Cell, Plan
from dist_mtl.tools.study.jobs import Failure
from dist_mtl.tools.study.overrides import toml
from dist_mtl.tools.study.run import Worked, rows_error
from dist_mtl.tools.study.seed_statistics import Difference, corrected, over_backbones, over_seeds


@dataclass(frozen=True)
class Spread:
    """A metric in its own sign: mean and standard deviation over seeds, and the value of each."""

    mean: float
    deviation: float
    by_seed: dict[int, float]


@dataclass(frozen=True)
class CellResult:
    """One training run. The figures are None where it is not finished."""

    name: str
    stage: str
    backbone: str
    method: str
    candidate: int
    seed: int
    folder: str
    command: str | None  # that it was last started with
    code: str | None
    config: dict
    metrics: dict[str, float] | None
    step: int | None
    seconds: float | None


@dataclass(frozen=True)
class Chosen:
    """The tuning of a backbone and method: what its candidates set, their scores, and the best (from 1)."""

    backbone: str
    method: str
    candidates: tuple[str, ...]
    scores: tuple[float | None, ...]
    best: int | None


@dataclass(frozen=True)
class Results:
    """Everything. Keys of the nested dictionaries: metric, backbone, method."""

    path: str
    command: str
    made: float  # Unix seconds
    study: dict
    base: tuple[str, ...]  # the configuration that every cell is made of, KEY=VALUE
    baseline: str
    aims: tuple[str, ...]
    settings: dict[str, dict[str, tuple[str, ...]]]  # backbone -> method -> what its final cells set beyond the base
    spreads: dict[str, dict[str, dict[str, Spread]]]
    differences: dict[str, dict[str, dict[str, Difference]]]
    combined: dict[str, dict[str, Difference]]  # without the backbone: over those that have the method's differences
    choices: tuple[Chosen, ...]
    cells: tuple[CellResult, ...]
    failures: tuple[Failure, ...]
    unfinished: tuple[str, ...]  # what is not there, in words
    codes: tuple[str, ...]  # the programs that cells were run by, more than one where they have changed in between
    versions: tuple[dict[str, str], ...]
    cores: int | None


def collect(plan: Plan, worked: Worked, command: str) -> Results:
    """Read every cell and compare. `command`: what the study was started with."""
    study = plan.study
    found = {cell.name: read(cell) for cell in (*worked.tuning, *worked.final)}
    finals = {
        (cell.backbone, cell.method, cell.seed): (cell, it)
        for cell in worked.final
        if (it := found[cell.name]) is not None
    }
    differences = {metric: _differences(plan, finals, metric) for metric in study.metrics}
    codes = dict.fromkeys(str(it.about.code) for it in found.values() if it is not None)
    versions = {str(it.versions): it.versions for it in found.values() if it is not None}
    return Results(
        path=plan.path,
        command=command,
        made=time.time(),
        study=study.model_dump(mode="json"),
        base=tuple(_flat(plan.base().model_dump(mode="json", exclude={"run": {"dir"}}))),
        baseline=study.baseline,
        aims=study.aims,
        settings=_settings(plan, worked),
        spreads={metric: _spreads(plan, finals, metric) for metric in study.metrics},
        differences=differences,
        combined={metric: _combined(study.rivals, by_backbone) for metric, by_backbone in differences.items()},
        choices=_choices(plan, worked) if study.tune else (),
        cells=tuple(_cell(cell, found[cell.name], study.metrics) for cell in (*worked.tuning, *worked.final)),
        failures=worked.failures,
        unfinished=tuple(_unfinished(worked, found)),
        codes=tuple(codes),
        versions=tuple(versions.values()),
        cores=os.cpu_count(),
    )


Finals = dict[tuple[str, str, int], tuple[Cell, Found]]  # (backbone, method, seed)


def _spreads(plan: Plan, finals: Finals, metric: str) -> dict[str, dict[str, Spread]]:
    spreads: dict[str, dict[str, Spread]] = {backbone: {} for backbone in plan.study.backbones}
    for backbone, method in plan.pairs:
        values = {
            seed: finals[backbone, method, seed][1].evaluation.value(metric)
            for seed in plan.study.seeds
            if (backbone, method, seed) in finals
        }
        if values:
            deviation = statistics.stdev(values.values()) if len(values) > 1 else math.nan
            spreads[backbone][method] = Spread(statistics.fmean(values.values()), deviation, values)
    return spreads


def _differences(plan: Plan, finals: Finals, metric: str) -> dict[str, dict[str, Difference]]:
    """By backbone and method, from the seeds that both sides have."""
    found = {}
    for backbone in plan.study.backbones:
        row = {}
        for method in plan.study.rivals:
            pairs = [
                (finals[backbone, plan.study.baseline, seed], finals[backbone, method, seed])
                for seed in plan.study.seeds
                if (backbone, plan.study.baseline, seed) in finals and (backbone, method, seed) in finals
            ]
            if pairs:
                gains = ([side[1].evaluation.gain(metric) for side in sides] for sides in zip(*pairs, strict=True))
                errors = [rows_error(one[0], other[0], metric) for one, other in pairs]
                row[method] = over_seeds(*gains, [error for error in errors if error is not None])
        found[backbone] = corrected(row)
    return found


def _combined(rivals: Sequence[str], by_backbone: dict[str, dict[str, Difference]]) -> dict[str, Difference]:
    strata = {name: [row[name] for row in by_backbone.values() if name in row] for name in rivals}
    return corrected({name: over_backbones(found) for name, found in strata.items() if found})


def _settings(plan: Plan, worked: Worked) -> dict[str, dict[str, tuple[str, ...]]]:
    told: dict[str, dict[str, tuple[str, ...]]] = {backbone: {} for backbone in plan.study.backbones}
    for (backbone, method), choice in worked.choices.items():
        if choice.best is not None:
            told[backbone][method] = plan.own_settings((backbone, method), choice.best)
    return told


def _choices(plan: Plan, worked: Worked) -> tuple[Chosen, ...]:
    return tuple(
        Chosen(*pair, plan.candidate_words(pair[1]), choice.scores, choice.best)
        for pair, choice in worked.choices.items()
    )


def _cell(cell: Cell, found: Found | None, metrics: Sequence[str]) -> CellResult:
    about = None if found is None else found.about
    return CellResult(
        name=cell.name,
        stage=cell.stage,
        backbone=cell.backbone,
        method=cell.method,
        candidate=cell.candidate,
        seed=cell.seed,
        folder=str(cell.folder),
        command=None if about is None else shlex.join(about.command),
        code=None if about is None else str(about.code),
        config=cell.config.model_dump(mode="json"),
        metrics=None if found is None else {name: found.evaluation.value(name) for name in metrics},
        step=None if found is None else found.step,
        seconds=None if found is None else found.seconds,
    )


def _unfinished(worked: Worked, found: dict[str, Found | None]) -> list[str]:
    words = [name for name, it in found.items() if it is None]
    for pair in (pair for pair, choice in worked.choices.items() if choice.best is None):
        words.append(f"{' x '.join(pair)}: no candidate can be chosen before all of them are finished")
    return words


def _flat(tree: dict, prefix: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {'none' if value is None else toml(value)}")
    return lines
