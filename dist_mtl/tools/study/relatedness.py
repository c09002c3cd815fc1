"""Does the learned relatedness follow a truth that was planted in the logs? Rank correlation on rows not trained on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr

from dist_mtl.build import build, check_world, open_to_score
from dist_mtl.checkpoint import store
from dist_mtl.config import LearnedAlignment
from dist_mtl.config.training import RunConfig
from dist_mtl.data.hashing import permutation
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import runtime
from dist_mtl.scoring.trained_run import find


@dataclass(frozen=True)
class Recovery:
    """Of one pair of tasks: Spearman's correlation of r with the truth, with the truth in another order, and mean r by
    value of the truth (for at most VALUES values)."""

    pair: str
    rows: int
    spearman: float
    shuffled: float
    deviation: float  # standard deviation of r
    by_value: dict[float, float]


VALUES = 20


def recover_run(run_dir: str, truth: str, data: str | None = None, which: str = "best") -> list[Recovery]:
    """Compare a run's relatedness with the column `truth` of `data` (default: its data.test). Any number of ranks.

    Raises ConfigError for a run without a relatedness network, DataError without the column.
    """
    with runtime(RunConfig.at(run_dir)) as rt:
        trained = find(run_dir, which, (), raw=True, rt=rt)
        config, folder = trained.config, data or trained.config.data.test
        check_world(config)
        spec, labels = config.model.alignment, config.data.labels
        if not isinstance(spec, LearnedAlignment):
            raise ConfigError(f"{trained.folder}: model.alignment.kind = '{spec.kind}' has no relatedness network")
        if folder is None:
            raise ConfigError(f"{trained.folder}: its configuration has no data.test; name a dataset with --data")
        dataset = open_to_score(folder, config, rt, [truth], trained_on=trained.on)
        rt.all_ranks(lambda: _check_number(dataset, truth))
        model = build(config, rt, 1, trained.folder)  # to train: scoring has no relatedness network
        store.load(model, trained.folder, rt, weights_only=True)
        found, truths = [], []
        for batch in batches(dataset, rt):
            with torch.no_grad():
                outputs = model.module(model.look_up(batch).to(rt.device))
            rows = batch.carried.num_rows
            found.append(torch.sigmoid(outputs.training.relatedness_BU[:rows].double()).cpu().numpy())
            truths.append(batch.carried.table.column(truth).cast(pa.float64(), safe=False).to_numpy())  # null: NaN
        parts = rt.gather((np.concatenate(found), np.concatenate(truths)))
    r_NU, truth_N = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    r_NU, truth_N = r_NU[~np.isnan(truth_N)], truth_N[~np.isnan(truth_N)]
    names = [f"{labels[a]}|{labels[b]}" for a, b in spec.pairs_of(labels)]
    return [_recovery(name, r_NU[:, u], truth_N) for u, name in enumerate(names)]


def _check_number(dataset: Dataset, column: str) -> None:
    kind = dataset.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{dataset.folder}: column `{column}` is {kind}; a truth to rank by is a number")


def _recovery(pair: str, r_N: np.ndarray, truth_N: np.ndarray) -> Recovery:
    order = permutation(len(truth_N), "relatedness", "control")
    values = np.unique(truth_N)
    by_value = {float(v): float(r_N[truth_N == v].mean()) for v in values} if len(values) <= VALUES else {}
    return Recovery(
        pair=pair,
        rows=len(r_N),
        spearman=float(spearmanr(r_N, truth_N).statistic),
        shuffled=float(spearmanr(r_N, truth_N[order]).statistic),
        deviation=float(r_N.std()),
        by_value=by_value,
    )
