"""Fit each task's recalibration on a held-out dataset, and store it with the commit that it was fitted for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from dist_mtl.build import build_for_scoring, check_world, open_to_score
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.config.training import RunConfig
from dist_mtl.data.files import manifest
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError, DataError, nearest
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.recalibration import Fit, Method, Recalibration, fit
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.scoring.evaluate import Evaluation, TestSet, evaluate
from dist_mtl.scoring.score import Adjustment, score
from dist_mtl.scoring.trained_run import Trained, find


@dataclass(frozen=True)
class Recalibrated:
    """The evaluations on the fitted rows before and after, the file, and a line for each thing that one should know."""

    before: Evaluation
    after: Evaluation
    path: Path
    warnings: tuple[str, ...]


def recalibrate_run(
    run_dir: str, data: str, method: Method, which: str = "best", tasks: Sequence[str] = ()
) -> Recalibrated:
    """Fit on `data`, which must be neither trained on nor tested on. All ranks, one pass; the maps are the same bits.

    `tasks`: by default all. A task whose rows teach no map (see metrics.recalibration) stays as it is, with a warning.
    Maps of an earlier fit are replaced as a whole. Raises ConfigError: no such task; CheckpointError; DataError: rows
    that were trained on, or no task has a map; NonFiniteError. All on every rank, and nothing is stored.
    """
    with runtime(RunConfig.at(run_dir)) as rt:
        trained = find(run_dir, which, (), raw=True, rt=rt)  # a damaged earlier fit is no reason not to fit
        config = trained.config
        rt.all_ranks(lambda: _check_tasks(tasks, config))
        check_world(config)
        dataset = open_to_score(data, config, rt, trained_on=trained.on)
        warnings = rt.from_first(lambda: _check_rows(trained, run_dir, dataset))
        model = build_for_scoring(config, rt, trained.folder)
        store.load(model, trained.folder, rt, weights_only=True)
        plain = Adjustment(config.data.kept)
        bins = dict(zip(config.tasks, _bins(model, dataset, config, rt, plain), strict=True))
        maps, skipped = rt.all_ranks(lambda: _fit(method, {t: bins[t] for t in tasks or config.tasks}, data))
        positives = {task: float(bins[task][1].sum()) for task in maps}
        found = Fit(method, data, dataset.manifest.digest, positives, maps)
        path = rt.from_first(lambda: commits.write_recalibration(trained.folder, found))
        mapped = replace(plain, maps=tuple(maps.get(task) for task in config.tasks))
        before, after = (evaluate(model, TestSet(dataset, (), ()), config, rt, one) for one in (plain, mapped))
    return Recalibrated(before, after, path, (*warnings, *skipped))


def _check_tasks(tasks: Sequence[str], config: Config) -> None:
    for task in tasks:
        if task not in config.tasks:
            hint = nearest(task, config.tasks) or f"there are {', '.join(config.tasks)}"
            raise ConfigError(f"--tasks {task}: no task of this run; {hint}")


def _check_rows(trained: Trained, run_dir: str, dataset: Dataset) -> list[str]:
    """Raise DataError for rows that were trained on; a warning for those that the run is tested on."""
    digest, test = dataset.manifest.digest, trained.config.data.test
    if commits.read(trained.folder).manifest == digest or dataset.folder.shares_partitions(trained.config.data.train):
        raise DataError(
            f"{dataset.folder}: {run_dir} was trained on these very rows or on some of them, and its scores are better "
            f"there than on any others; recalibrate on rows that were held out"
        )
    if test is not None and manifest.exists(test) and manifest.read(test).digest == digest:
        return [f"{dataset.folder} is data.test of {run_dir}: logloss, NE and PCOC on it are flattered from now on"]
    return []


def _bins(model: ShardedModel, dataset: Dataset, config: Config, rt: Runtime, adjustment: Adjustment) -> Tensor:
    """The rows of all ranks by task, class and bin of the logit."""
    histogram = LogitHistogram(len(config.tasks), rt.device)
    for scored in score(model, dataset, config, rt, adjustment):
        histogram.update(*scored.readings.columns)
    for sums in histogram.tensors:
        rt.all_reduce(sums)
    return histogram.counts()


def _fit(method: Method, by_task: dict[str, Tensor], data: str) -> tuple[dict[str, Recalibration], list[str]]:
    """The maps, and why the other tasks have none. Raises DataError if no task has one."""
    maps, reasons = {}, []
    for task, bins_2K in by_task.items():
        try:
            maps[task] = fit(method, bins_2K)
        except DataError as error:
            reasons.append(f"{task}: {error}")
    if not maps:
        raise DataError("\n".join([*reasons, f"{data} gives no task a map, so nothing was stored"]))
    return maps, [f"{reason}. It stays as it is" for reason in reasons]
