"""One rank of one point: python -m benchmarks.scaling.rank CONFIG, the configuration as JSON; then a question a line.

train N     N steps: seconds of all ranks, this rank's CPU seconds, page faults
split N     N steps: seconds of each phase, on this rank
look N      N steps under the profiler: seconds in collectives, and the share of each kind of operation
facts       what this rank holds
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.worker import timed
from dist_mtl.build import build, check_world, open_dataset
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.loader import Dataset
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.step_timer import Stopwatch
from dist_mtl.parallel.train_step import train_step


class Rank:
    """A model at work, and what can be asked of it. Every question is collective."""

    def __init__(self, config: Config, rt: Runtime) -> None:
        self._config, self._rt = config, rt
        self._data: Dataset = open_dataset(config.data.train, config, True, rt)
        self._model, self._objective = build(config, rt, steps=1_000_000), Objective.of(config)
        self._model.materialise_states()
        self._step = 0  # the last one trained: each question goes on from there, so that all rows come to be looked up

    def answer(self, line: str) -> str:
        """The answer to one question, as a line."""
        question, _, count = line.partition(" ")
        match question:
            case "train":
                return " ".join(map(str, timed(self._steps, int(count), self._rt)))
            case "split":
                return json.dumps(self._split(int(count)))
            case "look":
                return json.dumps(self._look(int(count)))
            case "facts":
                return json.dumps(self._facts())
        raise ValueError(f"{line!r} is no question")

    def _steps(self, count: int, watch: Stopwatch | None = None) -> None:
        """Train; the data are opened anew, so that nothing was read ahead while other points had the machine."""
        watch, first, last = watch or Stopwatch(), self._step, self._step + count
        model = self._model
        # The generator closes the reader at its end.
        for batch in model.ahead.over(batches(self._data, self._rt, first, last), lambda step: step == last):
            watch.lap("data")
            batch = model.ahead.on_device(model.learn_ids(batch))
            watch.lap("ids")
            train_step(model, self._objective, batch, self._rt, watch)
        self._step = last

    def _split(self, count: int) -> dict[str, float]:
        watch = Stopwatch(self._rt.device)
        self._steps(count, watch)
        return {phase: seconds / count for phase, seconds in watch.take().items()}

    def _look(self, count: int) -> dict[str, float]:
        """Seconds a step in collectives, by their names; they overlap with what the step does meanwhile.

        Of gloo from a call to its end; of NCCL what its kernels take on the device (written, never run).
        """
        on_gpu = self._rt.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
            self._steps(count)
        if on_gpu:
            found = {e.key: e.self_device_time_total for e in seen.key_averages() if e.key.startswith("ncclDevKernel")}
        else:
            found = {e.key: e.cpu_time_total for e in seen.key_averages() if e.key.startswith("gloo:")}
        return {name: microseconds / 1e6 / count for name, microseconds in found.items()}

    def _facts(self) -> dict[str, Any]:
        """Bytes of this rank's tensors: tables with their states, and the rest."""
        tables = rest = 0
        for one in held(self._model.state()).values():
            size = sum(part.tensor.numel() * part.tensor.element_size() for part in one.parts)
            if "embedding_bags" in one.name:
                tables += size
            else:
                rest += size
        device = self._rt.device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        return {"device": device.type, "table_bytes": tables, "dense_bytes": rest, "device_peak": peak}


def serve(config: Config, ask: Callable[[], Iterator[str]] = lambda: iter(sys.stdin)) -> None:
    """Say when ready, then answer until there is no further question."""
    check_world(config)
    with runtime(config.run) as rt:
        rank = Rank(config, rt)
        print("ready", flush=True)
        for line in ask():
            print(rank.answer(line.strip()), flush=True)


if __name__ == "__main__":
    serve(parse(json.loads(sys.argv[1])))
