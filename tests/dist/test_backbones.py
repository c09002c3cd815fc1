"""Every backbone under every head, with two labels and four (and one), on one rank and on two: the same losses.

A world is set up once and trains all of them: a process group and its models cost more than five steps of each.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.build import build, open_dataset
from dist_mtl.config import Config
from dist_mtl.config.file import parse, read_toml
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.train_step import train_step
from tests.support import samples
from tests.support.harness import ROOT, Cluster

STEPS = 5
ROWS = 1_500
BACKBONES = {
    "single_task": "{kind='single_task', hidden=[16, 8]}",
    "shared_bottom": "{kind='shared_bottom', hidden=[16, 8]}",
    "omoe": "{kind='omoe', experts=3, hidden=[16, 8]}",
    "mmoe": "{kind='mmoe', experts=3, hidden=[16, 8]}",
    "ple": "{kind='ple', levels=2, task_experts=1, shared_experts=2, hidden=[16, 8]}",
    "aitm": "{kind='aitm', hidden=[16, 8]}",
}
HEADS = {
    "ctcvr": ("model.head='ctcvr'",),
    "esmm": ("model.head='esmm'",),
    "clicked": ("model.head='clicked'",),
    "esmm-ips": ("model.counterfactual={kind='ips', weight=0.5}",),
    "esmm-dr": ("model.counterfactual={kind='dr', weight=0.5}", "model.dropout=0.2"),
    "independent": ("model.head='independent'", "data.funnel=false"),
}
LABELS = {1: ["click"], 2: ["click", "conversion"], 4: ["view", "click", "cart", "purchase"]}
PAIR = ["odd", "click"]  # none implies the other


@dataclass
class Trained:
    """What one rank saw of one configuration."""

    losses: np.ndarray  # (steps, terms)
    untouched: list[str]  # dense weights without a gradient in some step
    still: list[str]  # dense weights that all steps left as they were
    positives: np.ndarray  # (steps, labels): of this rank's rows


def train_all(configs: dict[str, Config]) -> dict[str, Trained]:
    """Train each for `STEPS` steps, one after the other."""
    with runtime(next(iter(configs.values())).run) as rt:
        return {name: train_one(config, rt) for name, config in configs.items()}


def train_one(config: Config, rt: Runtime) -> Trained:
    dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
    model, objective = build(config, rt, STEPS), Objective.of(config)
    dense = {n: p for n, p in model.module.named_parameters() if "embedding_bags" not in n}
    before = {n: p.detach().clone() for n, p in dense.items()}
    losses, untouched, positives = [], set(), []
    for batch in batches(dataset, rt, 0, STEPS):
        losses.append(train_step(model, objective, batch, rt).terms_L.numpy())
        untouched |= {n for n, p in dense.items() if p.grad is None}
        positives.append(batch.labels_BT.sum(0).numpy())
    still = [n for n, p in dense.items() if torch.equal(p, before[n])]
    return Trained(np.stack(losses), sorted(untouched), still, np.stack(positives))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs with a funnel of four labels, of which the last is rare: most batches hold no purchase."""
    folder = tmp_path_factory.mktemp("logs")
    logs = samples.logs(ROWS)
    draw = np.random.default_rng(1)
    click, cart = (logs[name].to_numpy().astype(bool) for name in ("click", "conversion"))
    columns = {
        "view": click | (draw.random(ROWS) < 0.5),
        "cart": cart,
        "purchase": cart & (draw.random(ROWS) < 0.02),
        "odd": logs["item"].to_numpy() % 2 == 1,
    }
    for name, values in columns.items():
        logs = logs.append_column(name, pa.array(values.astype(np.int8)))
    write_dataset(folder / "train", [logs], file_rows=ROWS // 2, row_group_rows=100)
    return folder


def config(folder: Path, backbone: str, head: str, labels: list[str]) -> Config:
    return samples.config(
        folder, f"model.backbone={BACKBONES[backbone]}", f"data.labels={labels}", *HEADS[head], sharding="row_wise"
    )


@cache
def trained(folder: Path, world: int) -> list[dict[str, Trained]]:
    configs = {}
    for backbone in BACKBONES:
        for head in HEADS:
            for count, labels in LABELS.items():
                if head == "independent":
                    labels = PAIR if count == 2 else ["odd", *LABELS[4][:0:-1]]
                if count > 1 or head == "esmm":  # with one label all heads are the same
                    configs[f"{backbone} {head} {count}"] = config(folder, backbone, head, labels)
    return Cluster(world).run(train_all, configs, timeout=240)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_same_losses_on_two_ranks(folder: Path, backbone: str, head: str) -> None:
    [alone], ranks = trained(folder, 1), trained(folder, 2)
    names = [name for name in alone if name.startswith(f"{backbone} {head} ")]
    assert len(names) == (3 if head == "esmm" else 2)
    for name in names:
        ours, theirs = alone[name].losses, [rank[name].losses for rank in ranks]
        assert np.array_equal(*theirs), "ranks disagree about the loss"
        difference = np.abs(ours - theirs[0]).max()
        print(f"{name} label(s): {ours.shape[1]} terms, max difference {difference:.1e}, last {ours[-1].round(4)}")
        assert difference < 1e-5
        assert np.ptp(ours[:, 0]) > 1e-4  # it does train


@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_touches_every_dense_weight_in_every_step(folder: Path, world: int) -> None:
    """Also a rank without a single purchase, whose rows say nothing about the last tower of `clicked`."""
    barren = 0
    for rank in trained(folder, world):
        for name, found in rank.items():
            assert not found.untouched, name
            assert not found.still or found.positives.sum(0).min() == 0, (name, found.still)
            barren += int((found.positives[:, -1] == 0).sum())
    print(f"{world} rank(s): {barren} rank-steps without the last label")
    assert barren > 100


def test_the_published_funnel_trains(tmp_path: Path) -> None:
    """configs/funnel.toml, with smaller tables and batches, on logs that have its columns."""
    draw = np.random.default_rng(3)
    stages = (draw.random((ROWS, 4)) < (0.7, 0.5, 0.4, 0.3)).cumprod(1)
    stages[:5, 3] = 1  # purchases that lack a cart: dropped
    lengths = draw.integers(0, 5, ROWS)
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    logs = pa.table(
        {name: draw.integers(0, 10**6, ROWS) for name in ("user_id", "item_id", "category", "slot")}
        | {"recent": pa.ListArray.from_arrays(offsets, pa.array(draw.integers(0, 10**6, int(lengths.sum()))))}
        | {"price": draw.lognormal(3, 1, ROWS)}
        | {name: stages[:, i].astype(np.int8) for i, name in enumerate(LABELS[4])}
    )
    write_dataset(tmp_path / "train", [logs])
    made = parse(
        read_toml(ROOT / "configs" / "funnel.toml"),
        [
            f"data.train={tmp_path / 'train'}",
            f"run.dir={tmp_path / 'run'}",
            "run.device='cpu'",
            "tables.user.rows=1000",
            "tables.item.rows=1000",
            "train.global_batch=256",
        ],
    )
    [found] = Cluster(1).run(train_all, {"funnel": made})
    assert not found["funnel"].untouched and not found["funnel"].still
    assert found["funnel"].losses.shape == (STEPS, 4 + 3) and np.isfinite(found["funnel"].losses).all()
