"""What the guards of a step cost: the benchmark's model, the same weights stepped with guards and without, in turn.

    python -m benchmarks.figures.guard_cost --ranks 2 --rounds 40

Guards: the backward pass in two halves, the norms of all gradients, their flags in the all-reduce of the losses before
the update, the watchdog. Without them the losses are still all-reduced, behind the update. One thread a rank.
"""

import argparse
import statistics
import time
from itertools import cycle

import torch

from benchmarks.speed.report import logs_of
from benchmarks.speed.workload import Shape
from dist_mtl.build import build, open_dataset
from dist_mtl.data.batch import Batch
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.collectives import Collectives
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import train_step
from tests.support.harness import Cluster

STEPS = 4  # in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--logs", type=int, default=1_048_576)
    parser.add_argument("--folder", default="data/bench")
    options = parser.parse_args()
    shape, folder = logs_of(options)
    found = Cluster(options.ranks).run(measure, shape, folder, options.rounds, timeout=1200)
    # A round lasts as long as it does for the slowest rank.
    guarded, bare = ([max(one) for one in zip(*times, strict=True)] for times in zip(*found, strict=True))
    ratios = [a / b for a, b in zip(guarded, bare, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{options.ranks} rank(s), {options.rounds} rounds of {STEPS} steps each way: "
        f"{1e3 * statistics.median(guarded) / STEPS:.1f} ms with guards, {1e3 * statistics.median(bare) / STEPS:.1f} "
        f"without; {100 * (middle - 1):+.1f} % (quartiles {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)"
    )


def measure(shape: Shape, folder: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, with guards and without."""
    torch.set_num_threads(1)
    config = shape.config(folder)
    with runtime(config.run) as rt:
        dataset = open_dataset(f"{folder}/train", config, True, rt)
        model, objective = build(config, rt, 1_000_000), Objective.of(config)
        held = cycle(list(dataset.batches(rt.rank, rt.size, 0, 16)))
        times: dict = {train_step: [], bare_step: []}
        for number in range(rounds + 1):
            # Each goes first in every other round: what a step leaves in the caches is for both alike.
            for step in (train_step, bare_step) if number % 2 else (bare_step, train_step):
                rt.barrier()
                started = time.perf_counter()
                for _ in range(STEPS):
                    step(model, objective, next(held), rt)
                rt.barrier()
                times[step].append(time.perf_counter() - started)
        return times[train_step][1:], times[bare_step][1:]


def bare_step(model: ShardedModel, objective: Objective, batch: Batch, rt: Runtime) -> None:
    """As `train_step` was before it had guards."""
    batch = batch.to(rt.device)
    totals_M = rt.all_reduce(objective.totals(batch)).float()
    model.begin(batch.step)
    outputs = model.module(batch)
    terms_L, loss = objective.shares(outputs, batch, totals_M, Collectives.of(rt))
    (loss * rt.size).backward()
    model.optimizer.step()
    rt.all_reduce(torch.cat([terms_L.detach(), loss.detach()[None]]).double()).tolist()


if __name__ == "__main__":
    main()
