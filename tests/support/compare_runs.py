"""Two runs compared by real ranks, and the same figures by hand; for tests of `dist-mtl compare`."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from dist_mtl.config import Config
from dist_mtl.data.files.manifest import read as manifest_of
from dist_mtl.errors import DistMtlError
from dist_mtl.metrics.paired import paired_delong, paired_means, paired_ratios
from dist_mtl.tools.compare.comparison import Comparison, compare_runs
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.workers import train

STEPS = 94
TASKS = ("ctr", "cvr", "ctcvr")


def settings(folder: Path, run: str, *overrides: str) -> Config:
    """The configuration of run `folder/run`."""
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "train.epochs=2")
    return samples.config(folder, *fixed, "metrics.groups=['user']", "metrics.slices=['age']", *overrides)


def three_runs(folder: Path) -> Path:
    """Two runs that differ in their seed, and one that learns next to nothing, all on 2 ranks."""
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 2_000, seed=1)
    Cluster(2).run(train, settings(folder, "one"))
    Cluster(2).run(train, settings(folder, "two", "seed=2"))
    Cluster(2).run(train, settings(folder, "lame", "optim.dense.lr=1e-9", "optim.embedding.lr=1e-9"))
    return folder


def compared(a: str, b: str, options: dict) -> Comparison | tuple[str, str, int] | None:
    """What a rank has in the end."""
    try:
        return compare_runs(a, b, **options)
    except DistMtlError as error:
        return type(error).__name__, str(error), error.exit_code


def compare(folder: Path, a: str, b: str, world: int = 2, **options: object) -> Comparison:
    first, *rest = Cluster(world).run(compared, str(folder / a), str(folder / b), options)
    assert isinstance(first, Comparison), first
    assert rest == [None] * (world - 1)
    return first


def error(folder: Path, a: str, b: str, **options: object) -> tuple[str, str, int]:
    """The error that both ranks raise."""
    first, second = Cluster(2).run(compared, str(folder / a), str(folder / b), options)
    assert first == second and isinstance(first, tuple), first
    return first


def scores(folder: Path, run: str, step: int = STEPS) -> pa.Table:
    """The predictions that a comparison left in a run's folder."""
    digest = manifest_of(folder / "test").digest[:12]
    found = folder / run / "predictions" / f"step-{step:010d}-{digest}"
    names = [file.path for file in manifest_of(found).files]
    return pa.concat_tables([pq.read_table(found / name) for name in names])


def by_hand(folder: Path, a: str, b: str) -> dict[str, dict]:
    """The same figures from the two folders of predictions, by user."""
    one, two = scores(folder, a), scores(folder, b)
    assert one["row_number"].to_pylist() == two["row_number"].to_pylist() == list(range(2_000))
    click, conversion = (one[name].to_numpy() > 0 for name in ("click", "conversion"))
    user = one["user"].fill_null(0).to_numpy().copy()
    user[~one["user"].is_valid().to_numpy()] = np.arange(one["user"].null_count) + 2**50
    found = {}
    for task in TASKS:
        space = click if task == "cvr" else np.ones(2_000, bool)
        labels, clusters = (click if task == "ctr" else conversion)[space], user[space]
        x, y = (side[f"logit_{task}"].to_numpy()[space] for side in (one, two))
        losses = (np.log1p(np.exp(np.where(labels, -z, z).astype(float))) for z in (x, y))
        p = (1 / (1 + np.exp(-z.astype(float))) for z in (x, y))
        found[task] = {
            "rows": int(space.sum()),
            "sklearn": (roc_auc_score(labels, x), roc_auc_score(labels, y)),
            "auc": paired_delong(x, y, labels, clusters),
            "logloss": paired_means(*losses, None, clusters),
            "pcoc": paired_ratios(*p, labels, clusters),
        }
    return found


def assert_close(ours: object, expected: object) -> float:
    """The largest difference of two `Paired`, in units of 1."""
    gap = max(abs(x - y) for x, y in zip(asdict(ours).values(), asdict(expected).values(), strict=True))
    assert gap < 1e-9
    return gap


def evaluated(folder: Path, run: str, found: Comparison, side: str, task: str) -> list[float]:
    """How far the figures of one side are from those of the evaluation at the end of the run."""
    last, ours = events(folder / run, "evaluation")[-1], found.tasks[task]
    groups, tasks = last["groups"]["user"][task], last["tasks"][task]
    figures = [(getattr(getattr(ours, m), side), tasks[m]) for m in ("logloss", "normalised_entropy", "pcoc")]
    figures += [(getattr(ours.groups["user"][m], side), groups[m]) for m in ("gauc", "gauc_unweighted", "mrr")]
    figures.append((getattr(ours.groups["user"]["ndcg@5"], side), groups["ndcg"]["5"]))
    # The evaluation's AUC is that of binned scores, and says how far that may be off.
    auc = abs(getattr(ours.auc, side) - tasks["auc"]["value"]) - tasks["auc"]["error"]
    return [max(auc, 0.0), *(abs(x - y) for x, y in figures)]
