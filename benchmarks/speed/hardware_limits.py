"""What the machine itself can do: the rates that bound a training step from below."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.speed.workload import Shape


@dataclass(frozen=True)
class Floor:
    """Measured rates with `threads` threads, and the time of one step at those rates."""

    threads: int
    gemm_flops: float  # FLOP/s of the widest product of the step
    row_seconds: float  # to read and write one embedding row at a random place
    step_seconds: float


def measure_floor(shape: Shape) -> Floor:
    """Time the step's widest matrix product, and random row updates over tables of the benchmark's size."""
    x, w = torch.randn(shape.batch, shape.inputs), torch.randn(shape.inputs, shape.experts * shape.expert[0])
    gemm = 2 * x.numel() * w.shape[1] / _best(lambda: torch.mm(x, w))
    table = torch.zeros(shape.ids * shape.rows, shape.dim)
    lookups = shape.batch * shape.ids
    places = torch.randint(len(table), (8, lookups))
    turn = iter(range(1_000_000))

    def update() -> None:
        rows = places[next(turn) % 8]
        table.index_copy_(0, rows, table.index_select(0, rows))

    seconds = _best(update)
    return Floor(torch.get_num_threads(), gemm, seconds / lookups, shape.flops_per_step / gemm + seconds)


def _best(action: Callable[[], object], times: int = 15) -> float:
    """The shortest of a few runs: the floor is what the machine can do when nothing disturbs it."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    return best
