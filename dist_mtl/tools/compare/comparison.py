"""Two runs, one dataset: score it with both, compare row by row, say what is real."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.format import Commit
from dist_mtl.config import Config
from dist_mtl.config.dataset_uri import normal
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.training import RunConfig
from dist_mtl.data.features.group_keys import check_key
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.metrics.slices import Slicing, column_of, discover
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.scoring.score import NO_EXTENSIONS
from dist_mtl.scoring.trained_run import Trained, find
from dist_mtl.tools.compare import verdict as words
from dist_mtl.tools.compare.aligned_predictions import read
from dist_mtl.tools.compare.config_diff import Differences, Parameters, differences, parameters
from dist_mtl.tools.compare.prediction_cache import predictions
from dist_mtl.tools.compare.statistics import (
    Slices,
    TaskDifference,
    replicates_for,
    slice_differences,
    task_differences,
)
from dist_mtl.tools.compare.verdict import Verdict

FEWEST_REPLICATES = 100  # with fewer no p-value is below 2 / 100, and none is left after a correction


@dataclass(frozen=True)
class Side:
    """One of the two runs: the commit that was compared, what it was trained on, its size."""

    run: str
    step: int
    trained_on: str
    trained_digest: str
    world: int
    versions: dict[str, str]
    parameters: Parameters
    predictions: str


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found."""

    a: Side
    b: Side
    data: str
    digest: str
    rows: int
    by: str | None  # the column whose values are taken together; None: rows are independent of each other
    replicates: int | None  # of the AUCs' bootstrap; None: DeLong
    differences: Differences
    tasks: dict[str, TaskDifference]
    slices: Slices
    verdict: Verdict


@dataclass(frozen=True)
class _Question:
    """What is compared on: the columns by the names that a configuration gives them."""

    folder: str
    dataset: Dataset
    by: str | None  # column
    groups: dict[str, str]  # name -> column
    slices: dict[str, Config]  # name -> the configuration that knows it

    def columns(self) -> tuple[str, ...]:
        """The columns that predictions must keep."""
        by = [] if self.by is None else [self.by]
        slices = (column_of(config, name) for name, config in self.slices.items())
        return tuple(dict.fromkeys((*by, *self.groups.values(), *slices)))


def compare_runs(
    run_a: str,
    run_b: str,
    data: str | None = None,
    by: str | None = None,
    slices: Sequence[str] = (),
    which: str = "best",
    raw: bool = False,
    replicates: int | None = None,
    embedded: bool = False,
    extensions: tuple[Extensions, Extensions] = (NO_EXTENSIONS, NO_EXTENSIONS),
) -> Comparison | None:
    """Compare a commit of each run (`which`, `raw` as in `scoring.find`, `embedded` as in `runtime`) on `data`.

    All ranks; None but on the first.

    `data`: by default the data.test of both. `by`: a column or feature whose rows belong together; by default the first
    of the runs' metrics.groups; "" for independent rows. `slices`: besides those of the runs' metrics.slices.
    `replicates`: bootstrap the AUCs, see `statistics`. Raises ConfigError: the runs have other labels, or no test set
    in common, or the data no such column; CheckpointError, DataError as `scoring.find` and `predict` do.
    """
    if replicates is not None and replicates < FEWEST_REPLICATES:
        raise ConfigError(f"--replicates {replicates}: {FEWEST_REPLICATES} at least, better 1000")
    with runtime(RunConfig.at(run_a), embedded) as rt:
        runs = zip((run_a, run_b), extensions, strict=True)
        pair = tuple(find(run, which, (), raw, rt, parts) for run, parts in runs)
        ask = rt.all_ranks(lambda: _question(pair, (run_a, run_b), data, by, slices))
        slicings = tuple(discover(ask.dataset, config, name, rt) for name, config in ask.slices.items())
        folders = tuple(
            _predictions(run, trained, ask, raw, rt) for run, trained in zip((run_a, run_b), pair, strict=True)
        )
        first = rt.world.is_first
    # After the ranks have parted: no collective could wait for as long as a bootstrap over 10^8 rows may take.
    return _compare(pair, (run_a, run_b), folders, ask, slicings, replicates) if first else None


def _predictions(run: str, trained: Trained, ask: _Question, raw: bool, rt: Runtime) -> Path:
    return predictions(run, trained, ask.folder, ask.dataset.manifest.digest, ask.columns(), raw, rt)


def _question(
    pair: tuple[Trained, Trained], runs: tuple[str, str], data: str | None, by: str | None, slices: Sequence[str]
) -> _Question:
    a, b = (trained.config for trained in pair)
    if a.data.labels != b.data.labels:
        raise ConfigError(
            f"data.labels: {runs[0]} has {list(a.data.labels)}, {runs[1]} has {list(b.data.labels)}; only runs that "
            f"predict the same can be compared"
        )
    folder = data or _test_set(a, b, runs)
    dataset, _ = (Dataset.open_to_score(folder, t.config, (), labelled=True, trained_on=t.on) for t in pair)
    groups = {name: _column(name, a, b) for name in dict.fromkeys((*a.metrics.groups, *b.metrics.groups))}
    if by is None:
        by = next(iter(groups), "")
    names = dict.fromkeys((*a.metrics.slices, *b.metrics.slices, *slices))
    wanted = {"--by": [by] if by else [], "metrics.groups": list(groups), "--slices": list(names)}
    for option, told in wanted.items():
        for name in told:
            _check_column(option, name, _column(name, a, b), dataset, keys=option != "--slices")
    knowing = {name: a if name in a.features or name not in b.features else b for name in names}
    return _Question(folder, dataset, _column(by, a, b) if by else None, groups, knowing)


