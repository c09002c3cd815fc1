"""Fit each task's recalibration on a held-out dataset, and store it with the commit that it was fitted for."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from dist_mtl.assemble import build_for_scoring, check_world, open_to_score
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import RunConfig
from dist_mtl.errors import DataError
from dist_mtl.evaluate import Evaluation, TestSet, evaluate
from dist_mtl.metrics.histogram import LogitHistogram
from dist_mtl.metrics.recalibration import Recalibration, fit_isotonic, fit_platt
from dist_mtl.parallel.runtime import runtime
from dist_mtl.scoring import find, score


Method = Literal["platt", "isotonic"]


def recalibrate_run(
    run_dir: str, data: str, method: Method, which: str = "best"
) -> tuple[Evaluation, Evaluation, Path]:
    """Fit on `data`, which must be neither trained on nor the test set. All ranks, one pass; the maps are the same bits.

    Returns the evaluations on `data` before and after, and the file. Maps of an earlier fit are replaced. Raises
    CheckpointError, DataError (too few positives, see metrics.recalibration).
    """
    with runtime(RunConfig(dir=run_dir)) as rt:
        trained = find(run_dir, which, (), raw=False, rt=rt)
        config, corrected = trained.config, replace(trained.adjustment, maps=())
        check_world(config)
        dataset = open_to_score(data, config, rt)
        model = build_for_scoring(config, rt)
        store.load(model, trained.folder, weights_only=True)
        histogram = LogitHistogram(len(config.tasks), rt.device)
        for scored in score(model, dataset, config, rt, corrected):
            histogram.update(*scored.readings.columns)
        for sums in histogram.tensors:
            rt.all_reduce(sums)
        maps: dict[str, Recalibration] = rt.all_ranks(
            lambda: {t: fit(method, bins_2K, t) for t, bins_2K in zip(config.tasks, histogram.counts(), strict=True)}
        )
        path = rt.from_first(lambda: commits.write_recalibration(trained.folder, maps))
        test = TestSet(dataset, (), ())
        adjusted = replace(corrected, maps=tuple(maps.values()))
        before, after = (evaluate(model, test, config, rt, one) for one in (corrected, adjusted))
    return before, after, path


def fit(method: Method, bins_2K: Tensor, task: str) -> Recalibration:
    """The map of one task. Raises DataError that names it."""
    try:
        return fit_platt(bins_2K) if method == "platt" else fit_isotonic(bins_2K)
    except DataError as error:
        raise DataError(f"{task}: {error}") from None
