"""The first model that a newcomer gets: `convert csv --suggest`, then `train`, nothing edited.

    python -m benchmarks.figures.first_run [--logs NAME ...] [--seeds N] [--grid] [--out FOLDER]

Of each log of `tests/support/first_logs.py`: the test AUC of both labels over all impressions, beside that of a recipe
made by hand, fixed beforehand (`HANDS`), on the same features. Means over seeds, with the difference of the
two by seed. Beside them gradient-boosted trees on the same columns and, with --grid, the best of a grid of recipes,
chosen by the *test* rows, which favours it. Prints Markdown. Exit 1: on a log the suggestion is behind the hand-made
recipe by more than 0.005, or the PCOC of its first evaluation is outside 0.8 to 1.25, beyond the noise.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
NOISE = 2  # standard errors
COLUMNS = (
    "log", "train rows", "seeds", "suggested", "by hand", "difference", "error of the test", "trees", "first PCOC",
    "PCOC of the train rate", "positives",
)  # fmt: skip
GRID: dict[str, tuple[str, ...]] = {
    "wide": ("model.backbone={kind='mmoe', experts=4, hidden=[128, 64]}", "model.tower=[32]"),
    "narrow, faster tables": ("model.backbone={kind='mmoe', experts=4, hidden=[32]}", "optim.embedding.lr=0.1"),
    "half the rate": ("optim.dense.lr=5e-4",),
    "cross layers": ("model.interaction={kind='dcn'}",),
    "one tower each": ("model.backbone={kind='single_task', hidden=[64, 32]}", "model.dropout=0.3"),
}
FOLDS, PRIOR, MANY = 5, 20.0, 60  # of target encoding: of ids with more values than MANY, and of texts


@dataclass(frozen=True)
class Hand:
    """[model], [optim] and dim of one of the project's own configurations, for another number of rows.

    Batches make about as many steps an epoch as in that configuration, but have at least 64 rows.
    """

    config: str
    batch: int
    epochs: int
    dim: int = 16  # of every table


HANDS = {
    "shop_5k": Hand("quickstart", 64, 4),
    "shop_50k": Hand("quickstart", 128, 2),
    "shop_500k": Hand("quickstart", 1024, 1),
    "two_labels": Hand("quickstart", 128, 2),
    "ml100k": Hand("movielens", 4096, 8),
    "ml100k_quarter": Hand("movielens", 1024, 8),
    "aliexpress": Hand("aliexpress", 64, 4, dim=128),
    "aliccp": Hand("quickstart", 64, 4),
}


@dataclass(frozen=True)
class Result:
    """Of one run: the test AUC of (first label, second label), how good that is, and its first evaluation's PCOC."""

    auc: np.ndarray
    auc_error: np.ndarray  # one standard error, of the test rows
    pcoc: np.ndarray
    positives: np.ndarray  # of the rows of the first evaluation
    rows: float  # of the first evaluation


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=0, help="in place of those of each log")
    parser.add_argument("--grid", action="store_true", help="also train the grid")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "first_run")
    options = parser.parse_args()
    known = logs(options.out / "csv")
    columns = (*COLUMNS, "best of the grid") if options.grid else COLUMNS
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    broken = []
    for name in options.logs or known:
        log = replace(known[name], seeds=options.seeds or known[name].seeds)
        if not as_promised(name, log, options.out, options.grid):
            broken.append(name)
    sys.exit(f"short of what is promised: {', '.join(broken)}" if broken else 0)


def as_promised(name: str, log: Log, out: Path, grid: bool) -> bool:
    """Print the row of a log. Whether the suggestion keeps the promise, as far as the noise lets one see."""
    mine = out / f"{name}.toml"
    if not mine.exists():
        labels = ("--click", log.labels[0], "--conversion", log.labels[1])
        test = ("--test", str(log.test)) if log.test else ()
        script("convert", "csv", log.path, out / name, *labels, *log.options, *test, "--suggest", mine)
    text = tomllib.loads(mine.read_text())
    config = parse(text)
    suggested = results(text, log, out)
    hand = results(by_hand(text, HANDS[name]), log, out)
    by_seed = np.array([ours.auc - theirs.auc for ours, theirs in zip(suggested, hand, strict=True)])
    behind = by_seed.mean(axis=0)
    noise = by_seed.std(axis=0, ddof=1) / len(by_seed) ** 0.5 if len(by_seed) > 1 else np.zeros(len(behind))
    error = np.mean([result.auc_error for result in suggested], axis=0)
    first, pcoc = suggested[0], np.mean([result.pcoc for result in suggested], axis=0)
    rates = train_rates(config)
    constant = rates * first.rows / np.maximum(first.positives, 1)
    trees = [of_trees(config, label) for label in config.data.labels]
    cells = [
        name, f"{manifest_rows(config):,}", str(log.seeds), shown(mean_auc(suggested)), shown(mean_auc(hand)),
        " / ".join(f"{d:+.4f} ± {n:.4f}" for d, n in zip(behind, noise, strict=True)),
        shown(error), shown(trees), shown(pcoc, 2), shown(constant, 2), shown(first.positives, 0),
    ]  # fmt: skip
    if grid:
        aucs = {other: mean_auc(results(text, log, out, sets)) for other, sets in GRID.items()}
        best = max(aucs, key=lambda other: aucs[other].sum())
        cells.append(f"{shown(aucs[best])} ({best})")
    print(f"| {' | '.join(cells)} |", flush=True)
    spread = NOISE / np.sqrt(np.maximum(first.positives, 1))
    calibrated = (pcoc >= PCOC[0] / (1 + spread)) & (pcoc <= PCOC[1] * (1 + spread))
    return bool((behind >= -BEHIND - NOISE * noise).all() and calibrated.all())


