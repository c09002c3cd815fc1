"""The study file: what is compared with what, on which seeds, how it is tuned. TOML, as strict as a configuration.

    base = "configs/movielens.toml"
    dir = "runs/study"
    seeds = [1, 2, 3]
    metrics = ["ctr.auc", "ctcvr.auc"]

    [backbones.mmoe]
    "model.backbone" = { kind = "mmoe" }
    [methods.plain]
    [methods.heavy]
    "model.dropout" = 0.5

Dotted keys stand in quotes; each replaces the whole value that the base has there. Imports no torch.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dist_mtl.config import Positive, Section, Seed
from dist_mtl.config.file import read_toml, validated
from dist_mtl.errors import nearest
from dist_mtl.tools.study.overrides import Overrides, problems

OURS = ("seed", "run.dir")  # keys that no override may set: each cell has its own
ROWS = ("data.train", "data.test")  # keys that only the base may set: all cells must have the same rows
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # a part of a folder's name, and of a table's cell
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class Method(Section):
    """Overrides; those of each candidate come on top. `[methods.NAME]` holds both in one table."""

    overrides: Overrides = {}
    candidates: list[Overrides] = []

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        rest = {key: value for key, value in table.items() if key != "candidates"}
        return {"overrides": rest, "candidates": table.get("candidates", [])}

    @property
    def num_candidates(self) -> int:
        """A method without candidates has one: itself."""
        return max(len(self.candidates), 1)


class Tuning(Section):
    """Stage 1: every candidate is trained on `fit` and judged on `validation`, by the mean over `seeds` of a mix.

    `metrics` as in `select.metrics`: "ctr.auc" = 1.0; better counts up.
    """

    fit: str
    validation: str
    seeds: Seeds
    metrics: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Study(Section):
    """The study file."""

    base: str  # a configuration; every cell is it with overrides
    dir: str
    seeds: Seeds
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]  # what is compared; names as in select.metrics
    headline: tuple[str, ...] = ()  # those of `metrics` that a method has to gain in; none: all
    baseline: str = "plain"  # the method that the others are compared with
    settings: Overrides = {}  # of every cell
    backbones: Annotated[dict[str, Overrides], Field(min_length=1)]
    methods: Annotated[dict[str, Method], Field(min_length=2)]
    tune: Tuning | None = None
    allow_unequal_budget: bool = False  # let methods have different numbers of candidates
    delong: bool = False  # also tell the noise of the test rows, by dist-mtl compare for each cell
    keep_commits: Literal["last", "all"] = "last"  # of a finished cell: the one that it was evaluated by, or all
    threads: Positive = 1  # OMP_NUM_THREADS of each cell's process

    @property
    def aims(self) -> tuple[str, ...]:
        return self.headline or self.metrics

    @property
    def rivals(self) -> tuple[str, ...]:
        """The methods that are compared with the baseline."""
        return tuple(name for name in self.methods if name != self.baseline)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := [problem for rule in RULES for problem in rule(self)]:
            raise ValueError("\n".join(found))
        return self


def _names(study: Study) -> Iterator[str]:
    for key, names in (("backbones", study.backbones), ("methods", study.methods)):
        for name in names:
            if not NAME.fullmatch(name):
                yield f"{key}.{name}: a name is letters, digits and . _ + -, a letter or digit first"
    if study.baseline not in study.methods:
        hint = nearest(study.baseline, study.methods) or f"there are {', '.join(study.methods)}"
        yield f"baseline: there is no method `{study.baseline}` to compare with; {hint}"
    for name in study.headline:
        if name not in study.metrics:
            yield f"headline: `{name}` is none of `metrics`; {nearest(name, study.metrics) or 'add it there'}"
    seeds = {"seeds": study.seeds} | ({"tune.seeds": study.tune.seeds} if study.tune else {})
    for key, values in (*seeds.items(), ("metrics", study.metrics)):
        if len(set(values)) != len(values):
            yield f"{key}: a value stands there twice"


def _overrides(study: Study) -> Iterator[str]:
    tables = {"settings": (study.settings, OURS)}
    tables |= {f"backbones.{name}": (table, OURS + ROWS) for name, table in study.backbones.items()}
    for name, method in study.methods.items():
        tables[f"methods.{name}"] = (method.overrides, OURS + ROWS)
        for number, table in enumerate(method.candidates, start=1):
            tables[f"methods.{name}.candidates {number}"] = (table, OURS + ROWS)
    for place, (table, taken) in tables.items():
        yield from (f"{place}.{problem}" for problem in problems(table, taken))


def _budget(study: Study) -> Iterator[str]:
    counts = {name: method.num_candidates for name, method in study.methods.items()}
    if study.tune is None:
        for name in (name for name, method in study.methods.items() if method.candidates):
            yield f"methods.{name}.candidates: there is no [tune] to choose among them; add it, or remove them"
    elif len(set(counts.values())) > 1 and not study.allow_unequal_budget:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield (
            f"methods: unequal budgets, candidates are {told}; a method that is tuned more often looks better than it "
            f"is. Give each the same number, or set allow_unequal_budget = true"
        )


RULES = (_names, _overrides, _budget)


def read_study(path: str) -> Study:
    """Read a study file. Raises ConfigError: absent, not TOML, an unknown key, values that do not fit together."""
    return validated(Study, read_toml(path), path)
