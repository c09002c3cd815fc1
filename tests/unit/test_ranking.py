"""PWiseR against every pair written out in float64: values, gradients, ties, empty sets."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_mtl.config import ModelConfig, PWiseR
from dist_mtl.data.batch import Batch
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.pairwise import PairwiseLoss, hinge
from dist_mtl.model.ranks import OneRank

MARGINS = (0.05, 0.1)


def batch(labels: Tensor, weights: Tensor | None = None) -> Batch:
    """Rows that have labels and weights only."""
    ids = KeyedJaggedTensor(
        keys=["x"], values=torch.empty(0, dtype=torch.int64), lengths=torch.zeros(len(labels), dtype=torch.int32)
    )
    weights = torch.ones(len(labels)) if weights is None else weights
    return Batch(1, torch.arange(len(labels)), ids, torch.empty(len(labels), 0), labels, weights.to(labels.dtype), 0, 0)


def all_pairs(high: Tensor, weight_high: Tensor, low: Tensor, weight_low: Tensor, margin: float) -> Tensor:
    """mean [margin - (high - low)]_+, one matrix of all pairs; 0 if there are none."""
    weights = weight_high[:, None] * weight_low[None, :]
    if weights.sum() == 0:
        return high.sum() * 0 + low.sum() * 0
    return (weights * torch.relu(margin - (high[:, None] - low[None, :]))).sum() / weights.sum()


def plain(logits: Tensor, rows: Batch, head: str, on: str, margins: tuple[float, float] = MARGINS) -> Tensor:
    """The definition: for each label but the last, the rows with the next label above those that stop, and the rest."""
    p = torch.sigmoid(logits)
    joint = p if head == "ctcvr" else p.cumprod(1)
    scores = joint if on == "probability" else torch.logit(joint)
    y, w, found = rows.labels_BT > 0, rows.weight_B, []
    for t in range(logits.shape[1] - 1):
        s = scores[:, t]
        high, stop, rest = y[:, t] & y[:, t + 1], y[:, t] & ~y[:, t + 1], ~y[:, t]
        for low, margin in zip((stop, rest), margins, strict=True):
            found.append(all_pairs(s[high], w[high], s[low], w[low], margin))
    return torch.stack(found).sum() / (logits.shape[1] - 1)


def ours(
    logits: Tensor, rows: Batch, head: str = "esmm", on: str = "probability", margins: tuple[float, float] = MARGINS
) -> Tensor:
    loss = PairwiseLoss(0.02, margins, on, head)
    [share] = loss.shares(Outputs(logits, (), logits), rows, rows.weight_B.sum(), logits.new_empty(0), OneRank())
    return share


def sample(count: int, tasks: int = 2, seed: int = 1, spread: float = 1.0) -> tuple[Tensor, Batch]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, tasks, generator=draw, dtype=torch.float64) * spread
    labels = (torch.rand(count, tasks, generator=draw) < 0.5).double().cumprod(1)
    return logits, batch(labels, torch.randint(0, 4, (count,), generator=draw))


@pytest.mark.parametrize(("head", "on", "tasks"), list(product(("ctcvr", "esmm"), ("probability", "logit"), (2, 4))))
def test_loss_and_gradient_are_those_of_all_pairs(head: str, on: str, tasks: int) -> None:
    logits, rows = sample(300, tasks)
    logits.requires_grad_()
    mine, truth = ours(logits, rows, head, on), plain(logits, rows, head, on)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (mine, truth)]
    worst = (gradients[0] - gradients[1]).abs().max().item()
    print(f"{head}, {on}, {tasks} tasks: {truth:.4f}, differs by {mine - truth:.1e}, gradient by {worst:.1e}")
    assert abs(mine - truth) < 1e-12 and worst < 1e-12
    assert gradients[0][:, 0].abs().max() > 1e-6
    assert (gradients[0][rows.weight_B == 0] == 0).all()


@pytest.mark.parametrize("on", ["probability", "logit"])
def test_gradcheck(on: str) -> None:
    """Away from kinks: 24 rows, no pair within 1e-5 of its margin."""
    logits, rows = sample(24, 3)
    assert torch.autograd.gradcheck(lambda x: ours(x, rows, "esmm", on, (0.3, 0.6)), logits.requires_grad_())


def test_ties_and_kinks() -> None:
    """Scores on a grid as wide as a margin: many pairs are exactly at it, where the gradient is 0 as relu's is."""
    grid = torch.arange(8, dtype=torch.float64).repeat(6) * 0.25
    mixed = grid[torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    high, low = mixed[:20].clone().requires_grad_(), mixed[20:].clone().requires_grad_()
    ones = torch.ones(28, dtype=torch.float64)
    truth = all_pairs(high, ones[:20], low, ones, 0.25)
    at_margin = (high[:, None] - low[None, :] == 0.25).sum().item()
    expected = torch.autograd.grad(truth, (high, low))
    found = hinge(high.detach(), ones[:20], low.detach(), ones, 0.25)
    print(f"{at_margin} of 560 pairs are exactly at the margin")
    assert at_margin > 30
    torch.testing.assert_close(found.value, truth.detach(), rtol=0, atol=1e-14)
    for mine, right in zip((found.d_high_P, found.d_low_N), expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-14)
    closer = (high.detach()[:, None] - low.detach()[None, :] < 0.25).double().mean()
    assert found.violations.item() == pytest.approx(closer.item(), rel=1e-12)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_sets_and_weights(data: st.DataObject) -> None:
    """Empty ones, equal scores, zero weights, tiny and huge margins."""
    scores = st.lists(st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), max_size=12)
    high, low = (torch.tensor(data.draw(scores), dtype=torch.float64) for _ in range(2))
    weights = [
        torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x))), dtype=torch.float64)
        for x in (high, low)
    ]
    margin = data.draw(st.sampled_from([1e-3, 0.1, 0.5, 7.0]))
    found = hinge(high, weights[0], low, weights[1], margin)
    truth = all_pairs(high, weights[0], low, weights[1], margin)
    torch.testing.assert_close(found.value, truth, rtol=1e-9, atol=1e-12)
    # A common shift of all scores changes nothing: what the one side gains the other loses.
    torch.testing.assert_close(found.d_high_P.sum(), -found.d_low_N.sum(), rtol=1e-9, atol=1e-12)
    assert (found.d_high_P <= 0).all() and (found.d_low_N >= 0).all() and 0 <= found.violations <= 1 + 1e-12
    if weights[0].sum() * weights[1].sum() == 0:
        assert found.value == 0 and not found.d_high_P.any() and not found.d_low_N.any()


