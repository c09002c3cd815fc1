"""Click and conversion models whose embedding tables are larger than one device, trained with TorchRec.

The Python interface: train, score, evaluate and compare in one process, such as a notebook's. Under torchrun `train`,
`evaluate`, `predict` and `compare` do what the scripts of launch/ do, each rank its part.

    >>> import dist_mtl as dm
    >>> sample = {"data.sample.train_rows": 20_000, "data.sample.test_rows": 1000}
    >>> config = dm.load_config("configs/quickstart.toml", {"train.max_steps": 4, "run.dir": "runs/tour", **sample})
    >>> run = dm.train(config)
    >>> 0 <= run.evaluation.tasks["ctr"].auc.value <= 1
    True
    >>> model = dm.load_model(run, checkpoint="best")
    >>> model.tasks
    ('ctr', 'cvr', 'ctcvr')

Every error is a DistMtlError and says what is wrong, where, and what to do. None ends the process, and the next call
works. Nothing heavy is imported before the first call: `import dist_mtl` takes milliseconds.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from dist_mtl.errors import (
    CheckpointError,
    ConfigError,
    DamagedCommitError,
    DamageError,
    DataError,
    DistMtlError,
    InternalError,
    NonFiniteError,
    Preempted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dist_mtl.config import Config
    from dist_mtl.config.extensions import Extensions, Feature
    from dist_mtl.model.experts import TaskInputs
    from dist_mtl.model.term import Term
    from dist_mtl.scoring.evaluate import Evaluation
    from dist_mtl.scoring.loaded_model import LoadedModel
    from dist_mtl.scoring.predict import Predictions
    from dist_mtl.tools.compare.comparison import Comparison
    from dist_mtl.tools.python_api import Run

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "Comparison",
    "Config",
    "ConfigError",
    "DamageError",
    "DamagedCommitError",
    "DataError",
    "DistMtlError",
    "Evaluation",
    "Extensions",
    "Feature",
    "InternalError",
    "LoadedModel",
    "NonFiniteError",
    "Predictions",
    "Preempted",
    "Run",
    "TaskInputs",
    "Term",
    "compare",
    "evaluate",
    "load_config",
    "load_model",
    "predict",
    "train",
]


def load_config(path: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str] = ()) -> Config:
    """Read the configuration of a run from a TOML file, or from a dict of the same shape.

    `overrides`: values by dotted key, which replace those of the file; or texts as of `--set`.

    Raises ConfigError, which names every wrong key and the nearest one that exists.

        >>> import dist_mtl as dm
        >>> config = dm.load_config("configs/quickstart.toml", {"train.epochs": 3, "optim.dense.lr": 0.002})
        >>> config.train.epochs
        3
        >>> dm.load_config("configs/quickstart.toml", ["train.epoch=3"])
        Traceback (most recent call last):
            ...
        dist_mtl.errors.ConfigError: configs/quickstart.toml: train.epoch is not a key; did you mean `epochs`?
    """
    from dist_mtl.config.file import load

    return load(path, overrides)


def train(config: Config, *, extensions: Extensions | None = None) -> Run:
    """Train to the end and evaluate `data.test`. A run that has checkpoints continues from the newest one.

    `extensions`: a backbone, losses or features of your own (docs/extending.md). Whoever resumes or scores the run has
    to pass them again.

    Progress goes to stderr and to events.jsonl in the run's folder. Ctrl-C stops after the step at work, saves it, and
    raises Preempted: the same call continues there. A second Ctrl-C raises KeyboardInterrupt at once.

    Raises ConfigError, DataError (NonFiniteError: a loss is NaN), CheckpointError, InternalError, Preempted.

        >>> import dist_mtl as dm
        >>> sample = {"data.sample.train_rows": 20_000, "data.sample.test_rows": 1000}
        >>> config = dm.load_config("configs/quickstart.toml", {"train.max_steps": 4, "run.dir": "runs/tour", **sample})
        >>> run = dm.train(config)
        >>> run.steps
        4
        >>> [event["step"] for event in run.events("commit")]
        [4]
    """
    from dist_mtl.tools import python_api

    return python_api.train(config, extensions)


def load_model(
    run: Run | str | Path,
    checkpoint: Literal["best", "latest", "newest"] | int = "best",
    *,
    raw: bool = False,
    extensions: Extensions | None = None,
) -> LoadedModel:
    """Load a checkpoint of a run to score rows in memory. On a GPU if there is one.

    `checkpoint`: "best" (by the configuration's `select`, else the newest), "latest" or "newest", or a step. `raw`: the
    network's own probabilities, neither corrected for down-sampled logs nor recalibrated. `extensions`: the run's.

    `predict` of the model takes a pandas DataFrame, a pyarrow Table or a list of dicts and returns the same kind with
    a column for each task: the probabilities, to the bit those that `predict` writes for a dataset of these rows.

    Raises CheckpointError: there is no such checkpoint, or it is damaged.

        >>> import dist_mtl as dm
        >>> model = dm.load_model("runs/tour")
        >>> import pyarrow.parquet as pq
        >>> rows = pq.read_table("data/quickstart/test").slice(0, 2)
        >>> model.predict(rows).column_names
        ['ctr', 'cvr', 'ctcvr']
        >>> [sorted(row) for row in model.predict(rows.to_pylist())]
        [['ctcvr', 'ctr', 'cvr'], ['ctcvr', 'ctr', 'cvr']]
    """
    from dist_mtl.tools import python_api

    return python_api.load_model(run, checkpoint, raw, extensions)


def evaluate(
    run: Run | str | Path,
    data: str | Path | None = None,
    *,
    checkpoint: Literal["best", "latest", "newest"] | int = "best",
    raw: bool = False,
    slices: Sequence[str] = (),
    groups: Sequence[str] = (),
    extensions: Extensions | None = None,
) -> Evaluation:
    """Evaluate a checkpoint of a run on a dataset folder (by default its data.test).

    `slices`: columns by whose values the metrics are also given; `groups`: columns (a user, a search) within whose
    values GAUC, NDCG and MRR are. By default those of the configuration. The rest as in `load_model`.

        >>> import dist_mtl as dm
        >>> evaluation = dm.evaluate("runs/tour")
        >>> evaluation.rows
        1000
    """
    from dist_mtl.tools import python_api

    return python_api.evaluate(run, data, checkpoint, raw, slices, groups, extensions)


def predict(
    run: Run | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    checkpoint: Literal["best", "latest", "newest"] | int = "best",
    raw: bool = False,
    extensions: Extensions | None = None,
) -> Predictions:
    """Score the dataset folder `data` into the new folder `out`, Parquet with logit_TASK and p_TASK for each task.

    `keep`: further columns to keep. The rest as in `load_model`. Raises DataError if `out` exists.

        >>> import dist_mtl as dm
        >>> dm.predict("runs/tour", "data/quickstart/test", "scores").rows
        1000
    """
    from dist_mtl.tools import python_api

    return python_api.predict(run, data, out, keep, checkpoint, raw, extensions)


def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    data: str | Path | None = None,
    *,
    by: str | None = None,
    slices: Sequence[str] = (),
    checkpoint: Literal["best", "latest", "newest"] | int = "best",
    raw: bool = False,
    replicates: int | None = None,
    extensions: Extensions | tuple[Extensions, Extensions] | None = None,
) -> Comparison | None:
    """Whether run `b` is better than run `a` on the same rows (by default the data.test of both), and how sure that is.

    `by`: the column whose rows belong together (by default the first of metrics.groups; "": rows are independent).
    `slices`: columns to compare by. `replicates`: bootstrap the AUCs. `extensions`: of both runs, or a
    pair. The rest as in `load_model`. Under torchrun the first rank gets the comparison, the others None.

        >>> import dist_mtl as dm
        >>> comparison = dm.compare("runs/tour", "runs/tour")
        >>> comparison.tasks["ctr"].auc.difference
        0.0
    """
    from dist_mtl.tools import python_api

    return python_api.compare(a, b, data, by, slices, checkpoint, raw, replicates, extensions)


def __getattr__(name: str) -> Any:
    """The classes that the functions take and return, imported once they are asked for."""
    # No match statement: the doctor, which is imported behind this file, speaks to Python 3.9 as well.
    if name == "Config":
        from dist_mtl.config import Config as found
    elif name == "Run":
        from dist_mtl.tools.python_api import Run as found
    elif name == "LoadedModel":
        from dist_mtl.scoring.loaded_model import LoadedModel as found
    elif name in ("Extensions", "Feature"):
        from dist_mtl.config import extensions

        found = getattr(extensions, name)
    elif name == "TaskInputs":
        from dist_mtl.model.experts import TaskInputs as found
    elif name == "Term":
        from dist_mtl.model.term import Term as found
    elif name == "Evaluation":
        from dist_mtl.scoring.evaluate import Evaluation as found
    elif name == "Predictions":
        from dist_mtl.scoring.predict import Predictions as found
    elif name == "Comparison":
        from dist_mtl.tools.compare.comparison import Comparison as found
    else:
        raise AttributeError(f"module 'dist_mtl' has no attribute {name!r}")
    return found


class _Package(ModuleType):
    """Some of the functions have the names of modules, and Python binds a module to its package when it is imported:
    the functions stay. (`from dist_mtl.train import ...` finds the module all the same.)"""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
