"""One rank of `make gpu-check`: python -m benchmarks.figures.check_rank CONFIG; then a request a line, as JSON.

A request is {"do": "losses" | "resume" | "speed", "set": [overrides], "steps": N}; the answer {"found": ...}, or why
there is none: {"refused": words} of an option that this device can not do, {"failed": words} of a defect.
"""

import json
import shutil
import sys
import traceback
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.worker import timed
from dist_mtl.build import build, open_dataset
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.batch import Batch
from dist_mtl.errors import ConfigError
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.step_timer import Stopwatch
from dist_mtl.parallel.train_step import train_step

COPY = 1 << 30  # bytes of the copy that the embedding kernels are compared with; a tenth of it on CPU


def main() -> None:
    tree = json.loads(sys.argv[1])
    with runtime(parse(tree).run) as rt:
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(tree, json.loads(line), rt)), flush=True)


def answer(tree: dict[str, Any], request: dict[str, Any], rt: Runtime) -> dict[str, Any]:
    try:
        config = parse(tree, request["set"])
        match request["do"]:
            case "losses":
                return {"found": losses(config, rt, request["steps"])}
            case "resume":
                return {"found": resumed(config, rt, request["steps"])}
            case "speed":
                return {"found": speed(config, rt, request["steps"])}
    except ConfigError as error:
        return {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    raise ValueError(f"{request['do']!r} is no request")


def losses(config: Config, rt: Runtime, steps: int) -> dict[str, Any]:
    """Of every step, from the beginning; and the kernels of the plan."""
    model, objective = build(config, rt, steps), Objective.of(config)
    found = trained(model, objective, config, rt, 0, steps)
    return {"losses": found, "kernels": sorted({row["kernel"] for row in model.plan})}


def trained(
    model: ShardedModel, objective: Objective, config: Config, rt: Runtime, first: int, last: int
) -> list[float]:
    dataset = open_dataset(config.data.train, config, True, rt)
    source = model.ahead.over(dataset.batches(rt.rank, rt.size, first, last), lambda step: step == last)
    return [train_step(model, objective, model.ahead.on_device(batch), rt).loss for batch in source]


def resumed(config: Config, rt: Runtime, steps: int) -> str:
    """A run cut in two by a commit, beside one that was not: how many tensors of the state differ in a bit."""
    folder, half = Path(config.run.dir), steps // 2
    rt.from_first(lambda: shutil.rmtree(folder / store.FOLDER, ignore_errors=True))
    objective = Objective.of(config)
    whole = build(config, rt, steps)
    trained(whole, objective, config, rt, 0, half)
    commit = store.save(whole, Progress(half), {}, "periodic", config, "digest", rt)
    trained(whole, objective, config, rt, half, steps)
    expected = bits(whole)
    del whole
    again = build(config, rt, steps)
    store.load(again, commit, rt)
    trained(again, objective, config, rt, half, steps)
    found = bits(again)
    differ = sum(not torch.equal(found[name], expected[name]) for name in expected)
    return f"{differ} of {len(expected)} tensors differ"


def bits(model: ShardedModel) -> dict[str, torch.Tensor]:
    """A copy of all that this rank holds, as bytes."""
    return {
        f"{name} {number}": part.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).clone()
        for name, one in held(model.state()).items()
        for number, part in enumerate(one.parts)
    }


def speed(config: Config, rt: Runtime, steps: int) -> dict[str, float]:
    """Seconds of a step, and of its parts with each waited for; the rate of a copy; bytes at the peak."""
    on_gpu = rt.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    model, objective = build(config, rt, 1_000_000), Objective.of(config)
    dataset = open_dataset(config.data.train, config, True, rt)
    held_in_memory: list[Batch] = list(dataset.batches(rt.rank, rt.size, 0, 8))
    source = cycle(held_in_memory)

    def run(count: int, watch: Stopwatch | None = None) -> None:
        for _ in range(count):
            train_step(model, objective, next(source), rt, watch)

    run(steps)
    seconds = min(timed(run, steps, rt)[0] for _ in range(3)) / steps
    watch = Stopwatch(rt.device)
    run(steps, watch)
    split = {f"{phase}_seconds": value / steps for phase, value in watch.take().items()}
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return {"seconds": seconds, "copy": copy_rate(rt), "peak": peak, **split}


def copy_rate(rt: Runtime) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    size = COPY if rt.device.type == "cuda" else COPY // 10
    source = torch.zeros(size, dtype=torch.uint8, device=rt.device)
    target = torch.empty_like(source)
    fastest = min(timed(lambda count: [target.copy_(source) for _ in range(count)], 4, rt)[0] for _ in range(3))
    return 2 * size * 4 / fastest


if __name__ == "__main__":
    main()
