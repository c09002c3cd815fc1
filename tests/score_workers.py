"""What the ranks of a case run to evaluate, predict and recalibrate; beside tests/workers.py."""

from pathlib import Path

from dist_mtl.config import Config
from dist_mtl.evaluate import Evaluation, evaluate_run
from dist_mtl.predict import Predictions, predict_run


def whole(config: Config) -> Evaluation | None:
    """The product's own loop; the final evaluation."""
    from dist_mtl.train import train

    return train(config)


def evaluated(
    run: str, data: str, which: str = "best", overrides: tuple[str, ...] = (), raw: bool = False
) -> Evaluation:
    """A run's commit on a dataset."""
    return evaluate_run(run, data, which, overrides, raw)[0]


def predicted(run: str, data: str, out: str | Path) -> Predictions:
    """The same rows written with their scores."""
    return predict_run(run, data, out, keep=("row", "user", "item"))


def recalibrated(run: str, data: str, method: str) -> tuple[Evaluation, Evaluation]:
    """The evaluations before and after a fit."""
    from dist_mtl.recalibrate import recalibrate_run

    before, after, _ = recalibrate_run(run, data, method)
    return before, after