def by_hand(text: dict[str, Any], hand: Hand) -> dict[str, Any]:
    """The suggested rows and features with the settings of a hand-made recipe, whose epochs are fixed."""
    own = tomllib.loads((ROOT / f"configs/{hand.config}.toml").read_text())
    is_funnel = text["data"].get("funnel", True) and len(text["data"]["labels"]) > 1
    model = own["model"] | ({} if is_funnel else {"head": text["model"]["head"]})
    train = {"global_batch": hand.batch, "epochs": hand.epochs}
    data = {key: value for key, value in text["data"].items() if key != "validation"}
    rest = {section: lines for section, lines in text.items() if section != "select"}
    for section in ("tables", "features"):
        wide = {name: keys | ({"dim": hand.dim} if "dim" in keys else {}) for name, keys in text[section].items()}
        rest[section] = wide
    return rest | {"data": data, "model": model, "optim": own["optim"], "train": train}


def mean_auc(several: list[Result]) -> np.ndarray:
    return np.mean([result.auc for result in several], axis=0)


def train_rates(config: Config) -> np.ndarray:
    """The share of the train rows that have the first, and the last label."""
    rates = pd.concat(map(pd.read_parquet, sorted(Path(config.data.train).glob("*.parquet"))))[[*config.data.labels]]
    return rates.mean().to_numpy()[[0, -1]][: len(config.data.labels)]


def manifest_rows(config: Config) -> int:
    return sum(pq.read_metadata(path).num_rows for path in Path(config.data.train).glob("*.parquet"))


def shown(values: Iterable[float], digits: int = 4) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def results(text: dict[str, Any], log: Log, out: Path, sets: tuple[str, ...] = ()) -> list[Result]:
    """Of a run from its start with every seed of the log."""
    return [train(text, out / "runs", seed, sets) for seed in range(1, log.seeds + 1)]


def train(text: dict[str, Any], runs: Path, seed: int, sets: tuple[str, ...]) -> Result:
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as run:
        own = (f"run.dir={run}/run", f"seed={seed}", "run.device=cpu", *sets)
        Cluster(1).run(workers.train, parse(text, own), timeout=3 * 3600)
        events = [json.loads(line) for line in (Path(run) / "run/events.jsonl").open()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    first, last = (of_labels(evaluations[place], len(text["data"]["labels"])) for place in (0, -1))
    return Result(
        np.array([task["auc"]["value"] for task in last], float),
        np.array([task["auc"]["standard_error"] for task in last], float),
        np.array([task["pcoc"] for task in first], float),
        np.array([task["positives"] for task in first], float),
        first[0]["rows"],
    )


def of_labels(evaluation: dict[str, Any], labels: int) -> list[dict[str, Any]]:
    """The tasks whose space is all impressions: the first, and where there are more labels the last."""
    tasks = list(evaluation["tasks"].values())
    return tasks[:1] if labels == 1 else [tasks[0], tasks[-1]]


def script(name: str, *arguments: object) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "dist_mtl", name, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def of_trees(config: Config, label: str) -> float:
    """The test AUC of gradient-boosted trees on the columns of the features, without lists. NaN: too few labels."""
    train, test = (pd.concat(map(pd.read_parquet, sorted(Path(f).glob("*.parquet"))), ignore_index=True)
                   for f in (config.data.train, config.data.test))  # fmt: skip
    if min(train[label].sum(), (1 - train[label]).sum()) < FOLDS or test[label].nunique() < 2:
        return float("nan")
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
