"""One rank of one contender: python -m dist_mtl.bench.worker NAME ROWS FOLDER; steps a line in, seconds a line out."""

import sys
import time

import torch.distributed as dist

from dist_mtl.bench.contenders import contender
from dist_mtl.bench.shape import Shape
from dist_mtl.parallel.runtime import runtime


def main() -> None:
    name, rows, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    shape = Shape(rows=rows)
    with runtime(shape.config(folder).run) as rt:
        steps = contender(name, shape, folder, rt)
        print("ready", flush=True)
        for line in sys.stdin:
            dist.barrier()
            started = time.perf_counter()
            steps(int(line))
            dist.barrier()
            print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
