"""A study -> its cells: backbones x methods x seeds, each an ordinary training run with a folder of its own.

Imports no torch: every configuration that the study can come to train is checked before anything is trained.

A cell's folder is named by its backbone, method and seed, and by a digest of its configuration and its data: a cell
whose settings have changed is another cell, and what is finished under a name is what the study asks for now.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dist_mtl.config import Config
from dist_mtl.config.dataset_uri import overlap
from dist_mtl.config.file import parse, read_toml
from dist_mtl.config.rules import readings
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.logs import write_sample
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.tools.study.overrides import problems, texts
from dist_mtl.tools.study.study_file import OURS, Study, read_study

Stage = Literal["tune", "final"]
Pair = tuple[str, str]  # backbone, method


@dataclass(frozen=True)
class Cell:
    """One training run of the study. `settings`: what stands behind `--set=`; `config`: what it comes to."""

    stage: Stage
    backbone: str
    method: str
    candidate: int  # 1 for a method without candidates
    seed: int
    settings: tuple[str, ...]
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def name(self) -> str:
        return self.folder.name

    def command(self, base: str) -> tuple[str, ...]:
        """What trains it, behind `python`."""
        return ("-m", "dist_mtl", "train", base, *(f"--set={text}" for text in self.settings))


@dataclass(frozen=True)
class Plan:
    """A study whose configurations are valid. `overrides`: those of the command line, of every cell."""

    path: str
    study: Study
    tree: dict[str, Any]  # of the base
    overrides: tuple[str, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple((backbone, method) for backbone in self.study.backbones for method in self.study.methods)

    def tuning(self) -> tuple[Cell, ...]:
        """The cells of stage 1; none without `tune`. DataError if a dataset is absent."""
        if self.study.tune is None:
            return ()
        return tuple(
            self._cell("tune", pair, candidate, seed)
            for seed in self.study.tune.seeds
            for pair in self.pairs
            for candidate in range(1, self.study.methods[pair[1]].num_candidates + 1)
        )

    def final(self, chosen: dict[Pair, int]) -> tuple[Cell, ...]:
        """The cells of stage 2, seed by seed; pairs without a chosen candidate are left out. DataError as above."""
        return tuple(
            self._cell("final", pair, chosen[pair], seed)
            for seed in self.study.seeds
            for pair in self.pairs
            if pair in chosen
        )

    def base(self) -> Config:
        """The base with the overrides of every cell."""
        return self._parse(self._shared, self.study.base)

    def check(self) -> None:
        """Raise ConfigError, naming the cell, for the first configuration that can not be."""
        base = self.base()
        self._check_rows(base)
        for pair in self.pairs:
            seen: dict[str, int] = {}
            for candidate in range(1, self.study.methods[pair[1]].num_candidates + 1):
                place = self._place(pair, candidate)
                config = self._parse(self._recipe(pair, candidate), place)
                self._check_cell(config, place)
                same = seen.setdefault(config.model_dump_json(), candidate)
                if same != candidate:
                    raise ConfigError(f"{place}: the same settings as candidate {same}; once is enough")

    def own_settings(self, pair: Pair, candidate: int) -> tuple[str, ...]:
        """KEY=VALUE that a backbone and method set beyond what every cell has."""
        return self._recipe(pair, candidate)[len(self._shared) :]

    def candidate_words(self, method: str) -> tuple[str, ...]:
        """What each candidate of a method sets."""
        found = self.study.methods[method].candidates
        return tuple(", ".join(texts(table)) or "nothing" for table in found) or ("nothing",)

    @property
    def _shared(self) -> tuple[str, ...]:
        return (*texts(self.study.settings), *self.overrides)

    def _recipe(self, pair: Pair, candidate: int) -> tuple[str, ...]:
        method = self.study.methods[pair[1]]
        own = method.candidates[candidate - 1] if method.candidates else {}
        return (*self._shared, *texts(self.study.backbones[pair[0]]), *texts(method.overrides), *texts(own))

    def _place(self, pair: Pair, candidate: int) -> str:
        several = self.study.methods[pair[1]].num_candidates > 1
        return f"{self.path}: {pair[0]} x {pair[1]}{f', candidate {candidate}' if several else ''}"

    def _parse(self, settings: tuple[str, ...], place: str) -> Config:
        try:
            return parse(self.tree, settings, source=place)
        except ConfigError as error:
            lines = (line if line.startswith(place) else f"{place}: {line}" for line in str(error).splitlines())
            raise ConfigError("\n".join(lines)) from None

    def _check_rows(self, base: Config) -> None:
        if base.data.test is None:
            raise ConfigError(f"{self.study.base}: data.test is missing; a study compares on it")
        tune = self.study.tune
        if tune is None:
            return
        for key, folder in (("fit", tune.fit), ("validation", tune.validation)):
            if overlap(folder, base.data.test):
                raise ConfigError(f"{self.path}: tune.{key}: `{folder}` is data.test, which no choice may see")
        if overlap(tune.fit, tune.validation):
            raise ConfigError(f"{self.path}: tune.validation: `{tune.validation}` is tune.fit; choose other rows")

    def _check_cell(self, config: Config, place: str) -> None:
        if config.evaluation_steps is not None and overlap(config.validation, config.data.test):
            raise ConfigError(
                f"{place}: train.evaluate_every would look at data.test on the way, and a study touches it once; "
                f"remove it, or name data.validation"
            )
        known = readings(config)
        tune = {} if self.study.tune is None else self.study.tune.metrics
        for key, names in (("metrics", self.study.metrics), ("tune.metrics", tune)):
            for name in names:
                if name not in known:
                    hint = nearest(name, known) or f"known: {', '.join(known)}"
                    raise ConfigError(f"{place}: {key}: `{name}` is no metric of this run; {hint}")

    def _cell(self, stage: Stage, pair: Pair, candidate: int, seed: int) -> Cell:
        place = f"{self._place(pair, candidate)}, seed {seed}"
        rows = {}
        if stage == "tune":
            rows = {"data.train": self.study.tune.fit, "data.test": self.study.tune.validation}
        settings = (*self._recipe(pair, candidate), *texts({"seed": seed, **rows}))
        config = self._parse(settings, place)
        if config.data.sample is not None:
            write_sample(config.data.sample, config.data.train, config.data.test)  # what is there already stays
        name = f"{'-'.join(pair)}-{'tune-' if stage == 'tune' else ''}seed{seed}-{_digest(pair, config)}"
        last = texts({"run.dir": str(Path(self.study.dir) / "cells" / name)})
        return Cell(stage, *pair, candidate, seed, (*settings, *last), self._parse((*settings, *last), place))


def _digest(pair: Pair, config: Config) -> str:
    """Of all that decides what a cell finds, but the release of the programs."""
    folders = [folder for folder in (config.data.train, config.data.validation, config.data.test) if folder is not None]
    told = [pair, config.model_dump(mode="json", exclude={"run": {"dir"}}), *map(_rows, folders)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


@cache
def _rows(folder: str) -> str:
    return manifest.read(folder).digest


def open_study(path: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read a study file and its base; `overrides` of every cell, on top of its `settings`.

    Raises ConfigError: what `read_study` refuses, or a cell that can not be, by its name.
    """
    study = read_study(path)
    for text in overrides:
        key = text.partition("=")[0].strip()
        if found := list(problems({key: ""}, OURS)):
            raise ConfigError(f"--set={text}: {found[0].removeprefix(f'{key}: ')}")
    plan = Plan(path, study, read_toml(study.base), overrides)
    plan.check()
    return plan
