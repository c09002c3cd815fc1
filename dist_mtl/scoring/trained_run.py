"""A run's checkpoint, ready to be built and scored by."""

from dataclasses import dataclass
from pathlib import Path

from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.file import parse, with_extensions
from dist_mtl.config.training import RunConfig
from dist_mtl.data.column_class import TrainedOn
from dist_mtl.errors import ConfigError
from dist_mtl.metrics.recalibration import Fit
from dist_mtl.observability.run_dir import check_outputs
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.scoring.score import AS_IT_IS, NO_EXTENSIONS, Adjustment


@dataclass(frozen=True)
class Trained:
    """A commit of a run, ready to be built: its folder, its configuration, what is done to its probabilities, and the
    columns that it was trained `on`."""

    folder: Path
    config: Config
    adjustment: Adjustment
    fit: Fit | None  # whose maps are part of the adjustment
    on: TrainedOn


def find(
    run_dir: str,
    which: str,
    overrides: tuple[str, ...],
    raw: bool,
    rt: Runtime,
    extensions: Extensions = NO_EXTENSIONS,
) -> Trained:
    """A commit of a run: `which` is `best`, `latest`, or a step. The same on every rank.

    `overrides`: of metrics.* alone. `raw`: the network's own probabilities. `extensions`: at least those of the run.
    Raises CheckpointError, ConfigError.
    """
    rt.from_first(lambda: check_outputs(run_dir))
    folder = rt.from_first(lambda: store.find(run_dir, which))  # one rank looks: file systems may show others less
    return rt.all_ranks(lambda: _read(folder, run_dir, overrides, raw, extensions))


def _read(folder: Path, run_dir: str, overrides: tuple[str, ...], raw: bool, extensions: Extensions) -> Trained:
    for text in overrides:
        if not text.startswith("metrics."):
            raise ConfigError(f"--set={text}: a trained model keeps its configuration; only metrics.* can be set here")
    commit = commits.read(folder)
    commits.check_extensions(commit, extensions, folder)
    config, on = commits.config_of(commit, folder), TrainedOn(str(folder), commit.columns)
    if overrides:
        config = parse(commit.config, overrides, source=str(folder))
    # Where it was trained is not where it is scored: another folder, another device.
    config = with_extensions(config.model_copy(update={"run": RunConfig.at(run_dir)}), extensions)
    if raw:
        return Trained(folder, config, AS_IT_IS, None, on)
    fit = commits.read_recalibration(folder)
    maps = () if fit is None else tuple(fit.maps.get(task) for task in config.tasks)
    return Trained(folder, config, Adjustment(config.data.kept, maps), fit, on)
