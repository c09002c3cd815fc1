"""torch-rechub's own MTLTrainer on the same shape, in its own environment: run by path, imports nothing of ours.

`PYTHON rechub.py ROWS IDS DENSE DIM BATCH`, then a number of steps a line on stdin, and a line of seconds, CPU seconds
and page faults on stdout.
"""

import contextlib
import io
import sys
import time
from resource import RUSAGE_SELF, getrusage

import numpy as np


def main() -> None:
    rows, ids, dense, dim, batch = map(int, sys.argv[1:6])
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    sparse = [SparseFeature(f"c{i}", vocab_size=rows, embed_dim=dim) for i in range(ids)]
    numbers = [DenseFeature(f"d{i}") for i in range(dense)]
    model = MMOE(
        sparse + numbers,
        ["classification"] * 2,
        n_expert=4,
        expert_params={"dims": [256, 128]},
        tower_params_list=[{"dims": [64]}] * 2,
    )
    trainer = MTLTrainer(model, ["classification"] * 2, optimizer_params={"lr": 1e-3})
    draw = np.random.default_rng(7)

    def loader(count: int):
        size = count * batch
        x = {f"c{i}": draw.integers(0, rows, size) for i in range(ids)}
        x |= {f"d{i}": draw.random(size, dtype=np.float32) for i in range(dense)}
        click = draw.random(size) < 0.05
        y = np.stack([click, click & (draw.random(size) < 0.1)], axis=1).astype(np.float32)
        few = {name: column[:2] for name, column in x.items()}
        return DataGenerator(x, y).generate_dataloader(few, y[:2], few, y[:2], batch_size=batch)[0]

    print("ready", flush=True)
    for line in sys.stdin:
        data = loader(int(line))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            before, started = getrusage(RUSAGE_SELF), time.perf_counter()
            trainer.train_one_epoch(data)
            seconds, after = time.perf_counter() - started, getrusage(RUSAGE_SELF)
        cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(seconds, cpu_seconds, after.ru_minflt - before.ru_minflt, flush=True)


if __name__ == "__main__":
    main()
