"""A dataset and the weights at hand -> every task's metrics on its own space, by slice, within users or searches."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dist_mtl.build import build_for_scoring, check_world, open_to_score
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.training import RunConfig, SelectConfig
from dist_mtl.data.column_class import TrainedOn
from dist_mtl.data.features.group_keys import check_key, keys_of
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.metrics.exchange import GroupedScores
from dist_mtl.metrics.grouped import GroupMetrics
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.slices import SlicedHistograms, Slicing, column_of, discover
from dist_mtl.metrics.task import TaskMetrics, compute
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import ADVICE
from dist_mtl.scoring.score import AS_IT_IS, NO_EXTENSIONS, Adjustment, Scored, score
from dist_mtl.scoring.trained_run import find
from dist_mtl.terminal.wording import plural

# Share of the rows in one bin of scores, 6e-5 wide at a logit of 2 to 4, from which on predictions are called constant.
ALIKE = 0.999
FAR_OFF = 2.0  # normalised entropy; an over-fitted model comes to 1.1, an untrained one that begins at 1/2 to 30


@dataclass(frozen=True)
class Evaluation:
    """Metrics by task, in the order of `Config.tasks`, and the ceiling of the AUC where it is known."""

    tasks: dict[str, TaskMetrics]
    ceiling: dict[str, float]
    rows: int
    dropped: int  # rows left out because they break the funnel
    clamped: int  # ids that the policy `clamp` moved
    slices: dict[str, dict[str, dict[str, TaskMetrics]]] = field(default_factory=dict)  # column -> value -> task
    groups: dict[str, dict[str, GroupMetrics]] = field(default_factory=dict)  # column -> task
    seconds: float = field(default=0.0, compare=False)
    advice: tuple[str, ...] = field(default=(), compare=False)  # what to know before any of these is believed

    def with_advice(self, message: str | None) -> "Evaluation":
        """The same with a further line of advice, before the others; None: as it is."""
        return self if message is None else replace(self, advice=(message, *self.advice))

    def value(self, name: str) -> float:
        """A metric by its name in `select.metrics`, in its own sign."""
        # Labels and columns may have dots in their names: the longest that fits is meant.
        task = max((t for t in self.tasks if name.startswith(f"{t}.")), key=len)
        metric = name.removeprefix(f"{task}.")
        if columns := [column for column in self.groups if metric.startswith(f"{column}.")]:
            column = max(columns, key=len)
            found, metric = self.groups[column][task], metric.removeprefix(f"{column}.")
            return found.ndcg[metric.removeprefix("ndcg@")] if metric.startswith("ndcg@") else getattr(found, metric)
        of = self.tasks[task]
        match metric:
            case "auc":
                return of.auc.value
            case "logloss":
                return of.logloss
            case "ne":
                return of.normalised_entropy
            case "ece":
                return of.calibration_error
            case _:
                return of.pcoc

    def gain(self, name: str) -> float:
        """The same as a number of which more is better; NaN where it is not defined."""
        value = self.value(name)
        match name.rpartition(".")[2]:
            case "logloss" | "ne" | "ece":
                return -value
            case "pcoc":
                return -abs(math.log(value)) if value > 0 else math.nan
            case _:
                return value

    def score(self, spec: SelectConfig) -> float:
        """The weighted mix that `select.metrics` asks for; more is better. Raises DataError if one is not defined."""
        gains = {name: self.gain(name) for name in spec.metrics}
        if undefined := [name for name, gain in gains.items() if math.isnan(gain)]:
            raise DataError(
                f"select.metrics: `{undefined[0]}` is not defined on the validation rows (one class only, or no row of "
                f"its space); validate on more rows, or select by another metric"
            )
        return sum(weight * gains[name] for name, weight in spec.metrics.items())


@dataclass(frozen=True)
class TestSet:
    """A dataset to evaluate on, verified, with the slices that its columns have."""

    __test__ = False  # pytest: no test case

    dataset: Dataset
    slicings: tuple[Slicing, ...]
    groups: tuple[tuple[str, str], ...]  # (name, column)


def open_test(folder: str, config: Config, rt: Runtime, trained_on: TrainedOn | None = None) -> TestSet:
    """Open what an evaluation needs of a dataset. Raises DataError on every rank: dataset, or a column of `metrics`."""
    return with_slices(open_to_score(folder, config, rt, carried(config), trained_on=trained_on), config, rt)


def carried(config: Config) -> list[str]:
    """The columns that an evaluation needs beside those of the features."""
    return [column_of(config, name) for name in (*config.metrics.slices, *config.metrics.groups)]


def with_slices(dataset: Dataset, config: Config, rt: Runtime) -> TestSet:
    """A dataset that was opened with the columns `carried`, ready to evaluate on. Reads the columns of slices."""
    groups = tuple((name, column_of(config, name)) for name in config.metrics.groups)
    for name, column in groups:
        kind = dataset.schema.field(column).type
        rt.all_ranks(lambda n=name, c=column, k=kind: check_key(c, k, f"metrics.groups `{n}`: {dataset.folder}"))
    slicings = tuple(discover(dataset, config, name, rt) for name in config.metrics.slices)
    return TestSet(dataset, slicings, groups)


def evaluate(
    model: ShardedModel, test: TestSet, config: Config, rt: Runtime, adjustment: Adjustment = AS_IT_IS
) -> Evaluation:
    """Evaluate one pass over a dataset on all ranks; the result is the same on each. The model's mode is restored.

    Raises NonFiniteError on every rank if a score is not finite.
    """
    started = time.monotonic()
    with ExitStack() as scratch:
        sums = _Sums(test, config, rt, scratch)
        for scored in score(model, test.dataset, config, rt, adjustment):
            sums.add(scored)
        evaluation = sums.result()
    return replace(evaluation, seconds=time.monotonic() - started)


class _Sums:
    """What an evaluation has counted so far on this rank."""

    def __init__(self, test: TestSet, config: Config, rt: Runtime, scratch: ExitStack) -> None:
        self._test, self._config, self._rt = test, config, rt
        tasks, weighted = len(config.tasks), config.data.weight is not None
        self._whole = LogitHistogram(tasks, rt.device, weighted=weighted)
        self._sliced = [SlicedHistograms(slicing, tasks, rt.device, weighted) for slicing in test.slicings]
        self._grouped: list[tuple[str, str, GroupedScores]] = []
        for name, column in test.groups:
            grouped = GroupedScores(tasks, config.metrics.ndcg_at, rt, Path(config.run.dir))
            self._grouped.append((name, column, scratch.enter_context(grouped)))
        self._counts = torch.zeros(2, dtype=torch.int64, device=rt.device)

    def add(self, scored: Scored) -> None:
        """Count a batch."""
        logits_BM, labels_BM, weights_BM = scored.readings.columns
        self._counts += self._counts.new_tensor([scored.dropped, scored.clamped])
        self._whole.update(logits_BM, labels_BM, weights_BM)
        for sliced in self._sliced:
            sliced.update(scored.carried.table.column(sliced.slicing.column), logits_BM, labels_BM, weights_BM)
        for _, column, grouped in self._grouped:
            keys_N, present_N = keys_of(scored.carried.table.column(column))
            rows = slice(0, len(keys_N))
            # A row without a user or a search is in no group.
            weights_NM = weights_BM[rows].cpu() * torch.from_numpy(present_N)[:, None]
            grouped.update(keys_N, logits_BM[rows].cpu(), labels_BM[rows].cpu(), weights_NM)

    def result(self) -> Evaluation:
        """The metrics over all ranks. Collective."""
        histograms = [self._whole, *(sliced.histogram for sliced in self._sliced)]
        for sums in (self._counts, *(t for histogram in histograms for t in histogram.tensors)):
            self._rt.all_reduce(sums)
        dropped, clamped = self._counts.tolist()
        tasks, dataset = self._config.tasks, self._test.dataset
        metrics = dict(zip(tasks, compute(self._whole), strict=True))
        groups = {name: dict(zip(tasks, grouped.compute(), strict=True)) for name, _, grouped in self._grouped}
        return Evaluation(
            tasks=metrics,
            ceiling=dict(dataset.manifest.ceiling),
            rows=dataset.manifest.num_rows,
            dropped=dropped,
            clamped=clamped,
            slices={sliced.slicing.name: sliced.compute(tasks) for sliced in self._sliced},
            groups=groups,
            advice=tuple(self._useless(metrics)),
        )

    def _useless(self, metrics: dict[str, TaskMetrics]) -> Iterator[str]:
        """The tasks whose predictions are of no use, whatever their metrics say."""
        for task, (name, m) in enumerate(metrics.items()):
            bins_K = self._whole.bins_M2K[task].sum(dim=0)
            if int(bins_K.max()) >= ALIKE * int(bins_K.sum()) > 0 and m.rows > 1:
                what = f"predictions of {name} are constant: it did not learn to tell rows apart"
            elif m.normalised_entropy >= FAR_OFF:
                what = f"predictions of {name} are far worse than a constant: NE {m.normalised_entropy:.3g}"
            else:
                continue
            yield f"{what}. {ADVICE}"


def evaluate_run(
    run_dir: str,
    data: str | None = None,
    which: str = "best",
    overrides: Sequence[str] = (),
    raw: bool = False,
    embedded: bool = False,
    extensions: Extensions = NO_EXTENSIONS,
) -> tuple[Evaluation, str]:
    """Evaluate a commit of a run on `data` (default: its own data.test), on any number of ranks.

    `which`, `overrides` and `raw` as in `scoring.find`, `embedded` as in `runtime`. Returns the evaluation and a title.
    Raises CheckpointError if the run has no such commit, ConfigError without data.
    """
    with runtime(RunConfig.at(run_dir), embedded) as rt:
        trained = find(run_dir, which, tuple(overrides), raw, rt, extensions)
        folder = data or trained.config.data.test
        if folder is None:
            raise ConfigError(f"{trained.folder}: its configuration has no data.test; name a dataset with --data")
        check_world(trained.config)
        test = open_test(folder, trained.config, rt, trained.on)
        model = build_for_scoring(trained.config, rt, trained.folder)
        store.load(model, trained.folder, rt, weights_only=True)
        evaluation = evaluate(model, test, trained.config, rt, trained.adjustment)
        commit = rt.all_ranks(lambda: commits.read(trained.folder))
        if commit.reason == "end":  # else more steps may follow, or did
            evaluation = evaluation.with_advice(trained.config.few_steps(commit.step))
    return evaluation, f"{trained.folder}: {folder}, {plural(evaluation.rows, 'row')}"