def _test_set(a: Config, b: Config, runs: tuple[str, str]) -> str:
    folders = [config.data.test and normal(config.data.test) for config in (a, b)]
    if folders[0] is None or folders[0] != folders[1]:
        told = ", ".join(f"{folder or 'none'} in {run}" for folder, run in zip(folders, runs, strict=True))
        raise ConfigError(f"the runs have no data.test in common ({told}); name a dataset with --data")
    return folders[0]


def _column(name: str, a: Config, b: Config) -> str:
    """The column of a feature of either run, else the column of that name."""
    return column_of(a if name in a.features else b, name)


def _check_column(option: str, name: str, column: str, dataset: Dataset, keys: bool) -> None:
    if column not in dataset.schema.names:
        hint = nearest(column, dataset.schema.names) or f"there are {', '.join(dataset.schema.names)}"
        raise ConfigError(f"{option} `{name}`: {dataset.folder} has no column `{column}`; {hint}")
    if keys:
        check_key(column, dataset.schema.field(column).type, f"{option} `{name}`: {dataset.folder}")


def _compare(
    pair: tuple[Trained, Trained],
    runs: tuple[str, str],
    folders: tuple[Path, ...],
    ask: _Question,
    slicings: tuple[Slicing, ...],
    replicates: int | None,
) -> Comparison:
    """The statistics and the words; one process."""
    config, other = (trained.config for trained in pair)
    made = tuple(commits.read(trained.folder) for trained in pair)
    keys = tuple(dict.fromkeys((*([ask.by] if ask.by else []), *ask.groups.values())))
    joint = read((folders[0], folders[1]), config.tasks, config.data.labels, config.data.weight, keys, slicings)
    replicates = replicates_for(joint, replicates)
    cuts = tuple(k for k in config.metrics.ndcg_at if k in other.metrics.ndcg_at)
    tasks = task_differences(joint, ask.by, ask.groups, cuts, replicates)
    slices = slice_differences(joint, ask.by, {s.name: s.names for s in slicings}, replicates)
    digest = ask.dataset.manifest.digest
    warnings = [
        *(warning for run, t, c in zip(runs, pair, made, strict=True) for warning in _seen(run, t, c, ask.dataset)),
        *_unequal((config, other), made),
        *words.sample_warnings(tasks, ask.by),
    ]
    family = sum(not math.isnan(one.auc.p_value) for one in tasks.values())
    by_task = {name: words.task_verdict(name, one, family) for name, one in tasks.items()}
    return Comparison(
        *(Side(run, c.step, t.config.data.train, c.manifest, c.world, c.versions, parameters(t.config), str(folder))
          for run, t, c, folder in zip(runs, pair, made, folders, strict=True)),
        data=ask.folder,
        digest=digest,
        rows=ask.dataset.manifest.num_rows,
        by=ask.by,
        replicates=replicates,
        differences=differences((config, made[0]), (other, made[1]), (pair[0].fit, pair[1].fit)),
        tasks=tasks,
        slices=slices,
        verdict=Verdict(
            by_task, words.slices_verdict(slices), words.overall(by_task, tasks, warnings), tuple(warnings)
        ),
    )  # fmt: skip


def _seen(run: str, trained: Trained, commit: Commit, dataset: Dataset) -> Iterator[str]:
    """Whether a run has learnt, or was chosen or recalibrated, from the rows that it is judged by, in any folder."""
    digest = dataset.manifest.digest
    if commit.manifest == digest or dataset.folder.shares_partitions(trained.config.data.train):
        yield f"{run} was trained on these very rows; its metrics on them mean nothing. Compare on other rows"
    if commit.selection.best_step == commit.step and commit.selection.validation == digest:
        yield f"{run}: its best commit was selected on these rows, which flatters it. Compare on other rows"
    if trained.fit is not None and trained.fit.digest == digest:
        yield (
            f"{run} was recalibrated on these rows, which flatters its logloss, NE and PCOC. Compare on other rows, or "
            f"with --raw"
        )


def _unequal(configs: tuple[Config, Config], made: tuple[Commit, Commit]) -> list[str]:
    """What makes two runs no fair comparison."""
    a, b = (config.data for config in configs)
    warnings = []
    if made[0].manifest != made[1].manifest:
        digests = " and ".join(commit.manifest[:12] for commit in made)
        warnings.append(f"A and B were trained on different data (digests {digests}); the difference may be the data's")
    if a.kept != b.kept:
        warnings.append(
            f"data.kept differs ({a.kept or 'none'} and {b.kept or 'none'}): A and B undo a different down-sampling, "
            f"and logloss, NE and PCOC tell about that as well"
        )
    if a.weight != b.weight:
        warnings.append(
            f"data.weight differs (`{a.weight or 'none'}` and `{b.weight or 'none'}`); rows weigh here what A says"
        )
    cuts = [list(config.metrics.ndcg_at) for config in configs]
    if cuts[0] != cuts[1]:
        warnings.append(f"metrics.ndcg_at differs ({cuts[0]} and {cuts[1]}); NDCG is told at the cuts that both have")
    return warnings
