"""What the ranks of tests/dist/test_options.py run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters

from dist_mtl.build import build, build_for_scoring
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.config.plan_file import read_plan, write_plan
from dist_mtl.parallel.kernels import Kernels
from dist_mtl.parallel.plan import Fabric
from dist_mtl.parallel.plan_io import file_of_plan
from dist_mtl.parallel.runtime import runtime
from dist_mtl.parallel.train_pipeline import LookAhead
from dist_mtl.scoring.evaluate import Evaluation, TestSet, evaluate, open_test
from dist_mtl.training.session import Session
from tests.support import samples
from tests.support.workers import commit_state, train

STEPS = 20


def written_plan(config: Config, path: str) -> tuple[list[dict[str, Any]], str]:
    """Plan as `config` says and write the plan to a file; the plan as it is told, and as it is read back."""
    with runtime(config.run) as rt:
        model = build(config, rt, steps=1)
        fabric = Fabric(rt.size, rt.world.local_size, rt.device.type, 32)
        file = file_of_plan(model.module.plan, config.all_tables, fabric)
        if rt.rank == 0:
            write_plan(file, path)
            assert read_plan(path) == file
        return model.plan, file.model_dump_json()


def inside(config: Config) -> tuple[int, set[torch.dtype], list[str]]:
    """Lookup kernels that were found, the types of their weights, and the names of the state dict."""
    with runtime(config.run) as rt:
        model = build(config, rt, steps=1)
        kernels = Kernels(model.module, config.seed, rt.rank).all
        types = {weights.dtype for kernel in kernels for weights in kernel.split_embedding_weights()}
        return len(kernels), types, sorted(model.module.state_dict())


def evaluated_by(config: Config, commit: str) -> Evaluation:
    """`data.test` by the weights of a commit, as if `config` had made it."""
    with runtime(config.run) as rt:
        model = build_for_scoring(config, rt)
        store.load(model, Path(commit), rt, weights_only=True)
        return evaluate(model, open_test(config.data.test, config, rt), config, rt)


def train_graphs(config: Config) -> int:
    """Train by the product's loop; how many graphs torch has compiled."""
    train(config)
    return counters["stats"]["unique_graphs"]


def train_counted(config: Config) -> int:
    """Train by the product's loop; how many batches were on their way before their step began.

    Raises AssertionError if one of them was looked up twice, or an evaluation began while one was on its way.
    """
    found, looked = [], []
    taken, look_up, evaluated = LookAhead._take, LookAhead._look_up, Session._evaluate

    def take(self: LookAhead, ids: Any) -> Any:
        pooled = taken(self, ids)
        found.append(pooled is not None)
        return pooled

    def look(self: LookAhead, one: Any) -> None:
        looked.append(one)
        look_up(self, one)

    def alone(self: Session, test: TestSet) -> Evaluation:
        assert not self.model.ahead._coming, "an evaluation while a batch is on its way"
        return evaluated(self, test)

    LookAhead._take, LookAhead._look_up, Session._evaluate = take, look, alone
    train(config)
    assert len(looked) == sum(found), "a batch was looked up twice"
    return sum(found)


def settings(folder: Path, run: str, *overrides: str, sharding: str = "table_wise") -> Config:
    """Every step is told; dropout and a decay are on, so that they, too, must be those of the step."""
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "model.dropout=0.2", "optim.decay='linear'")
    return samples.config(folder, *fixed, f"train.max_steps={STEPS}", *overrides, sharding=sharding)


def state_of(run: str) -> dict[str, np.ndarray]:
    """Of its newest commit."""
    return commit_state(max(Path(run).glob("checkpoints/step-*")))


def assert_same_bits(run: Path, reference: Path) -> None:
    ours, theirs = state_of(str(run)), state_of(str(reference))
    assert ours.keys() == theirs.keys() and len(ours) > 30
    assert not [name for name, value in ours.items() if value.tobytes() != theirs[name].tobytes()]


def with_logs(folder: Path) -> Path:
    """The folder with a train and a test set in it, as `settings` names them."""
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 500, seed=1)
    return folder
