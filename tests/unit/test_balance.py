"""Balancing: uncertainty weights at their optimum, PCGrad against the paper's algorithm on whole gradient vectors."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dist_mtl.data.loader import Dataset
from dist_mtl.model.loss import Objective
from dist_mtl.model.loss_balancing import gram, pcgrad, resolve_conflicts, task_gradients, uncertainty
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.model.ranks import OneRank
from tests.support import samples


def projected(gradients: list[Tensor], orders: list[list[int]]) -> Tensor:
    """PCGrad's algorithm 1, as the paper has it."""
    total = torch.zeros_like(gradients[0])
    for task, order in enumerate(orders):
        mine = gradients[task].clone()
        for other in order:
            if other != task and mine @ gradients[other] < 0:
                mine -= (mine @ gradients[other]) / gradients[other].square().sum() * gradients[other]
        total += mine
    return total


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_pcgrad_is_the_papers_algorithm(tasks: int) -> None:
    """From inner products alone, on 50 sets of conflicting gradients."""
    draw, worst, conflicts = torch.Generator().manual_seed(1), 0.0, 0
    for _ in range(50):
        gradients = list(torch.randn(tasks, 4, generator=draw, dtype=torch.float64))
        orders = [torch.randperm(tasks, generator=draw).tolist() for _ in range(tasks)]
        factors = pcgrad(gram(gradients, OneRank()), orders)
        combined = sum(factor * g for factor, g in zip(factors, gradients, strict=True))
        worst = max(worst, (combined - projected(gradients, orders)).abs().max().item())
        conflicts += any(factor != 1 for factor in factors)
    print(f"{tasks} tasks: {conflicts} of 50 in conflict, differs by {worst:.1e}")
    assert worst < 1e-12 and conflicts > 20


def test_without_a_conflict_nothing_changes() -> None:
    shared = torch.randn(6, 3, dtype=torch.float64)
    assert pcgrad(gram([shared, 2 * shared, shared + 0.01], OneRank()), [[0, 1, 2]] * 3) == [1.0, 1.0, 1.0]
    assert pcgrad(torch.zeros(2, 2, dtype=torch.float64), [[0, 1]] * 2) == [1.0, 1.0]


class Toy(nn.Module):
    """Below x, x, above x: two tasks that pull x apart on purpose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.below, self.above = nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
        with torch.no_grad():
            self.above.weight[1] = -self.above.weight[0] + 0.3 * torch.randn(4)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        x = self.below(inputs)
        return x, self.above(x).exp().mean(0)


def test_conflicts_are_resolved_below_the_shared_input_only() -> None:
    """One backward pass: parameters above it and the other terms keep their plain gradients."""
    inputs = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = {}
    for resolve in (False, True):
        model = Toy()
        x, shares = model(inputs)
        other = x.square().mean()  # a term that no task gives way to
        gradients = task_gradients(shares, x)
        if resolve:
            resolve_conflicts(shares, x, OneRank(), seed=1, step=1)
        (shares.sum() + other).backward()
        found[resolve] = {name: p.grad for name, p in model.named_parameters()}
    flat = [g.flatten() for g in gradients]
    assert flat[0] @ flat[1] < 0
    combined = projected(flat, [[1], [0]]).view(20, 4) + 2 * x.detach() / x.numel()
    torch.testing.assert_close(found[True]["below.weight"], combined.T @ inputs, rtol=1e-10, atol=1e-12)
    for name in ("above.weight", "above.bias"):
        assert torch.equal(found[True][name], found[False][name])
    assert not torch.allclose(found[True]["below.weight"], found[False]["below.weight"])


def test_task_gradients_reach_no_parameter() -> None:
    model = Toy()
    x, shares = model(torch.randn(20, 5, dtype=torch.float64))
    gradients = task_gradients(shares, x)
    assert all(p.grad is None for p in model.parameters())
    shares.sum().backward(inputs=[x])
    torch.testing.assert_close(x.grad, sum(gradients))


def test_uncertainty_weights_are_one_over_the_loss() -> None:
    """exp(-s) L + s/2 is lowest where exp(s) = 2 L; a task without rows does not move its s."""
    losses = torch.tensor([0.3, 0.02, 0.0], dtype=torch.float64)
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    totals = torch.tensor([100.0, 100.0, 0.0])
    optimizer = torch.optim.Adam([s], lr=0.05)
    assert uncertainty(losses, s, totals, OneRank()).item() == pytest.approx(0.32)
    for _ in range(600):
        optimizer.zero_grad()
        uncertainty(losses, s, totals, OneRank()).backward()
        optimizer.step()
    print(f"s = {s.tolist()}")
    assert s[0].item() == pytest.approx(math.log(0.6), abs=1e-3)
    assert s[1].item() == pytest.approx(math.log(0.04), abs=1e-3)
    assert s[2] == 0


@pytest.mark.parametrize("balance", ["uncertainty", "pcgrad"])
def test_of_a_whole_model(tmp_path: Path, balance: str) -> None:
    """The terms are what they are without it; the tables' gradient changes only where tasks conflict."""
    samples.write_logs(tmp_path / "train", 100)
    found = {}
    for kind in ("fixed", balance):
        config = samples.config(tmp_path, f"model.balance='{kind}'")
        [batch, *_] = Dataset.open(str(tmp_path / "train"), config, shuffle=True).batches(0, 1, 0, 1)
        torch.manual_seed(0)
        model, objective = MultiTaskModel(config, torch.device("cpu")), Objective.of(config)
        outputs, totals = model(batch), objective.totals(batch).float()
        statistics = objective.statistics(outputs, batch, totals, OneRank())
        shares, loss = objective.shares(outputs, batch, totals, OneRank())
        loss.backward()
        found[kind] = shares.detach(), statistics, {n: p.grad for n, p in model.named_parameters()}
    assert objective.names == ("click", "conversion")
    assert torch.equal(found["fixed"][0], found[balance][0])
    assert found["fixed"][1] == found[balance][1]
    cosine = found[balance][1]["gradient_cosine"]["click|conversion"]
    names = [n for n in found["fixed"][2] if "embedding_bags" in n]
    same = [torch.equal(found["fixed"][2][n], found[balance][2][n]) for n in names]
    print(f"cosine {cosine:.3f}; {sum(same)} of {len(same)} tables have the same gradient")
    assert all(same) == (balance == "uncertainty" or cosine >= 0)
