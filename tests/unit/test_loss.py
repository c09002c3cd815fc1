"""Losses against the formulas written out in float64, at the ends of the range and where a space is empty."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_mtl.config import ModelConfig
from dist_mtl.data.batch import Batch
from dist_mtl.model.heads import funnel, log1mexp, logit_of
from dist_mtl.model.loss import Objective, TaskObjective
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import OneRank
from tests.support import samples

HEADS = ("ctcvr", "esmm", "clicked")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def batch(labels: Tensor, weights: Tensor | None = None) -> Batch:
    """Rows that have labels and weights only."""
    ids = KeyedJaggedTensor(
        keys=["x"], values=torch.empty(0, dtype=torch.int64), lengths=torch.zeros(len(labels), dtype=torch.int32)
    )
    weights = torch.ones(len(labels)) if weights is None else weights
    return Batch(1, torch.arange(len(labels)), ids, torch.empty(len(labels), 0), labels, weights.to(labels.dtype), 0, 0)


def total(head: str, logits: Tensor, rows: Batch, task_weights: tuple[float, ...] = (1.0, 1.0)) -> Tensor:
    """The losses of a world of one rank."""
    objective = TaskObjective(head, task_weights)
    weights = objective.row_weights(rows)
    return objective.losses(Outputs(logits, (), logits), rows, weights, weights.sum(0))


def direct(head: str, logits: Tensor, rows: Batch) -> Tensor:
    """The definitions, in float64, with no trick."""
    a, b = torch.sigmoid(logits.double()).unbind(1)
    click, conversion = rows.labels_BT.double().unbind(1)
    weight = rows.weight_B.double()
    second = {"ctcvr": (b, weight), "esmm": (a * b, weight), "clicked": (b, weight * click)}[head]

    def mean(p: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return -(w * (y * p.log() + (1 - y) * (1 - p).log())).sum() / w.sum()

    return torch.stack([mean(a, click, weight), mean(second[0], conversion, second[1])])


def sample(count: int = 400, spread: float = 4.0) -> tuple[Tensor, Batch]:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(count, 2, generator=draw) * spread
    click = (torch.rand(count, generator=draw) < 0.3).float()
    conversion = click * (torch.rand(count, generator=draw) < 0.3)
    weights = torch.randint(0, 3, (count,), generator=draw).float()
    return logits, batch(torch.stack([click, conversion], 1), weights)


@pytest.mark.parametrize("head", HEADS)
def test_losses_equal_the_definitions(head: str) -> None:
    logits, rows = sample()
    difference = (total(head, logits, rows).double() - direct(head, logits, rows)).abs().max().item()
    print(f"{head}: {difference:.1e}")
    assert difference < 1e-6


def test_esmm_keeps_small_probabilities() -> None:
    """At CTCVR 1e-7 a plain product in float32 loses 1 - p; the log-space loss is right to 1e-6 relative."""
    logits = torch.tensor([[-8.0, -8.0], [-8.0, -8.0], [-12.0, 3.0]])
    rows = batch(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    for i in range(3):
        one = batch(rows.labels_BT[i : i + 1])
        ours, truth = total("esmm", logits[i : i + 1], one).double(), direct("esmm", logits[i : i + 1], one)
        torch.testing.assert_close(ours, truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("head", HEADS)
def test_extreme_logits_stay_finite(head: str) -> None:
    for size, labels in product((20.0, 90.0, 1e4, 1e30), ([0, 0], [1, 0], [1, 1])):
        for signs in product((-1, 1), repeat=2):
            logits = (torch.tensor([signs]) * size).requires_grad_()
            losses = total(head, logits, batch(torch.tensor([labels], dtype=torch.float32)))
            losses.sum().backward()
            assert losses.isfinite().all() and (losses >= 0).all(), (size, labels, signs)
            assert logits.grad.isfinite().all(), (size, labels, signs)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [5.0, 17.0, 40.0, 80.0])
def test_a_confident_mistake_keeps_its_gradient(head: str, size: float) -> None:
    """A saturated probability must not stop the row that would mend it: the gradient is 1 where p is 1 and y is 0."""
    logits = torch.tensor([[size, size]], requires_grad=True)
    total(head, logits, batch(torch.zeros(1, 2)))[0].backward()
    assert logits.grad[0, 0] == pytest.approx(1, abs=0.01)
    logits.grad = None
    total(head, logits, batch(torch.tensor([[1.0, 0.0]])))[1].backward()
    # ESMM shares the blame for a missing conversion between click and conversion.
    assert logits.grad.sum() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("head", HEADS)
def test_gradients(head: str) -> None:
    logits, rows = sample(12, 2.0)
    rows = batch(rows.labels_BT.double(), rows.weight_B)
    assert torch.autograd.gradcheck(lambda x: total(head, x, rows), logits.double().requires_grad_())


def test_log1mexp() -> None:
    """Against float64, relative 2e-6, over 300 magnitudes; gradients finite."""
    a = -torch.logspace(-6.9, 1.9, 300)
    wide = a.double()
    truth = torch.where(wide > -0.7, torch.log(-torch.expm1(wide)), torch.log1p(-torch.exp(wide)))
    assert ((log1mexp(a) - truth) / truth).abs().max() < 2e-6
    a.requires_grad_()
    log1mexp(a).sum().backward()
    assert a.grad.isfinite().all()
    assert torch.autograd.gradcheck(log1mexp, -torch.logspace(-3, 1, 20, dtype=torch.float64).requires_grad_())


def test_logit_of_inverts_logsigmoid() -> None:
    logits = torch.linspace(-30, 15, 200, dtype=torch.float64)
    back = logit_of(torch.nn.functional.logsigmoid(logits))
    torch.testing.assert_close(back, logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_an_empty_space_is_an_exact_zero_with_a_zero_gradient(head: str) -> None:
    """No click: the clicked CVR has no row. No weight at all: nothing has. Every parameter still gets a gradient."""
    logits = torch.randn(5, 2, requires_grad=True)
    losses = total(head, logits, batch(torch.zeros(5, 2), torch.zeros(5)))
    assert losses.tolist() == [0, 0]
    losses.sum().backward()
    assert logits.grad is not None and (logits.grad == 0).all()
    if head == "clicked":
        logits.grad = None
        losses = total(head, logits, batch(torch.zeros(5, 2)))
        assert losses[1] == 0 and losses[0] > 0
        losses.sum().backward()
        assert (logits.grad[:, 1] == 0).all()


@pytest.mark.parametrize("head", HEADS)
def test_shares_of_ranks_add_up_to_the_global_loss_and_gradient(head: str) -> None:
    """R9, without processes: uneven weights and spaces, four parts, totals of the whole."""
    logits, rows = sample(400)
    whole = logits.clone().requires_grad_()
    objective = TaskObjective(head, (1.0, 0.5))
    weights = objective.row_weights(rows)
    losses = objective.losses(Outputs(whole, (), whole), rows, weights, weights.sum(0))
    losses.sum().backward()
    parts, gradients = torch.zeros(2, dtype=torch.float64), []
    for place in torch.arange(400).chunk(4):
        mine = logits[place].clone().requires_grad_()
        part = batch(rows.labels_BT[place], rows.weight_B[place])
        share = objective.losses(Outputs(mine, (), mine), part, objective.row_weights(part), weights.sum(0))
        share.sum().backward()
        parts += share.detach().double()
        gradients.append(mine.grad)
    torch.testing.assert_close(parts, losses.detach().double(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.cat(gradients), whole.grad, rtol=1e-6, atol=1e-9)


def test_task_weights_scale_terms() -> None:
    logits, rows = sample(50)
    plain, scaled = total("esmm", logits, rows), total("esmm", logits, rows, (2.0, 0.0))
    torch.testing.assert_close(scaled, plain * torch.tensor([2.0, 0.0]))
    assert TaskObjective.of(ModelConfig(), 2).task_weights == (1.0, 1.0)
    assert TaskObjective.of(ModelConfig(task_weights=(1.0, 3.0)), 2).task_weights == (1.0, 3.0)


def test_the_clicked_head_trains_task_t_where_label_before_it_is_set() -> None:
    labels = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    weights = TaskObjective("clicked", (1.0,) * 3).row_weights(batch(labels, torch.tensor([1.0, 2, 3, 4])))
    assert weights.tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 0], [4, 0, 0]]


@pytest.mark.parametrize("head", HEADS)
def test_the_funnel_reads_probabilities(head: str) -> None:
    logits = torch.tensor([[0.3, -1.0], [-5.0, 2.0], [4.0, -9.0]])
    a, b = torch.sigmoid(logits.double()).unbind(1)
    found = funnel(logits, head)
    ctr, ctcvr, cvr = found.joint_BT[:, 0].exp(), found.joint_BT[:, 1].exp(), found.conditional_BT[:, 1].exp()
    expected = (a, b, (b / a).clamp(max=1)) if head == "ctcvr" else (a, a * b, b)
    for ours, truth in zip((ctr, ctcvr, cvr), expected, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-5)
    assert (found.joint_BT < 0).all() and (found.conditional_BT < 0).all()  # so that a logit can be taken
    assert math.isclose(found.conditional_BT[0, 0].item(), found.joint_BT[0, 0].item())


WHOLE = {
    "off": ((), {"click": 1, "conversion": 1}),
    "aitm": (
        ("model.backbone={kind='aitm', calibrator=0.7}", "model.head='ctcvr'"),
        {"click": 1, "conversion": 1, "calibrator": 0.7},
    ),
    "escm2": (
        ("model.counterfactual={kind='ips', weight=0.3}", "model.task_weights=[2, 0.5]"),
        {"click": 1, "conversion": 1, "counterfactual.conversion": 1},  # fixed weights are in their terms
    ),
    "methods": (
        (
            "model.alignment={kind='fixed', weight=0.2, num_negatives=5, warmup_steps=4}",
            "model.pairwise={kind='pwiser', weight=0.6, margins=[0.3, 0.5]}",
        ),
        {"click": 1, "conversion": 1, "align": 0.05, "pairwise": 0.6},
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_the_loss_is_its_terms_times_their_factors(case: str) -> None:
    """At step 1, a quarter of the way through the alignment's warm-up."""
    overrides, factors = WHOLE[case]
    objective = Objective.of(samples.config("x", *overrides))
    logits, rows = sample(40)
    h = torch.randn(40, 6), torch.randn(40, 6)
    outputs = Outputs(logits, h, logits)
    terms, loss = objective.shares(outputs, rows, objective.totals(rows).float(), OneRank())
    print(dict(zip(objective.names, terms.tolist(), strict=True)), loss.item())
    assert objective.names == tuple(factors) and (terms > 0).all()
    torch.testing.assert_close(loss, (terms * torch.tensor(list(factors.values()))).sum())
    torch.testing.assert_close(
        terms[:2],
        total(objective.model.head, logits, rows, objective.tasks.task_weights),
        rtol=0,
        atol=0,
    )
