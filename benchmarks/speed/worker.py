"""One rank of one contender: python -m benchmarks.speed.worker NAME ROWS FOLDER, see `serve`."""

import sys
import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage

import torch

from benchmarks.speed.contenders import Steps, contender
from benchmarks.speed.workload import Shape
from dist_mtl.config.training import RunConfig
from dist_mtl.parallel.runtime import Runtime, runtime


def serve(run: RunConfig, setup: Callable[[Runtime], Steps]) -> None:
    """Say when set up; then a number of steps a line in, and a line of seconds, CPU seconds and page faults out."""
    with runtime(run) as rt:
        steps = setup(rt)
        print("ready", flush=True)
        for line in sys.stdin:
            print(*timed(steps, int(line), rt), flush=True)


def timed(steps: Steps, count: int, rt: Runtime) -> tuple[float, float, int]:
    """Seconds that all ranks took for so many steps together; this rank's CPU seconds and page faults in it."""
    rt.barrier()
    before, started = getrusage(RUSAGE_SELF), time.perf_counter()
    steps(count)
    if rt.device.type == "cuda":
        torch.cuda.synchronize()
    after = getrusage(RUSAGE_SELF)
    rt.barrier()
    seconds = time.perf_counter() - started
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu_seconds, after.ru_minflt - before.ru_minflt


def main() -> None:
    name, rows, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    shape = Shape(rows=rows)
    serve(shape.config(folder).run, lambda rt: contender(name, shape, folder, rt))


if __name__ == "__main__":
    main()
