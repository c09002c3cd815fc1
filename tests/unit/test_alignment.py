"""Inter-task alignment against its formula written out in float64, and what it must not cost."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dist_mtl.config import PICO, AdaFTR, FixedAlignment
from dist_mtl.data.batch import Batch
from dist_mtl.model import infonce as kernel
from dist_mtl.model.alignment import AlignmentLoss, sampled_rows
from dist_mtl.model.infonce import contrast, unit
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import OneRank
from dist_mtl.model.relatedness import TrainingOutputs, standardised
from tests.support.funnel_rows import LABELS, rows

KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "temperature": 0.3},
    "pico": {"kind": "pico", "temperatures": (0.1, 1.5)},
    "pico, a prior": {"kind": "pico", "standardise": False, "prior": 0.3, "prior_weight": 0.5},
    "adaftr": {"kind": "adaftr", "temperatures": (0.05, 1.0), "target": "conversion_given_click", "weight": 0.5},
}


def spec(kind: str, **more: Any) -> FixedAlignment | PICO | AdaFTR:
    cls = {"fixed": FixedAlignment, "pico": PICO, "adaftr": AdaFTR}[KINDS[kind]["kind"]]
    return cls(**(KINDS[kind] | more))


def outputs(count: int, tasks: int = 2, width: int = 5, seed: int = 1) -> Outputs:
    """Leaves that a gradient is taken of."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    h = tuple(leaf(count, width) for _ in range(tasks))
    aids = TrainingOutputs(h, leaf(count, tasks - 1), None)
    return Outputs(leaf(count, 3), h, leaf(count, tasks), training=aids)


def leaves(given: Outputs) -> list[Tensor]:
    return [*given.representations, given.training.relatedness_BU]


def plain(
    found: AlignmentLoss, given: Outputs, batch: Batch, chosen: Tensor, labels: tuple[str, ...] = LABELS
) -> Tensor:
    """The definition, with B x B matrices. `chosen`: the rows that may be negatives."""
    weight = batch.weight_B / batch.weight_B.sum()
    logits = given.training.relatedness_BU
    taus = torch.full_like(logits, getattr(found.spec, "temperature", 0))
    used = logits
    if getattr(found.spec, "standardise", False):
        mean = (weight[:, None] * used).sum(0)
        used = (used - mean) / ((weight[:, None] * (used - mean) ** 2).sum(0) + 1e-12).sqrt()
    if not isinstance(found.spec, FixedAlignment):
        low, high = found.spec.temperatures
        taus = low + (high - low) * (1 - torch.sigmoid(used))
    losses = []
    for t, s in found.ordered:
        tau = taus[:, found.pairs.index((min(t, s), max(t, s)))][:, None]
        h, k = given.representations[t], given.representations[s]
        cosines = (h @ k.T) / h.norm(dim=1)[:, None] / k.norm(dim=1)[None, :]
        powers = (cosines / tau).exp()
        own = torch.eye(len(h), dtype=torch.bool)
        others = torch.where(own | ~chosen[None, :], 0.0, powers).sum(1)
        losses.append((weight * -(powers.diagonal() / (powers.diagonal() + others)).log()).sum())
    terms = [torch.stack(losses).mean()]
    r = torch.sigmoid(logits)
    if found.teacher is not None:
        clicked = batch.weight_B * batch.labels_BT[:, 0]
        y = batch.labels_BT[:, 1]
        terms.append(-(clicked * (y * r[:, 0].log() + (1 - y) * (1 - r[:, 0]).log())).sum() / clicked.sum())
    if "prior" in found.names:
        p = found.spec.prior
        kl = r * (r / p).log() + (1 - r) * ((1 - r) / (1 - p)).log()
        terms.append((weight[:, None] * kl).sum() / kl.shape[1])
    return torch.stack(terms)


def ours(found: AlignmentLoss, given: Outputs, batch: Batch) -> Tensor:
    return found.shares(given, batch, batch.weight_B.sum(), found.row_weights(batch).sum(0), OneRank())


def candidates(found: AlignmentLoss, batch: Batch) -> Tensor:
    """(B,) bool: the rows that a step may take as negatives."""
    negatives = found.negatives(batch, OneRank())
    if negatives.place_K is None:
        return negatives.valid_M > 0
    chosen = torch.zeros(len(batch.weight_B), dtype=torch.bool)
    chosen[negatives.place_K] = negatives.valid_M > 0
    return chosen


