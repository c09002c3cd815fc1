"""R9 for everything beside the tasks' cross-entropies: alignment, ranking and balance on 1, 2 and 4 ranks."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_mtl.build import build, build_for_scoring, open_dataset
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.model.infonce import contrast, unit
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.collectives import Collectives
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import runtime
from dist_mtl.parallel.train_step import train_step
from dist_mtl.scoring.evaluate import evaluate, open_test
from tests.support import samples
from tests.support.harness import Cluster
from tests.support.workers import Trace, assemble, parts, trace

STEPS = 10  # 300 rows in steps of 64: the 5th and the 10th are padded
# SGD on the tables: an optimizer that divides a gradient by its own size would hide one that is off by a factor.
# Wide enough that no tower is off on all rows, where every cosine, and every gradient of one, would be 0.
COMMON = ("optim.embedding={kind='sgd', lr=0.1}", "model.backbone.hidden=[32, 16]", "model.tower=[16]")
METHODS = {
    "adaftr, a sample, pwiser, uncertainty": (
        "model.alignment={kind='adaftr', weight=0.3, negatives='sampled', num_negatives=16, probe_stride=3}",
        "model.pairwise={kind='pwiser', weight=0.5, margins=[0.2, 0.4]}",
        "model.balance='uncertainty'",
    ),
    "adaftr, all, projected, pwiser on logits": (
        "model.alignment={kind='adaftr', weight=0.3, negatives='all', projection=[8, 4], prior_weight=0.2,"
        " target='conversion_given_click', warmup_steps=4}",
        "model.pairwise={kind='pwiser', weight=0.5, margins=[0.5, 1.0], on='logit'}",
    ),
    "pico, all, pcgrad": (
        "model.alignment={kind='pico', weight=0.3, negatives='all'}",
        "model.balance='pcgrad'",
        "model.head='ctcvr'",  # the tasks' gradients are then in conflict, here
    ),
    "fixed, stopped, a sample, clicked, weights": (
        "model.alignment={kind='fixed', weight=0.3, num_negatives=16, stop_gradient=true}",
        "model.pairwise={kind='pwiser', weight=0.5}",
        "model.head='clicked'",
        "data.weight='importance'",
    ),
}
NAMES = {
    "adaftr, a sample, pwiser, uncertainty": ("align", "relatedness", "pairwise"),
    "adaftr, all, projected, pwiser on logits": ("align", "relatedness", "prior", "pairwise"),
    "pico, all, pcgrad": ("align",),
    "fixed, stopped, a sample, clicked, weights": ("align", "pairwise"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 300)
    return folder


def config(folder: Path, *overrides: str) -> Config:
    return samples.config(folder, "train.epochs=2", *COMMON, *overrides)


@cache
def run(folder: Path, world: int, *overrides: str) -> list[Trace]:
    return Cluster(world).run(trace, config(folder, *overrides), STEPS)


def largest(gradient: np.ndarray) -> float:
    """Of a weight; at least 1e-3, for some are cancelled sums of float noise (what moves all cosines alike, say)."""
    return max(np.abs(gradient).max(), 1e-3)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_same_losses_and_gradients(folder: Path, method: str, world: int) -> None:
    """Every term of every step to 1e-5. AdamW's first moment after step 1 is a tenth of the gradient: to 1e-5 of the
    largest in its weight, or to 1e-8. SGD moves a table by its gradient."""
    alone, ranks = run(folder, 1, *METHODS[method]), run(folder, world, *METHODS[method])
    assert all(np.array_equal(r.losses, ranks[0].losses) for r in ranks), "ranks disagree about a loss"
    gap = np.abs(ranks[0].losses - alone[0].losses).max()
    first, truth = assemble([r.first for r in ranks]), assemble([alone[0].first])
    gaps = {n: np.abs(first[n] - truth[n]).max() / largest(truth[n]) for n in truth if n.endswith("exp_avg")}
    worst = max(gaps, key=gaps.get)
    moved = f"gradients by {gaps[worst]:.1e} ({worst})"
    print(f"{method} on {world}: {ranks[0].losses.size} losses differ by {gap:.1e}, {moved}")
    names = Objective.of(config(folder, *METHODS[method])).names
    assert names == ("click", "conversion", *NAMES[method]) and ranks[0].losses.shape == (STEPS, len(names))
    assert gap < 1e-5 and gaps[worst] < 1e-5
    last, end = assemble([r.last for r in ranks]), assemble([alone[0].last])
    assert max(np.abs(last[n] - end[n]).max() for n in end if "embedding_bags" in n) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_do_train(folder: Path, method: str) -> None:
    """Against a plain run: the same first losses of the tasks (no weight depends on what is beside), others later."""
    heads = tuple(o for o in METHODS[method] if "head" in o or "data" in o)
    plain, [ours] = run(folder, 1, *heads)[0].losses, run(folder, 1, *METHODS[method])
    assert np.array_equal(plain[0], ours.losses[0, :2])
    assert np.abs(plain[-1] - ours.losses[-1, :2]).max() > 1e-5
    assert all(np.ptp(ours.losses[:, term]) > 1e-4 for term in range(ours.losses.shape[1]))


def test_pcgrad_moves_the_tables(folder: Path) -> None:
    """In conflict from step 1: tables move otherwise than by the plain sum, weights above the shared input do not."""
    kept = tuple(o for o in METHODS["pico, all, pcgrad"] if "balance" not in o)
    plain, ours = (assemble([run(folder, 1, *o)[0].first]) for o in (kept, METHODS["pico, all, pcgrad"]))
    gaps = {n: np.abs(plain[n] - ours[n]).max() for n in plain if n.startswith("model")}
    assert all((gap > 0) == ("embedding_bags" in name) for name, gap in gaps.items()), gaps


def test_empty_sets_keep_the_ranks_in_step(tmp_path: Path) -> None:
    """Two rows a rank: most ranks have no conversion, and some steps have none at all."""
    samples.write_logs(tmp_path / "train", 160)
    overrides = (
        "train.global_batch=8",
        "model.alignment={kind='adaftr', weight=0.3, num_negatives=3, target='conversion_given_click'}",
        "model.pairwise={kind='pwiser', weight=0.5, margins=[0.2, 0.4]}",
    )
    made = samples.config(tmp_path, *COMMON, *overrides)
    alone, ranks = Cluster(1).run(trace, made, 20), Cluster(4).run(trace, made, 20)
    gap = np.abs(ranks[0].losses - alone[0].losses).max()
    empty = (alone[0].losses[:, 4] == 0).sum()
    print(f"20 steps, {empty} without a pair; losses differ by {gap:.1e}")
    assert gap < 1e-5 and empty >= 1


# ---------------------------------------------------------------------------------------------------------- collectives
def share_of(x: np.ndarray, rt: Any) -> Tensor:
    """This rank's rows, as a leaf."""
    rows = len(x) // rt.size
    return torch.from_numpy(x[rt.rank * rows : (rt.rank + 1) * rows].copy()).requires_grad_()


