"""Every verb that opens a run, in this process on one rank: what it ends with, and what it has changed elsewhere."""

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from dist_mtl.checkpoint.verify import verify_run
from dist_mtl.config.file import parse
from dist_mtl.errors import DistMtlError
from dist_mtl.scoring.evaluate import evaluate_run
from dist_mtl.scoring.loaded_model import LoadedModel
from dist_mtl.scoring.predict import predict_run
from dist_mtl.scoring.recalibrate import recalibrate_run
from dist_mtl.scoring.score import NO_EXTENSIONS
from dist_mtl.tools.compare.comparison import compare_runs
from dist_mtl.tools.convert.pattern import like_of
from dist_mtl.tools.python_api import Run
from dist_mtl.tools.report.page import write as report
from dist_mtl.tools.study.relatedness import recover_run
from dist_mtl.train import train
from tests.support import samples

# Each takes the folder that has run/, train/, test/ and held/.
VERBS: dict[str, Callable[[Path], object]] = {
    "train": lambda place: train(config(place)),
    "evaluate": lambda place: evaluate_run(str(place / "run")),
    "predict": lambda place: predict_run(str(place / "run"), str(place / "test"), place / "scores"),
    "compare": lambda place: compare_runs(str(place / "run"), str(place / "run"), str(place / "test")),
    "recalibrate": lambda place: recalibrate_run(str(place / "run"), str(place / "held"), "platt"),
    "relatedness": lambda place: recover_run(str(place / "run"), "row", str(place / "test")),
    "load": lambda place: LoadedModel(place / "run", "best", False, NO_EXTENSIONS),
    "like": lambda place: like_of(str(place / "run")),
    "events": lambda place: Run(place / "run").events(),
    "report": lambda place: report(str(place / "run")),
    "verify": lambda place: verify_run(place / "run"),
}


def config(place: Path, *overrides: str):
    """Of a run of 8 steps with 2 checkpoints and everything that is written switched on."""
    tree = samples.tree(place)
    tree["data"]["test"] = str(place / "test")
    tree["train"] |= {"checkpoint_every": 4, "max_steps": 8}
    return parse(tree, overrides)


def make_run(place: Path) -> Path:
    """Its logs and the run itself, trained here."""
    samples.write_logs(place / "train", 512)
    samples.write_logs(place / "test", 200, seed=1)
    samples.write_logs(place / "held", 400, seed=5)
    assert ended(lambda: train(config(place))) == (0, "")
    return place


def ended(action: Callable[[], object]) -> tuple[int, str]:
    """The exit code of a verb and its message. Whatever is no error of ours passes through."""
    try:
        action()
    except DistMtlError as error:
        return error.exit_code, str(error)
    finally:
        if dist.is_initialized():  # a verb that fails leaves it to the end of its process
            dist.destroy_process_group()
    return 0, ""
