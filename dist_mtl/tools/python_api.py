"""What the functions of `dist_mtl` do: training and scoring inside of a process that belongs to the caller.

Such a process is never ended from here. What is set for a whole process (signal handlers, threads, warnings, random
numbers, the process group) is afterwards as it was, and each error leaves room for the next call.
"""

import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.file import extended
from dist_mtl.errors import CheckpointError, ConfigError, DistMtlError, InternalError
from dist_mtl.observability.events import STREAM
from dist_mtl.observability.run_dir import check_outputs
from dist_mtl.parallel.world import World
from dist_mtl.scoring.evaluate import Evaluation, evaluate_run
from dist_mtl.scoring.loaded_model import LoadedModel
from dist_mtl.scoring.predict import Predictions, predict_run
from dist_mtl.scoring.score import NO_EXTENSIONS
from dist_mtl.tools.compare.comparison import Comparison, compare_runs
from dist_mtl.tools.report.event_log import read_events
from dist_mtl.train import train as train_to_the_end

Which = Literal["best", "latest", "newest"] | int


@dataclass(frozen=True)
class Run:
    """A run's folder, and what training has found at its end.

    `evaluation`: on data.test; None without it, and for a run that was trained elsewhere: `Run("runs/a")`.
    """

    dir: Path
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir))

    @property
    def steps(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        folder = store.latest(self.dir)
        return 0 if folder is None else commits.read(folder).step

    @property
    def config(self) -> Config:
        """As the newest checkpoint has it, with what features have found in the training rows."""
        folder = store.latest(self.dir)
        if folder is None:
            raise CheckpointError(f"{self.dir}: no complete commit in it; train first, or correct the path")
        return commits.config_of(commits.read(folder), folder)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What the run has recorded so far, of all its starts: every event, or those of one name, e.g. `step`."""
        check_outputs(self.dir)
        try:
            return [event for event in read_events(self.dir / STREAM) if name in (None, event["event"])]
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.dir / STREAM}: {error.strerror}; is it the folder of a run?") from None


AnyRun = Run | str | Path


def train(config: Config, extensions: Extensions | None) -> Run:
    """See `dist_mtl.train`."""
    if not isinstance(config, Config):
        raise ConfigError(f"train: it takes the Config that load_config returns, not a {type(config).__name__}")
    with _calls():
        config = config if extensions is None else extended(config, extensions)
        evaluation = train_to_the_end(config, _embedded())
    return Run(Path(config.run.dir), evaluation)


def load_model(run: AnyRun, checkpoint: Which, raw: bool, extensions: Extensions | None) -> LoadedModel:
    """See `dist_mtl.load_model`."""
    with _calls():
        return LoadedModel(_folder(run), _named(checkpoint), raw, extensions or NO_EXTENSIONS)


def evaluate(
    run: AnyRun,
    data: str | Path | None,
    checkpoint: Which,
    raw: bool,
    slices: Sequence[str],
    groups: Sequence[str],
    extensions: Extensions | None,
) -> Evaluation:
    """See `dist_mtl.scoring.evaluate`."""
    columns = {"slices": slices, "groups": groups}
    overrides = [f"metrics.{key}={json.dumps(list(names))}" for key, names in columns.items() if names]
    with _calls():
        folder = None if data is None else str(data)
        parts = extensions or NO_EXTENSIONS
        return evaluate_run(_folder(run), folder, _named(checkpoint), overrides, raw, _embedded(), parts)[0]


def predict(
    run: AnyRun,
    data: str | Path,
    out: str | Path,
    keep: Sequence[str],
    checkpoint: Which,
    raw: bool,
    extensions: Extensions | None,
) -> Predictions:
    """See `dist_mtl.scoring.predict`."""
    with _calls():
        parts = extensions or NO_EXTENSIONS
        return predict_run(_folder(run), str(data), str(out), keep, _named(checkpoint), raw, _embedded(), parts)


def compare(
    a: AnyRun,
    b: AnyRun,
    data: str | Path | None,
    by: str | None,
    slices: Sequence[str],
    checkpoint: Which,
    raw: bool,
    replicates: int | None,
    extensions: Extensions | tuple[Extensions, Extensions] | None,
) -> Comparison | None:
    """See `dist_mtl.tools.compare`."""
    folders, rows = (_folder(a), _folder(b)), None if data is None else str(data)
    parts = extensions if isinstance(extensions, tuple) else (extensions or NO_EXTENSIONS,) * 2
    with _calls():
        return compare_runs(*folders, rows, by, slices, _named(checkpoint), raw, replicates, _embedded(), parts)


def _folder(run: AnyRun) -> str:
    return str(run.dir if isinstance(run, Run) else run)


def _named(checkpoint: Which) -> str:
    return "latest" if checkpoint == "newest" else str(checkpoint)


def _embedded() -> bool:
    """Whether the process is a caller's; one of several ranks belongs to its launcher, as that of a script does."""
    return World.from_env().size == 1


@contextmanager
def _calls() -> Iterator[None]:
    """Errors as a caller gets them: of one tree, and their frames hold neither a model nor data."""
    try:
        yield
    except (DistMtlError, KeyboardInterrupt) as error:
        _let_go(error)
        raise
    except Exception as error:
        _let_go(error)
        raise InternalError(f"{type(error).__name__}: {error}") from error


def _let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and of those that led to it: a notebook keeps the last error, and with it gigabytes
    of tables and threads that read ahead."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