def contrasted(config: Config, a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """InfoNCE over the ranks' rows, float64: its value and this rank's gradients."""
    with runtime(config.run) as rt:
        ranks = Collectives.of(rt)
        h, k = share_of(a, rt), share_of(b, rt)
        rows = torch.arange(len(h)) + rt.rank * len(h)
        inverse = 1 + rows.double()[:, None] / len(a)
        everyone = ranks.gather(unit(k))
        share = torch.full((len(h),), 1 / len(a), dtype=torch.float64)
        valid = torch.ones(len(a), dtype=torch.float64)
        loss = contrast([h, k], [None, everyone], inverse, share, valid, rows, [(0, 1, 0)])
        (loss + 0.1 * ranks.sum(h.sum()) ** 2 / rt.size).backward()
        total = ranks.sum(loss.detach().clone())
        return total.item(), h.grad.numpy().copy(), k.grad.numpy().copy()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_contrast_over_ranks_is_the_formula(folder: Path, world: int) -> None:
    """Value and both gradients to 1e-12; a gather that is cut off from autograd would be wrong in the second."""
    a, b = np.random.default_rng(1).normal(size=(2, 24, 5))
    found = Cluster(world).run(contrasted, config(folder), a, b)
    h, k = (torch.from_numpy(x).requires_grad_() for x in (a, b))
    cosines = (h / h.norm(dim=1)[:, None]) @ (k / k.norm(dim=1)[:, None]).T
    logits = cosines * (1 + torch.arange(24, dtype=torch.float64) / 24)[:, None]
    truth = torch.nn.functional.cross_entropy(logits, torch.arange(24))
    (truth + 0.1 * h.sum() ** 2).backward()
    gaps = [abs(value - truth.item()) for value, _, _ in found]
    gaps += [np.abs(np.concatenate([f[1] for f in found]) - h.grad.numpy()).max()]
    gaps += [np.abs(np.concatenate([f[2] for f in found]) - k.grad.numpy()).max()]
    print(f"{world} rank(s): value {max(gaps[:world]):.1e}, gradients {gaps[-2]:.1e}, {gaps[-1]:.1e}")
    assert max(gaps) < 1e-12


# ------------------------------------------------------------------------------------------------ diagnosis and scoring
def diagnosed(config: Config, steps: int, every: int) -> tuple[list[dict], np.ndarray, Any]:
    """Train; the statistics of every `every`-th step, all losses, the last state."""
    with runtime(config.run) as rt:
        dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
        model, objective = build(config, rt, steps), Objective.of(config)
        done = [
            train_step(model, objective, batch, rt, diagnose=every > 0 and batch.step % every == 0)
            for batch in batches(dataset, rt, 0, steps)
        ]
        told = [outcome.statistics for outcome in done if outcome.statistics is not None]
        return told, np.stack([outcome.terms_L.numpy() for outcome in done]), parts(model)


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """The leaves by their path."""
    pairs = ((f"{prefix}{name}", value) for name, value in tree.items())
    return {k: v for name, x in pairs for k, v in (flat(x, f"{name}/") if isinstance(x, dict) else {name: x}).items()}


@pytest.mark.parametrize("method", ["adaftr, a sample, pwiser, uncertainty", "pico, all, pcgrad"])
def test_statistics_are_of_the_global_batch_and_change_nothing(folder: Path, method: str) -> None:
    made = config(folder, *METHODS[method])
    [(alone, losses, state)] = Cluster(1).run(diagnosed, made, 5, 2)
    [(none, quiet_losses, quiet)] = Cluster(1).run(diagnosed, made, 5, 0)
    ranks = Cluster(2).run(diagnosed, made, 5, 2)
    assert none == [] and len(alone) == 2 and ranks[0][0] == ranks[1][0]
    assert np.array_equal(losses, quiet_losses)
    ours, theirs = assemble([state]), assemble([quiet])
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for mine, truth in zip(map(flat, ranks[0][0]), map(flat, alone), strict=True):
        assert mine.keys() == truth.keys()
        worst = max(np.abs(np.array(mine[name]) - np.array(truth[name])).max() for name in truth)
        print({name: np.round(value, 4).tolist() for name, value in truth.items()}, f"2 ranks differ by {worst:.1e}")
        assert worst < 0.02 if any("counts" in n for n in truth) else worst < 1e-5  # a row may change its bin
        for name, value in truth.items():
            if name.endswith("counts") or name.startswith("gates"):
                assert sum(value) == pytest.approx(1, abs=1e-5)
    told = flat(alone[0])
    assert told["similarity/click>conversion/positive"] > 0.3 and 0 < told["relatedness/click|conversion/mean"] < 1
    assert (told["gradient_cosine/click|conversion"] < -0.1) == ("pcgrad" in method)
    assert 0 < told["gate_entropy/experts conversion"] <= 1
    assert ("violated/click m1" in told) == ("pwiser" in method)


def commit_and_score(config: Config) -> tuple[list[str], list[str], float, float]:
    """Train and commit, load the commit for scoring: the parameters of both, and the AUC that both have."""
    with runtime(config.run) as rt:
        dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
        model, objective = build(config, rt, 4), Objective.of(config)
        for batch in batches(dataset, rt, 0, 4):
            train_step(model, objective, batch, rt)
        folder = store.save(model, Progress(4), {}, "end", config, "", rt)
        test = open_test(config.data.train, config, rt)
        trained = evaluate(model, test, config, rt)
        scorer = build_for_scoring(config, rt)
        store.load(scorer, folder, rt, weights_only=True)
        scored = evaluate(scorer, test, config, rt)
        names = [sorted(name for name, _ in m.module.named_parameters()) for m in (model, scorer)]
        return *names, trained.tasks["ctcvr"].auc.value, scored.tasks["ctcvr"].auc.value


@pytest.mark.parametrize("world", [1, 2])
def test_scoring_loads_a_commit_without_the_parts_of_training(tmp_path: Path, world: int) -> None:
    samples.write_logs(tmp_path / "train", 300)
    made = config(tmp_path, *METHODS["adaftr, all, projected, pwiser on logits"])
    for trained, scored, auc, again in Cluster(world).run(commit_and_score, made):
        left_out = set(trained) - set(scored)
        print(f"{len(trained)} parameters in training, {len(scored)} for scoring, CTCVR AUC {auc:.4f} and {again:.4f}")
        assert set(scored) < set(trained) and all("training_parts" in name for name in left_out) and len(left_out) == 12
        assert auc == again
