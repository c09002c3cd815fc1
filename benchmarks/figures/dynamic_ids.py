"""A stream with 5 % new ids a day: dynamic tables, and hashed ones, of a quarter of the rows, against ones that are
large enough. Trained in one pass in the order of time; each of the last days is scored before it is trained.

python benchmarks/figures/dynamic_ids.py [--seeds N] [--days N] [--half-lives N ...]
prints Markdown; exit 1: a promise is broken
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dist_mtl.build import build, open_dataset, open_to_score
from dist_mtl.config import Config
from dist_mtl.config.file import load
from dist_mtl.data.loader import Dataset
from dist_mtl.data.synthetic.logs import write_logs
from dist_mtl.metrics.paired import Paired, paired_delong
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import train_step
from dist_mtl.scoring.score import AS_IT_IS, score

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "dynamic_ids.toml"
TASKS = ("ctr", "ctcvr")
MOST = 0.002  # of AUC that a dynamic table may lose against one that is large enough
COLUMNS = {"user": "user_id", "item": "item_id"}  # table -> feature and column
LARGE, HASHED = "large enough", "hashed"
DYNAMIC = {  # name -> rules
    "dynamic, lfu": "evict='lfu'",
    "dynamic, lru": "evict='lru'",
    "dynamic, lfu, admit 1": "evict='lfu', admit=1",
    "dynamic, lfu, 1 % shared": "evict='lfu', fallback=0.01",
    "dynamic, lfu, admit 1, 1 % shared": "evict='lfu', admit=1, fallback=0.01",
}
QUARTER, LIVING, FEW = 0.25, 0.18, 0.12  # shares of the rows: promised; as many as ids live at a time; two thirds
Variant = tuple[str, float]
VARIANTS: list[Variant] = [
    (LARGE, 1.0),
    *((name, QUARTER) for name in (*DYNAMIC, HASHED)),
    *((name, LIVING) for name in DYNAMIC),
]


@dataclass(frozen=True)
class Scores:
    """What a variant said of every row of the days that were scored, and where its ids were."""

    logits: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    told: str


def overrides(variant: str, part: float, ids: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """The configuration of a variant. `ids`: by table, how many the stream has and the largest."""
    rows = {table: round(distinct * part) for table, (distinct, _) in ids.items()}
    if variant == LARGE:
        tables = {table: f"{{rows={largest + 1}}}" for table, (_, largest) in ids.items()}
        policy = "reject"  # each id is a row of its own
    elif variant == HASHED:
        tables, policy = {table: f"{{rows={count}}}" for table, count in rows.items()}, "hash"
    else:
        rules = f"dynamic={{{DYNAMIC.get(variant, variant)}}}"
        tables, policy = {table: f"{{rows={count}, {rules}}}" for table, count in rows.items()}, "dynamic"
    features = (f"features.{name}.policy='{policy}'" for name in COLUMNS.values())
    return (*(f"tables.{table}={value}" for table, value in tables.items()), *features)


def train(config: Config, days: list[Path], rt: Runtime) -> Scores:
    """One pass over the stream; before the last days are trained, each is scored."""
    stream = open_dataset(config.data.train, config, config.data.shuffle, rt)
    steps, steps_per_day = stream.order.steps_per_epoch, config.data.sample.rows_per_day // config.train.global_batch
    model, objective = build(config, rt, steps), Objective.of(config)
    first = steps - len(days) * steps_per_day
    _assert_a_window_is_a_day(stream, config.data.sample.rows_per_day)
    found = []
    for batch in batches(stream, rt, 0, steps):
        day, step_of_day = divmod(batch.step - 1 - first, steps_per_day)
        if day >= 0 and not step_of_day:
            found.append(list(_scored(model, config, days[day], rt)))
        train_step(model, objective, model.learn_ids(batch), rt)
    logits, labels = (np.concatenate([one[i] for day in found for one in day]) for i in (0, 1))
    by_task = {task: config.tasks.index(task) for task in TASKS}
    told = "" if model.ids is None else "; ".join(_told(table, of) for table, of in model.ids.status().items())
    return Scores({t: logits[:, m] for t, m in by_task.items()}, {t: labels[:, m] for t, m in by_task.items()}, told)


def _assert_a_window_is_a_day(stream: Dataset, rows_per_day: int) -> None:
    """Else rows of a day would be trained before it is scored: only whole windows follow each other in time."""
    starts = np.cumsum([0, *stream.order.block_rows])
    for window in range(stream.order.num_windows):
        spans = stream.order.segment(0, window, 0, 1).spans
        rows = np.concatenate([starts[span.block] + np.arange(span.start, span.stop) for span in spans])
        assert np.array_equal(np.sort(rows), window * rows_per_day + np.arange(rows_per_day))


def _scored(model: ShardedModel, config: Config, day: Path, rt: Runtime) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for scored in score(model, open_to_score(str(day), config, rt), config, rt, AS_IT_IS):
        rows = scored.carried.num_rows
        yield scored.readings.logits_BM[:rows].numpy(), scored.readings.labels_BM[:rows].numpy()


def _told(table: str, of: dict[str, int]) -> str:
    return (
        f"{table} {of['occupied'] / of['rows']:.0%} taken, {of['evicted']:,} evicted, "
        f"{of['fallback'] / of['lookups']:.1%} without a row"
    )


def stream(config: Config, folder: Path, days: int) -> tuple[dict[str, tuple[int, int]], list[Path]]:
    """Make the logs of a seed where they are not yet: the stream, and its last days once more, each by itself."""
    spec = config.data.sample
    first = spec.train_rows // spec.rows_per_day - days
    places = [folder / f"day-{first + number}" for number in range(days)]
    if not (folder / "train").exists():
        write_logs(spec, folder / "train", spec.train_rows, "train")
    for day, place in enumerate(places, first):
        if not place.exists():
            write_logs(spec, place, spec.rows_per_day, "train", first_row=day * spec.rows_per_day)
    ids = {}
    for table, column in COLUMNS.items():
        files = sorted((folder / "train").glob("*.parquet"))
        values = np.concatenate([pq.read_table(f, columns=[column]).column(column).to_numpy() for f in files])
        ids[table] = (len(np.unique(values)), int(values.max()))
    return ids, places


def run(seed: int, days: int, folder: Path, variants: list[Variant]) -> dict[Variant, Scores]:
    """All variants for a seed, of the data as of the model."""
    found = {}
    base = (f"seed={seed}", f"data.sample.seed={seed}", f"data.train='{folder / str(seed) / 'train'}'")
    base += ("run.threads=1", f"run.dir='{folder / str(seed) / 'run'}'", "run.device='cpu'")
    ids, places = stream(load(CONFIG, base), folder / str(seed), days)
    print(f"seed {seed}: " + ", ".join(f"{n:,} {table}s" for table, (n, _) in ids.items()), file=sys.stderr)
    for variant, part in variants:
        config, started = load(CONFIG, (*base, *overrides(variant, part, ids))), time.monotonic()
        with runtime(config.run) as rt:
            found[variant, part] = train(config, places, rt)
        gaps = ", ".join(f"{t} {compare(found, (variant, part), t).difference:+.4f}" for t in TASKS)
        told = f"{time.monotonic() - started:.0f} s; AUC {gaps}; {found[variant, part].told}"
        print(f"seed {seed}: {variant}, {part:g}: {told}", file=sys.stderr, flush=True)
    return found


def compare(found: dict[Variant, Scores], key: Variant, task: str) -> Paired:
    """A variant against the large tables of the same seed, on the same rows."""
    large, other = found[LARGE, 1.0], found[key]
    return paired_delong(large.logits[task], other.logits[task], other.labels[task] > 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--days", type=int, default=20, help="the last days of the stream, which are scored")
    parser.add_argument("--half-lives", type=int, nargs="+", help="compare these for lfu instead, in tables too small")
    parser.add_argument("--at-once", type=int, default=2, help="seeds that are trained at the same time")
    parser.add_argument("--folder", type=Path, default=Path("data/dynamic_figures"))
    args = parser.parse_args()
    variants = VARIANTS
    if args.half_lives:
        variants = [(LARGE, 1.0), *((f"half_life={n}", part) for part in (LIVING, FEW) for n in args.half_lives)]
    seeds, of_seed = range(1, args.seeds + 1), partial(run, days=args.days, folder=args.folder, variants=variants)
    with ProcessPoolExecutor(args.at_once, get_context("spawn")) as pool:
        found = dict(zip(seeds, pool.map(of_seed, seeds), strict=True))
    rows = sum(len(one[LARGE, 1.0].labels["ctr"]) for one in found.values())
    print(f"{rows:,} rows of {args.days} days x {args.seeds} seeds, each day scored before it is trained\n")
    print("| tables | rows | CTR AUC | difference | CTCVR AUC | difference |\n|---|---|---|---|---|---|")
    broken = []
    for name, part in variants:
        cells = [name, f"{part:g}"]
        for task in TASKS:
            pairs = [compare(one, (name, part), task) for one in found.values()]
            gap = statistics.mean(pair.difference for pair in pairs)
            error = math.sqrt(sum(pair.standard_error**2 for pair in pairs)) / len(pairs)
            worst = min(pair.difference for pair in pairs)
            cells.append(f"{statistics.mean(pair.b for pair in pairs):.4f}")
            cells.append("" if name == LARGE else f"{gap:+.4f} ± {1.96 * error:.4f} (worst seed {worst:+.4f})")
            if name in DYNAMIC and part == QUARTER and gap < -MOST:
                broken.append(f"{name}, {part:g} of the rows: {task.upper()} AUC {gap:+.4f}, the promise is {-MOST}")
        print(f"| {' | '.join(cells)} |")
    print("\n".join(["", *broken]))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
