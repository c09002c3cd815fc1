"""Ranks in trouble: values that are no numbers at given steps, readers that never return, errors of one rank alone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dist_mtl.checkpoint.state_shards import held
from dist_mtl.cli import arguments as cli
from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.model.loss import Objective
from dist_mtl.parallel import feed
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import Flaw, Outcome, Share, train_step
from dist_mtl.parallel.world import World
from tests.support.workers import row_numbers

loop = import_module("dist_mtl.train")  # the package's own `train` is a function
NAN, INF = float("nan"), float("inf")
Plan = dict[int, tuple[str, int]]  # step -> (site, rank)


def run_cli(config: Config) -> None:
    """As launch/train.py does: ends the process with its exit code."""
    cli.run(lambda: loop.train(config))


def trained(config: Config, plan: Plan, reference: bool = False) -> dict[int, list[int]]:
    """Train with the faults of `plan`; the numbers of this rank's rows at those steps. As a `reference` do not train
    these steps at all."""
    rows: dict[int, list[int]] = {}

    def step(model: ShardedModel, objective: Objective, batch: Batch, *rest: Any, **options: Any) -> Outcome:
        if batch.step not in plan:
            return train_step(model, objective, batch, *rest, **options)
        rows[batch.step] = row_numbers(config, batch).tolist()
        if reference:
            terms = torch.full((len(objective.names),), NAN, dtype=torch.float64)
            return Outcome(batch.step, terms, NAN, 0.0, _no_outputs(batch), None, Flaw({}, (Share({}, NAN),) * 2))
        site, rank = plan[batch.step]
        if World.from_env().rank != rank:
            return train_step(model, objective, batch, *rest, **options)
        with poison(site, model, batch) as (batch, objective_of):
            return train_step(model, objective_of(objective), batch, *rest, **options)

    loop.train_step = step
    loop.train(config)
    return rows


class _no_outputs:
    """What a step that did not take place has of logits."""

    def __init__(self, batch: Batch) -> None:
        self.logits_BT = torch.full_like(batch.labels_BT, NAN)


class _Changed:
    """An objective that sees changed outputs."""

    def __init__(self, objective: Objective, change: Callable[[Any], Any]) -> None:
        self._objective, self._change = objective, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def shares(self, outputs: Any, *rest: Any) -> Any:
        return self._objective.shares(self._change(outputs), *rest)


@contextmanager
def poison(site: str, model: ShardedModel, batch: Batch) -> Iterator[tuple[Batch, Callable[[Objective], Any]]]:
    """One value of this rank's step that is no number: the batch to train, and what becomes of the objective."""

    def as_it_is(objective: Objective) -> Objective:
        return objective

    match site:
        case "label":
            labels = batch.labels_BT.clone()
            labels[0, 0] = NAN
            yield replace(batch, labels_BT=labels), as_it_is
        case "dense":
            dense = batch.dense_BD.clone()
            dense[-1, -1] = INF
            yield replace(batch, dense_BD=dense), as_it_is
        case "weight":
            value = next(iter(held(model.state()).values())).parts[0].tensor  # of the dense part: all ranks have it
            kept = value.clone()
            value.view(-1)[0] = NAN
            yield batch, as_it_is
            value.copy_(kept)
        case "logits":
            yield batch, lambda o: _Changed(o, lambda outputs: replace(outputs, logits_BT=outputs.logits_BT * NAN))
        case "gradient":

            def hooked(outputs: Any) -> Any:
                outputs.logits_BT.register_hook(lambda gradient: gradient * INF)
                return outputs

            yield batch, lambda o: _Changed(o, hooked)
        case "dense gradient":
            handle = model.cut.dense[0].register_hook(lambda gradient: gradient + 1e30)  # whose square is infinite
            yield batch, as_it_is
            handle.remove()


def sleeping_reader(config: Config, rank: int, from_window: int) -> None:
    """`run_cli`, where the reader of one rank never returns from its `from_window`-th window."""
    _in_window(rank, from_window, lambda: time.sleep(10_000))
    run_cli(config)


def slow_reader(config: Config, seconds: float) -> None:
    """`run_cli`, where every rank's second window takes `seconds`; tells in RUN/waiting-RANK when it begins."""

    def wait() -> None:
        Path(config.run.dir, f"waiting-{World.from_env().rank}").touch()
        time.sleep(seconds)

    for rank in range(World.from_env().size):
        _in_window(rank, 2, wait)
    run_cli(config)


def _in_window(rank: int, number: int, action: Callable[[], None]) -> None:
    if World.from_env().rank != rank:
        return
    original, seen = Dataset._window, []

    def window(self: Dataset, *arguments: Any) -> Any:
        seen.append(None)
        if len(seen) == number:
            action()
        return original(self, *arguments)

    Dataset._window = window


def sleeping_step(config: Config, rank: int, step: int) -> None:
    """`run_cli`, where one rank falls asleep between the collectives of a step."""
    in_step(config, rank, step, lambda: time.sleep(10_000))


def failing_step(config: Config, rank: int, step: int) -> None:
    """`run_cli`, where one rank meets a defect between the collectives of a step."""

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    in_step(config, rank, step, fail)


def slow_step(config: Config, step: int, seconds: float) -> None:
    """`run_cli`, where a step takes `seconds` on rank 0; tells in RUN/in-step when it is there."""

    def wait() -> None:
        Path(config.run.dir, "in-step").touch()
        time.sleep(seconds)

    in_step(config, 0, step, wait)


def in_step(config: Config, rank: int, step: int, action: Callable[[], None]) -> None:
    """`run_cli`, with something that one rank does between the collectives of a step."""
    original = Objective.shares

    def shares(self: Objective, outputs: Any, batch: Batch, *rest: Any) -> Any:
        if batch.step == step and World.from_env().rank == rank:
            action()
        return original(self, outputs, batch, *rest)

    Objective.shares = shares
    run_cli(config)


def slow_steps(config: Config, seconds: float) -> None:
    """`run_cli`, with a pause in each batch that is read, of an evaluation as well: time for a signal to fall into."""
    original = feed._waited_for

    def waited_for(*arguments: Any) -> Batch:
        time.sleep(seconds)
        return original(*arguments)

    feed._waited_for = waited_for
    run_cli(config)


def slow_start(config: Config, seconds: float) -> None:
    """`run_cli`, with a pause while the model is built."""
    original = loop.build

    def build(*arguments: Any) -> ShardedModel:
        Path(config.run.dir, f"building-{World.from_env().rank}").touch()
        time.sleep(seconds)
        return original(*arguments)

    loop.build = build
    run_cli(config)


def threads() -> list[str]:
    """The names of the threads that are alive."""
    return sorted(thread.name for thread in threading.enumerate())


def little_room(config: Config, free: int) -> None:
    """`run_cli` on a file system that claims to have `free` bytes left."""
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    shutil.disk_usage = lambda path: usage(free, 0, free)
    run_cli(config)
