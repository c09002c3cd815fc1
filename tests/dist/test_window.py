"""The sliding training metrics: the same bits on 1, 2 and 4 ranks, cut in mid-part and resumed elsewhere."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from dist_mtl.config.training import RunConfig
from dist_mtl.metrics.histogram import ROUGH, LogitHistogram
from dist_mtl.metrics.task import compute
from dist_mtl.metrics.window import PARTS, TrainingWindow
from dist_mtl.parallel.runtime import runtime
from tests.support.harness import Cluster

ROWS, STEPS, PER_PART = 64, 47, 6  # seven full parts, more than the window holds, and a begun one


def step_rows(step: int) -> tuple[torch.Tensor, ...]:
    """The global batch of a step."""
    draw = np.random.default_rng(step)
    logits = draw.normal(-2, 1, (ROWS, 3)).astype(np.float32)
    labels = (draw.random((ROWS, 3)) < 0.2).astype(np.float32)
    return tuple(map(torch.from_numpy, (logits, labels, draw.integers(0, 3, (ROWS, 3)).astype(np.float32))))


def walk(first: int, last: int, state: dict | None) -> tuple[list[dict], dict]:
    """Steps first + 1 ... last on this rank's share of the rows. Returns what each status line told, and the state."""
    told = []
    with runtime(RunConfig(dir="nowhere", device="cpu")) as rt:
        window = TrainingWindow(3, rt, weighted=True)
        if state is not None:
            window.load(state)
        for step in range(first + 1, last + 1):
            window.update(*(part.chunk(rt.size)[rt.rank] for part in step_rows(step)))
            if step % PER_PART == 0:
                told += [[asdict(task) for task in window.close_part()]]
        return told, {name: tensor.clone() for name, tensor in window.state().items()}


@pytest.fixture(scope="module")
def alone() -> list[dict]:
    [(told, _)] = Cluster(1).run(walk, 0, STEPS, None)
    return told


@pytest.mark.parametrize("worlds", [(2, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("cut", [0, 20, 33])
def test_any_ranks_and_any_cut_tell_the_same_bits(alone: list[dict], worlds: tuple[int, int], cut: int) -> None:
    before, after = worlds
    first = Cluster(before).run(walk, 0, cut, None)
    assert all(repr(one) == repr(first[0]) for one in first), "ranks tell different things"
    told, state = first[0]
    rest = Cluster(after).run(walk, cut, STEPS, state)
    assert repr(told + rest[0][0]) == repr(alone)  # repr: NaN is equal to NaN


def test_it_is_the_last_parts(alone: list[dict]) -> None:
    last = STEPS // PER_PART * PER_PART
    histogram = LogitHistogram(3, torch.device("cpu"), ROUGH, weighted=True)
    for step in range(last - PARTS * PER_PART + 1, last + 1):
        histogram.update(*step_rows(step))
    assert repr(alone[-1]) == repr([asdict(task) for task in compute(histogram)])
