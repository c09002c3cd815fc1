"""The beginning at base rates, by real ranks: the same bits for any number, counted once, kept by checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config import Config
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.workers import commit_state, train

BIASES = ("towers.0.logit.bias", "towers.1.logit.bias")
STILL = ("optim.dense.lr=1e-30", "optim.embedding.lr=1e-30")  # steps that change nothing


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (f"run.dir='{folder / run}'", "train.max_steps=1", "data.weight=importance")
    return samples.config(folder, *fixed, *STILL, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 1_000)
    return folder


def begun(folder: Path, run: str, step: int = 1) -> np.ndarray:
    state = commit_state(folder / run / "checkpoints" / f"step-{step:010d}")
    [first], [second] = (state[next(name for name in state if name.endswith(bias))] for bias in BIASES)
    return np.array([first, second])


def test_every_world_begins_at_the_same_bits_and_a_resumed_run_counts_nothing(folder: Path) -> None:
    for world in (1, 2, 4):
        Cluster(world).run(train, settings(folder, f"of{world}"))
    rows = samples.rows_of(folder / "train")
    click, conversion, weight = (rows.column(name).to_numpy() for name in ("click", "conversion", "importance"))
    wanted = np.array([np.average(click, weights=weight), np.average(conversion, weights=weight * click)])
    np.testing.assert_allclose(begun(folder, "of1"), np.log(wanted / (1 - wanted)), rtol=1e-6)
    for world in (2, 4):
        assert (begun(folder, f"of{world}") == begun(folder, "of1")).all()
    [told] = events(folder / "of4", "base_rates")
    np.testing.assert_allclose([told["rates"][name] for name in ("click", "conversion")], wanted, rtol=1e-12)

    Cluster(2).run(train, settings(folder, "of2", "train.max_steps=2"))
    assert len(events(folder / "of2", "base_rates")) == 1
    assert (begun(folder, "of2", step=2) == begun(folder, "of1")).all()


def test_a_random_beginning_is_still_to_be_had(folder: Path) -> None:
    Cluster(1).run(train, settings(folder, "random", "model.initial_bias=random"))
    assert events(folder / "random", "base_rates") == []
    assert (np.abs(begun(folder, "random")) < 1).all()