@pytest.mark.parametrize(("kind", "negatives"), list(product(KINDS, ["all", "sampled"])))
def test_the_loss_and_its_gradients_are_the_formula(kind: str, negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients to 1e-12, in blocks of a few rows, the last block smaller, with rows of weight 0."""
    monkeypatch.setitem(kernel.BLOCK, "cpu", 8 * 37 * 4)
    found = AlignmentLoss.of(spec(kind, negatives=negatives, num_negatives=11), LABELS, seed=5)
    batch, given = rows(37, dead=6), outputs(37)
    chosen = candidates(found, batch)
    assert chosen.sum() == (31 if negatives == "all" else 11) and not chosen[31:].any()
    mine, truth = ours(found, given, batch), plain(found, given, batch, chosen)
    factors = torch.tensor(found.factors(3), dtype=torch.float64)
    moved = [x for x in leaves(given) if kind != "fixed" or x is not given.training.relatedness_BU]
    gradients = [torch.autograd.grad((terms * factors).sum(), moved) for terms in (mine, truth)]
    worst = max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))
    print(f"{kind}, {negatives}: {found.names} differ by {(mine - truth).abs().max():.1e}, gradients by {worst:.1e}")
    assert len(mine) == len(found.names) and (mine - truth).abs().max() < 1e-12
    assert worst < 1e-12 and all(g.abs().max() > 1e-5 for g in gradients[0])


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
def test_gradcheck(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All inputs of two pairs; candidates without weight; anchors that are candidates themselves, and others."""
    monkeypatch.setitem(kernel.BLOCK, "cpu", block)
    draw = torch.Generator().manual_seed(2)
    sizes = (5, 3), (5, 3), (7, 3), (7, 3)
    inputs = [torch.randn(*s, generator=draw, dtype=torch.float64).requires_grad_() for s in sizes]
    inverse = (1 + torch.rand(5, 2, generator=draw, dtype=torch.float64)).requires_grad_()
    share = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3], dtype=torch.float64)
    valid, own = torch.tensor([1.0, 1, 0, 1, 1, 0, 1]).double(), torch.tensor([3, -1, 0, 6, -1])

    def loss(h: Tensor, k: Tensor, c: Tensor, d: Tensor, inverse: Tensor) -> Tensor:
        return contrast([h, None, k], [unit(c), None, unit(d)], inverse, share, valid, own, [(0, 2, 0), (2, 0, 1)])

    assert torch.autograd.gradcheck(loss, (*inputs, inverse))


def test_three_tasks_and_chosen_pairs() -> None:
    """Neighbours both ways unless pairs are named; each unordered pair has a temperature of its own."""
    labels = ("view", "click", "buy")
    batch, given = rows(20, tasks=3), outputs(20, tasks=3)
    for pairs, ordered in ((None, ((0, 1), (1, 0), (1, 2), (2, 1))), ((("buy", "view"),), ((2, 0),))):
        found = AlignmentLoss.of(spec("pico", pairs=pairs, negatives="all"), labels, seed=5)
        assert found.ordered == ordered
        every = torch.ones(20, dtype=torch.bool)
        torch.testing.assert_close(ours(found, given, batch), plain(found, given, batch, every), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "negatives"), list(product(KINDS, ["all", "sampled"])))
def test_padding_changes_nothing(kind: str, negatives: str) -> None:
    """Rows of weight 0 behind the others: neither the loss nor a gradient moves by a bit that matters."""
    found = AlignmentLoss.of(spec(kind, negatives=negatives, num_negatives=9), LABELS, seed=5)
    given = outputs(30)
    h = tuple(h[:24] for h in given.representations)
    aids = TrainingOutputs(h, given.training.relatedness_BU[:24], None)
    short = Outputs(given.shared_BI[:24], h, given.logits_BT[:24], training=aids)
    whole, part = rows(30, dead=6), rows(30)
    assert whole.weight_B[:24].tolist() == part.weight_B[:24].tolist()
    part = Batch(
        part.step, part.slots_B[:24], part.ids, part.dense_BD[:24], part.labels_BT[:24], part.weight_B[:24], 0, 0
    )
    padded, unpadded = ours(found, given, whole), ours(found, short, part)
    torch.testing.assert_close(padded, unpadded, rtol=0, atol=1e-14)
    moved = given.representations if kind == "fixed" else leaves(given)
    gradients = torch.autograd.grad(padded.sum(), moved)
    for mine, truth in zip(gradients, torch.autograd.grad(unpadded.sum(), moved), strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-14)
        assert (mine[24:] == 0).all()


def test_an_empty_batch_is_an_exact_zero() -> None:
    for kind in KINDS:
        found, given = AlignmentLoss.of(spec(kind, num_negatives=9), LABELS, seed=5), outputs(12)
        terms = ours(found, given, rows(12, dead=12))
        assert terms.tolist() == [0.0] * len(found.names)
        for h in torch.autograd.grad(terms.sum(), given.representations):
            assert (h == 0).all()


def test_the_ends_of_the_range_stay_finite() -> None:
    """Temperature 0.02 with equal, opposite and vanished representations, in float32."""
    h = torch.randn(64, 8)
    for k in (h, -h, torch.zeros(64, 8), h * 1e-20, h * 1e15):
        a, b = h.clone().requires_grad_(), k.clone().requires_grad_()
        inverse, share = torch.full((64, 1), 50.0, requires_grad=True), torch.full((64,), 1 / 64)
        rows = torch.ones(64), torch.arange(64)
        loss = contrast([a, b], [None, unit(b)], inverse, share, *rows, [(0, 1, 0)])
        loss.backward()
        assert loss.isfinite() and loss >= -1e-4
        assert all(x.grad.isfinite().all() for x in (a, b, inverse))