@pytest.mark.parametrize(
    "labels",
    [[[0.0, 0]] * 5, [[1.0, 1]] * 5, [[1.0, 0]] * 5, [[1.0, 0], [0, 0]], [[1.0, 1], [0, 0]], [[1.0, 1], [1, 0]]],
    ids=["no click", "all convert", "no conversion", "no conversion, some clicks", "no plain click", "all click"],
)
def test_empty_sets_are_an_exact_zero(labels: list[list[float]]) -> None:
    """Each mean by itself; every logit still gets a gradient."""
    logits = torch.randn(len(labels), 2, requires_grad=True)
    rows = batch(torch.tensor(labels))
    loss = ours(logits, rows, margins=(0.5, 0.5))
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    if len({tuple(row) for row in labels}) == 1 or not any(c for _, c in labels):
        assert loss == 0 and not logits.grad.any()
    else:
        torch.testing.assert_close(
            loss.double(), plain(logits.detach().double(), rows, "esmm", "probability", (0.5, 0.5))
        )


def test_a_dropped_row_takes_no_part() -> None:
    """It breaks the funnel and has weight 0: a conversion without a click is in none of the sets."""
    logits, rows = sample(40)
    labels = torch.cat([rows.labels_BT, torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)])
    more = batch(labels, torch.cat([rows.weight_B, torch.zeros(2, dtype=torch.float64)]))
    longer = torch.cat([logits, torch.tensor([[9.0, 9.0], [-9.0, 0.0]], dtype=torch.float64)]).requires_grad_()
    loss = ours(longer, more)
    assert loss == ours(logits, rows)
    loss.backward()
    assert not longer.grad[40:].any()


def test_float32_scores_lose_nothing_in_the_sums() -> None:
    """8,192 rows: cumulative sums are float64, so that only the scores' own rounding is left."""
    logits, rows = sample(8192)
    small = batch(rows.labels_BT.float(), rows.weight_B.float())
    x = logits.float().requires_grad_()
    mine = ours(x, small)
    mine.backward()
    wide = x.detach().double().requires_grad_()
    truth = ours(wide, rows)
    truth.backward()
    gap = (x.grad - wide.grad).abs().max() / wide.grad.abs().max()
    print(f"loss {abs(mine.double() - truth):.1e}, gradient {gap:.1e} of the largest")
    assert abs(mine.double() - truth) < 1e-7 and gap < 1e-4


def test_a_step_against_the_gradient_ranks_conversions_higher() -> None:
    logits, rows = sample(500, spread=0.1)
    x = logits.clone().requires_grad_()
    first = ours(x, rows)
    converted = (rows.labels_BT[:, 1] > 0) & (rows.weight_B > 0)
    [gradient] = torch.autograd.grad(first, x)
    assert (gradient[converted, 0] < 0).all()
    assert ours(logits - 20 * gradient, rows) < first


def test_of_a_configuration_and_violations() -> None:
    loss = PairwiseLoss.of(PWiseR(kind="pwiser", margins=(0.2, 0.4), on="logit"), ModelConfig(head="ctcvr"))
    assert (loss.margins, loss.on, loss.head, loss.names) == ((0.2, 0.4), "logit", "ctcvr", ("pairwise",))
    logits = torch.tensor([[1.0, 0], [0.9, 0], [0.5, 0], [0.0, 0]])
    rows = batch(torch.tensor([[1.0, 1], [1, 0], [0, 0], [0, 0]]))
    [(stopped, without)] = loss.violations(Outputs(logits, (), logits), rows, OneRank())
    assert (stopped, without) == (1.0, 0.0)  # 0.1 apart, not 0.2; at least 0.5 apart, and 0.4 are enough
