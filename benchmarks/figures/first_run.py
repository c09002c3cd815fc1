"""The first model that a newcomer gets: `convert csv --suggest`, then `train`, nothing edited.

    python -m benchmarks.figures.first_run [--logs NAME ...] [--hand] [--out FOLDER]

Of each log of `tests/support/first_logs.py`: the test AUC of both labels over all impressions, mean of its seeds,
beside that of gradient-boosted trees on the same columns and, with --hand, of the best of a grid of recipes on the same
features, chosen by the *test* rows, which favours it. Prints Markdown; exit 1: the suggestion is more than 0.005 behind
the grid, or the first evaluation's PCOC of the first label is outside 0.8 to 1.25.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from tests.support import workers
from tests.support.first_logs import Log, logs
from tests.support.harness import Cluster

ROOT = Path(__file__).parents[2]
BEHIND, PCOC = 0.005, (0.8, 1.25)
GRID: dict[str, tuple[str, ...]] = {
    "wide": ("model.backbone={kind='mmoe', experts=4, hidden=[128, 64]}", "model.tower=[32]"),
    "narrow, faster tables": ("model.backbone={kind='mmoe', experts=4, hidden=[32]}", "optim.embedding.lr=0.1"),
    "half the rate": ("optim.dense.lr=5e-4",),
    "cross layers": ("model.interaction={kind='dcn'}",),
    "one tower each": ("model.backbone={kind='single_task', hidden=[64, 32]}", "model.dropout=0.3"),
}
FOLDS, PRIOR, MANY = 5, 20.0, 60  # of target encoding: of ids with more values than MANY, and of texts


@dataclass(frozen=True)
class Result:
    """Test AUC of (first label, second label), and the first label's PCOC at the first evaluation."""

    auc: tuple[float, float]
    pcoc: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=0, help="in place of those of each log")
    parser.add_argument("--hand", action="store_true", help="also train the grid")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "first_run")
    options = parser.parse_args()
    known = logs(options.out / "csv")
    print("| log | train rows | suggested | trees | best of the grid | first PCOC |\n|---|---|---|---|---|---|")
    broken = [
        name
        for name in options.logs or known
        if not told(name, seeded(known[name], options.seeds), options.out, options.hand)
    ]
    sys.exit(f"short of what is promised: {', '.join(broken)}" if broken else 0)


def seeded(log: Log, seeds: int) -> Log:
    return replace(log, seeds=seeds) if seeds else log


def told(name: str, log: Log, out: Path, hand: bool) -> bool:
    """Print the row of a log. Whether it is as promised."""
    mine = out / f"{name}.toml"
    if not mine.exists():
        labels = ("--click", log.labels[0], "--conversion", log.labels[1])
        test = ("--test", str(log.test)) if log.test else ()
        script("convert.py", "csv", log.path, out / name, *labels, *log.options, *test, "--suggest", mine)
    config = parse(tomllib.loads(mine.read_text()))
    suggested = mean_of(mine, log, out)
    trees = tuple(of_trees(config, label) for label in config.data.labels)
    found = {told: mean_of(mine, log, out, sets) for told, sets in (GRID if hand else {}).items()}
    best = max(found, key=lambda told: sum(found[told].auc), default=None)
    rows = sum(pq.read_metadata(path).num_rows for path in Path(config.data.train).glob("*.parquet"))
    beside = "" if best is None else f"{shown(found[best].auc)} ({best})"
    cells = (name, f"{rows:,}", shown(suggested.auc), shown(trees), beside, f"{suggested.pcoc:.2f}")
    print(f"| {' | '.join(cells)} |", flush=True)
    near = best is None or sum(suggested.auc) / 2 >= sum(found[best].auc) / 2 - BEHIND
    return near and PCOC[0] <= suggested.pcoc <= PCOC[1]


def shown(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.4f}" for value in values)


def mean_of(mine: Path, log: Log, out: Path, sets: tuple[str, ...] = ()) -> Result:
    """Train with every seed of the log."""
    results = [train(mine, out / "runs", seed, sets) for seed in range(1, log.seeds + 1)]
    first, second = np.mean([result.auc for result in results], axis=0)
    return Result((first, second), float(np.mean([result.pcoc for result in results])))


def train(mine: Path, runs: Path, seed: int, sets: tuple[str, ...]) -> Result:
    """One run, from its start."""
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as run:
        own = (f"run.dir={run}/run", f"seed={seed}", "run.device=cpu", *sets)
        Cluster(1).run(workers.train, parse(tomllib.loads(mine.read_text()), own), timeout=3 * 3600)
        events = [json.loads(line) for line in (Path(run) / "run/events.jsonl").open()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    last = [task["auc"]["value"] for task in evaluations[-1]["tasks"].values()]
    return Result((last[0], last[-1]), next(iter(evaluations[0]["tasks"].values()))["pcoc"])


def script(name: str, *arguments: object) -> None:
    command = [sys.executable, "-W", "ignore", f"launch/{name}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def of_trees(config: Config, label: str) -> float:
    """The test AUC of gradient-boosted trees on the columns of the features; lists are left out."""
    train, test = (pd.concat(map(pd.read_parquet, sorted(Path(f).glob("*.parquet"))), ignore_index=True)
                   for f in (config.data.train, config.data.test))  # fmt: skip
    ours, theirs = {}, {}
    for name, feature in config.features.items():
        column = config.columns_of(name)[0]
        if feature.kind == "bag" or column in ours:
            continue
        if pd.api.types.is_numeric_dtype(train[column]) and (feature.kind != "id" or train[column].nunique() <= MANY):
            ours[column], theirs[column] = train[column], test[column]
        else:
            ours[column], theirs[column] = encoded(train, test[column], column, label)
    trees = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.05, max_leaf_nodes=15, early_stopping=True, random_state=0
    )
    trees.fit(pd.DataFrame(ours), train[label])
    return float(roc_auc_score(test[label], trees.predict_proba(pd.DataFrame(theirs))[:, 1]))


def encoded(train: pd.DataFrame, test: pd.Series, column: str, label: str) -> tuple[np.ndarray, pd.Series]:
    """Ids as the label's rate in the other folds; of the test rows, in all train rows."""
    base, fold = train[label].mean(), np.random.default_rng(0).integers(0, FOLDS, len(train))

    def rates(rows: pd.DataFrame) -> pd.Series:
        of = rows.groupby(column)[label]
        return (of.sum() + PRIOR * base) / (of.count() + PRIOR)

    ours = np.full(len(train), base)
    for k in range(FOLDS):
        ours[fold == k] = train[column][fold == k].map(rates(train[fold != k])).fillna(base)
    return ours, test.map(rates(train)).fillna(base)


if __name__ == "__main__":
    main()