def test_float32_is_close_to_float64() -> None:
    """2,000 rows, all of them negatives, tau from 0.05."""
    found = AlignmentLoss.of(spec("adaftr", negatives="all"), LABELS, seed=5)
    batch, given = rows(2000), outputs(2000, width=16)

    def single(x: Tensor) -> Tensor:
        return x.detach().float().requires_grad_()

    h = tuple(map(single, given.representations))
    r = single(given.training.relatedness_BU)
    low = Outputs(single(given.shared_BI), h, single(given.logits_BT), training=TrainingOutputs(h, r, None))
    small = Batch(3, batch.slots_B, batch.ids, batch.dense_BD, batch.labels_BT.float(), batch.weight_B.float(), 0, 0)
    truth, mine = ours(found, given, batch), ours(found, low, small)
    gap = ((mine - truth) / truth).abs().max().item()
    print(f"relative difference {gap:.1e}")
    assert gap < 1e-6


class Largest(TorchDispatchMode):
    """The most bytes that one operator gave back."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


def test_no_matrix_of_rows_by_rows_ever_exists() -> None:
    """8,192 rows: 256 MiB would be one. Nothing is larger than a block."""
    found = AlignmentLoss.of(spec("fixed", negatives="all"), LABELS, seed=5)
    h = tuple(torch.randn(8192, 4).requires_grad_() for _ in range(2))
    batch = rows(8192)
    batch = Batch(3, batch.slots_B, batch.ids, batch.dense_BD, batch.labels_BT.float(), batch.weight_B.float(), 0, 0)
    with Largest() as seen:
        ours(found, Outputs(h[0], h, h[0][:, :2]), batch).sum().backward()
    print(f"largest: {seen.bytes / 2**20:.1f} MiB")
    assert seen.bytes <= kernel.BLOCK["cpu"]


def draws(count: int, steps: range, seed: int = 5, dead: int = 0) -> Iterator[Any]:
    for step in steps:
        batch = rows(64, step=step, dead=dead)
        yield sampled_rows(count, seed, (batch.weight_B > 0).double(), batch)


def test_a_sample_is_a_function_of_seed_and_step() -> None:
    first = [d.place_K.tolist() for d in draws(9, range(1, 5))]
    assert first == [d.place_K.tolist() for d in draws(9, range(1, 5))]
    assert all(len(set(chosen)) == 9 for chosen in first)
    assert len({tuple(chosen) for chosen in first}) == 4
    assert first != [d.place_K.tolist() for d in draws(9, range(1, 5), seed=6)]


def test_every_row_is_as_likely_as_the_next() -> None:
    """1,000 draws of 16 of 60 live rows: each 267 +- 14 times; never a row without weight, unless none is left."""
    times = torch.zeros(64)
    for drawn in draws(16, range(1000), dead=4):
        times[drawn.place_K] += 1
        assert (drawn.valid_M == 1).all()
        assert all(drawn.own_B[row] == k for k, row in enumerate(drawn.place_K.tolist()))
        assert (drawn.own_B >= 0).sum() == 16
    print(f"{times[:60].min():.0f} to {times[:60].max():.0f} times")
    assert times[60:].sum() == 0 and times[:60].min() > 267 - 70 and times[:60].max() < 267 + 70
    assert next(draws(50, range(1), dead=40)).valid_M.sum() == 24


def test_stop_gradient_leaves_the_other_task_alone() -> None:
    found = AlignmentLoss.of(spec("fixed", stop_gradient=True, pairs=(("click", "conversion"),)), LABELS, seed=5)
    given = outputs(30)
    anchor, other = torch.autograd.grad(ours(found, given, rows(30)).sum(), given.representations, allow_unused=True)
    assert anchor.abs().max() > 0 and (other is None or (other == 0).all())


def test_standardised_logits_have_mean_0_and_variance_1() -> None:
    """And a common shift or scale, which is where a collapse would go, has no gradient."""
    share = rows(50, dead=5).weight_B[:, None]
    share = share / share.sum()
    logits = (torch.randn(50, 2, dtype=torch.float64) * 3 + 7).requires_grad_()
    made = standardised(logits, share, OneRank())
    mean = (share * made).sum(0)
    assert mean.abs().max() < 1e-12 and ((share * made**2).sum(0) - 1).abs().max() < 1e-12
    [gradient] = torch.autograd.grad((made * torch.randn(50, 2, dtype=torch.float64)).sum(), logits)
    assert gradient.sum(0).abs().max() < 1e-9 and (gradient * logits).sum(0).abs().max() < 1e-9
    same = standardised(torch.full((50, 2), 3.0, dtype=torch.float64), share, OneRank())
    assert (same == 0).all()


def test_warm_up_and_weights() -> None:
    found = AlignmentLoss.of(spec("adaftr", weight=0.5, warmup_steps=4, target_weight=2.0, prior_weight=0.1), LABELS, 5)
    assert found.names == ("align", "relatedness", "prior")
    assert found.factors(1) == pytest.approx((0.125, 0.25, 0.0125))
    assert found.factors(4) == found.factors(400) == pytest.approx((0.5, 1.0, 0.05))
