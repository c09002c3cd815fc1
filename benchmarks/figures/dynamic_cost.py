"""What dynamic tables add to a training step: 26 of them, ids by popularity of which new ones come all the time.

Each step's batch is first given its rows, then trained, so the two times of a row stand side by side in one process,
and their ratio does not depend on the machine's mood. The map has learnt `--warm` steps before.

python benchmarks/figures/dynamic_cost.py [--ranks N] [--warm N]    prints Markdown
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.support.harness, whose ranks are forked

from benchmarks.speed.workload import Shape  # noqa: E402
from dist_mtl.build import build  # noqa: E402
from dist_mtl.config import Config  # noqa: E402
from dist_mtl.config.file import parse  # noqa: E402
from dist_mtl.data.batch import Batch  # noqa: E402
from dist_mtl.data.hashing import hash_keys, key, random_bits  # noqa: E402
from dist_mtl.data.synthetic import draws  # noqa: E402
from dist_mtl.model.loss import Objective  # noqa: E402
from dist_mtl.parallel.runtime import runtime  # noqa: E402
from dist_mtl.parallel.train_step import train_step  # noqa: E402
from tests.support.harness import Cluster  # noqa: E402

STEPS_PER_DAY, NEW = 250, 0.05  # a day of a million rows in steps of 4,096
LIVING = 1_000_000  # ids of each feature on any one day
TIMED, UNTIMED = 30, 3


def config(rows: int, ranks: int) -> Config:
    """The benchmark's shape with dynamic tables of `rows` rows, on batches made in memory."""
    tree = replace(Shape(), rows=rows).config("unused").model_dump(mode="json", exclude_unset=True)
    for name in tree["tables"]:
        tree["tables"][name]["dynamic"] = {}
        tree["features"][name]["policy"] = "dynamic"
    tree["run"] |= {"device": "cpu", "threads": 2 // ranks}
    return parse(tree)


def batch_of(step: int, rank: int, rows: int, shape: Shape) -> Batch:
    """`rows` impressions of a step: Zipf-Mandelbrot ids, a twentieth of them replaced every day."""
    keys = []
    for feature in range(shape.ids):
        rank_of = draws.popular(draws.uniform(random_bits(rows, step, rank, feature)), LIVING)
        phase = draws.uniform(draws.words_of(rank_of, feature, "phase"))
        ids = rank_of + LIVING * (step / STEPS_PER_DAY * NEW + phase).astype(np.int64)
        keys.append(hash_keys(ids, key("table", f"c{feature}")))
    names = [f"c{i}" for i in range(shape.ids)]
    lengths = torch.ones(shape.ids * rows, dtype=torch.int32)
    ids = KeyedJaggedTensor(names, torch.from_numpy(np.concatenate(keys)), lengths=lengths, stride=rows)
    dense = torch.from_numpy(draws.normal(random_bits(rows * shape.dense, step, rank, "dense")).astype(np.float32))
    labels = torch.from_numpy(draws.uniform(random_bits(rows * 2, step, rank, "labels")) < 0.1).float().view(-1, 2)
    labels[:, 1] *= labels[:, 0]
    slots = torch.arange(rank * rows, (rank + 1) * rows)
    return Batch(step, slots, ids, dense.view(rows, -1), labels, torch.ones(rows), dropped=0, clamped=0)


def measure(rows: int, ranks: int, warm: int) -> tuple[list[float], list[float], dict[str, int]]:
    """Seconds of each timed step for the ids and for the training, and the map's counts over all tables."""
    settings, shape = config(rows, ranks), Shape()
    with runtime(settings.run) as rt:
        model, objective = build(settings, rt, 1), Objective.of(settings)
        per_rank = shape.batch // rt.size
        for step in range(1, warm + 1):
            model.ids.learn(batch_of(step, rt.rank, per_rank, shape).ids, step)
        ids, training = [], []
        before = _total(model.ids.status())
        for step in range(warm + 1, warm + UNTIMED + TIMED + 1):
            batch = batch_of(step, rt.rank, per_rank, shape)
            rt.barrier()
            started = time.perf_counter()
            batch = model.learn_ids(batch)
            between = time.perf_counter()
            train_step(model, objective, batch, rt)
            ids.append(between - started)
            training.append(time.perf_counter() - between)
        after = _total(model.ids.status())
    return ids[UNTIMED:], training[UNTIMED:], {n: after[n] - before[n] * (n != "occupied") for n in after}


def _total(status: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: sum(of[name] for of in status.values()) for name in next(iter(status.values()))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 100_000])
    parser.add_argument("--warm", type=int, default=250)
    args = parser.parse_args()
    print("| ranks | rows | taken | without a row | admitted / step | evicted / step | ids, ms | step, ms | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    for ranks in args.ranks:
        for rows in args.rows:
            ids, training, of = Cluster(ranks).run(measure, rows, ranks, args.warm, timeout=3000)[0]
            steps, shares = TIMED + UNTIMED, [i / t for i, t in zip(ids, training, strict=True)]
            cells = (
                f"{ranks}", f"{rows:,}", f"{of['occupied'] / (Shape().ids * rows):.0%}",
                f"{of['fallback'] / of['lookups']:.0%}", f"{of['admitted'] / steps:,.0f}",
                f"{of['evicted'] / steps:,.0f}", f"{1e3 * statistics.median(ids):.0f}",
                f"{1e3 * statistics.median(training):.0f}", f"{statistics.median(shares):.1%}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
