"""What the ranks of a case run to evaluate, predict and recalibrate; beside tests/support/workers.py."""

import resource
from pathlib import Path

from dist_mtl.build import build_for_scoring, open_to_score
from dist_mtl.config import Config
from dist_mtl.config.training import RunConfig
from dist_mtl.errors import DataError, DistMtlError
from dist_mtl.parallel.runtime import runtime
from dist_mtl.parallel.world import World
from dist_mtl.scoring.evaluate import Evaluation, evaluate_run
from dist_mtl.scoring.predict import Predictions, predict_run
from dist_mtl.scoring.score import score
from dist_mtl.scoring.trained_run import find


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
    from dist_mtl.scoring.recalibrate import recalibrate_run

    done = recalibrate_run(run, data, method)
    return done.before, done.after


def predicted_on_a_full_disk(run: str, data: str, out: str, rank: int, most_bytes: int) -> tuple[str, str]:
    """The error of this rank if the disk of rank `rank` takes no file of more than `most_bytes`."""
    if World.from_env().rank == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    try:
        predict_run(run, data, out)
    except DistMtlError as error:
        return type(error).__name__, str(error)
    return "", ""


def batches_until_a_fault(run: str, data: str, rank: int) -> tuple[int, str]:
    """How many batches this rank has scored when it learns that rank `rank` had a fault with the first one."""
    with runtime(RunConfig(dir=run, device="cpu")) as rt:
        trained = find(run, "best", (), False, rt)
        dataset = open_to_score(data, trained.config, rt)
        model = build_for_scoring(trained.config, rt)
        count = 0

        def check() -> None:
            if rt.rank == rank:
                raise DataError("the first batch")

        try:
            for _ in score(model, dataset, trained.config, rt, trained.adjustment, check):
                count += 1
        except DistMtlError as error:
            return count, str(error)
        return count, ""


def verdicts(run: str, folders: list[str], out: str) -> list[tuple[str, str, str]]:
    """What every verb that scores says of each dataset: (verb, folder, the error; empty: it scores). One rank."""
    import torch.distributed as dist

    from dist_mtl.scoring.recalibrate import recalibrate_run
    from dist_mtl.tools.compare.comparison import compare_runs

    verbs = {
        "evaluate": lambda data: evaluate_run(run, data),
        "predict": lambda data: predict_run(run, data, f"{out}-{Path(data).name}"),
        "recalibrate": lambda data: recalibrate_run(run, data, "platt"),
        "compare": lambda data: compare_runs(run, run, data),
    }
    told = []
    for verb, action in verbs.items():
        for data in folders:
            try:
                action(data)
            except DistMtlError as error:
                told.append((verb, data, f"{type(error).__name__}: {error}"))
                if dist.is_initialized():  # a verb that fails leaves its group to the end of the process
                    dist.destroy_process_group()
            else:
                told.append((verb, data, ""))
    return told
