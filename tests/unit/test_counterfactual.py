"""ESCM2 against the formulas written out in float64, and unbiased where clicks choose which conversions are seen."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.config import Counterfactual
from dist_mtl.model.counterfactual import counterfactual_losses, doubly_robust, evidence, ips

CLIP = 0.05


def sample(rows: int = 60, labels: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, imputed logits, labels of a funnel, weights; float64."""
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(rows, labels, generator=draw, dtype=torch.float64) * 2
    imputed = torch.randn(rows, labels - 1, generator=draw, dtype=torch.float64)
    seen = (torch.rand(rows, labels, generator=draw) < 0.6).double().cumprod(1)
    return logits, imputed, seen, torch.randint(0, 3, (rows,), generator=draw).double()


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def plain(logits: Tensor, imputed: Tensor, labels: Tensor, weights: Tensor) -> tuple[list, list, list]:
    """ips, dr and imputation risks by the definitions: row by row, label by label, cross-entropies of probabilities."""

    def error(p: float, y: float) -> float:
        return -y * math.log(p) - (1 - y) * math.log(1 - p)

    z, guess, y, w = (t.tolist() for t in (logits, imputed, labels, weights))
    found = ([], [], [])
    for t in range(1, len(z[0])):
        sums = [0.0, 0.0, 0.0]
        for i in range(len(z)):
            q = max(math.prod(sigmoid(z[i][s]) for s in range(t)), CLIP)
            p, r, o = sigmoid(z[i][t]), sigmoid(guess[i][t - 1]), y[i][t - 1]
            true, imputed_error = error(p, y[i][t]), error(p, r)
            sums[0] += w[i] * o * true / q
            sums[1] += w[i] * (imputed_error + o * (true - imputed_error) / q)
            sums[2] += w[i] * o * (true - imputed_error) ** 2 / q
        for risks, total in zip(found, sums, strict=True):
            risks.append(total / sum(w))
    return found


@pytest.mark.parametrize("labels", [2, 4])
def test_both_estimators_are_their_formulas(labels: int) -> None:
    logits, imputed, seen, weights = sample(labels=labels)
    found = evidence(logits, seen, weights, weights.sum(), CLIP)
    ours = (ips(found), *doubly_robust(found, imputed))
    for name, mine, truth in zip(("ips", "dr", "imputation"), ours, plain(logits, imputed, seen, weights), strict=True):
        difference = (mine - torch.tensor(truth, dtype=torch.float64)).abs().max().item()
        print(f"{name}, {labels} labels: {difference:.1e} of {max(truth):.3f}")
        assert mine.shape == (labels - 1,) and difference < 1e-12
    both = counterfactual_losses(
        Counterfactual(kind="dr", weight=0.5, clip=CLIP), logits, imputed, seen, weights, weights.sum()
    )
    torch.testing.assert_close(both, 0.5 * (ours[1] + ours[2]))
    alone = counterfactual_losses(
        Counterfactual(kind="ips", weight=0.5, clip=CLIP), logits, None, seen, weights, weights.sum()
    )
    torch.testing.assert_close(alone, 0.5 * ours[0])


class World:
    """256 impressions whose conversion label exists for all of them, and is seen where clicked: not at random.

    A click is likely where a conversion is. `logits` predict the propensity exactly, and conversions badly.
    """

    def __init__(self, repeats: int = 2000) -> None:
        draw = torch.Generator().manual_seed(4)
        taste = torch.randn(256, generator=draw, dtype=torch.float64)
        click_logit = 1.5 * taste - 1
        self.repeats = repeats
        self.conversions = (torch.rand(256, generator=draw) < torch.sigmoid(2 * taste - 1)).double()
        self.truth = 2 * taste - 1
        self.logits = torch.stack([click_logit, 0.3 * taste - 2], 1)
        self.clicks = (torch.rand(repeats, 256, generator=draw) < torch.sigmoid(click_logit)).double()
        self.errors = functional.binary_cross_entropy_with_logits(self.logits[:, 1], self.conversions, reduction="none")
        self.risk = self.errors.mean().item()  # over all impressions, which is what an estimate is to find

    def naive(self) -> Tensor:
        """(repeats,): the mean error of the clicked."""
        return (self.clicks * self.errors).sum(1) / self.clicks.sum(1)

    def estimates(self, kind: str, click_logits: Tensor | None = None, imputed: Tensor | None = None) -> Tensor:
        """(repeats,): one estimate for each draw of the clicks."""
        logits = self.logits if click_logits is None else torch.stack([click_logits, self.logits[:, 1]], 1)
        made = []
        for clicks in self.clicks:
            labels = torch.stack([clicks, clicks * self.conversions], 1)
            found = evidence(logits, labels, torch.ones(256), torch.tensor(256.0), 1e-6)
            made.append(ips(found) if kind == "ips" else doubly_robust(found, imputed[:, None])[0])
        return torch.cat(made)


def bias(estimates: Tensor, truth: float) -> tuple[float, float]:
    """The bias and its standard error."""
    return (estimates.mean() - truth).item(), (estimates.std() / len(estimates) ** 0.5).item()


def test_unbiased_where_clicks_choose_what_is_seen() -> None:
    world = World()
    guess = torch.full((256,), -0.5, dtype=torch.float64)  # a constant: wrong for every row
    found = {
        "clicked rows alone": bias(world.naive(), world.risk),
        "ips": bias(world.estimates("ips"), world.risk),
        "dr, imputation wrong": bias(world.estimates("dr", imputed=guess), world.risk),
    }
    for name, (mean, error) in found.items():
        print(f"{name}: bias {mean:+.4f} +- {error:.4f} of {world.risk:.4f}")
    assert abs(found["clicked rows alone"][0]) > 20 * found["clicked rows alone"][1]
    for name in ("ips", "dr, imputation wrong"):
        assert abs(found[name][0]) < 4 * found[name][1], name


def test_doubly_robust_forgives_either_model() -> None:
    """Labels imputed exactly: no bias even with propensities far off, where ips fails. With their rate: less spread."""
    world = World(500)
    exact = (world.conversions * 2 - 1) * 40  # the label itself, as a logit
    wrong = torch.full((256,), -1.0, dtype=torch.float64)
    off, error = bias(world.estimates("ips", wrong), world.risk)
    robust = world.estimates("dr", wrong, exact)
    print(f"wrong propensities: ips off by {off:+.3f} +- {error:.3f}, dr by {(robust.mean() - world.risk).item():+.1e}")
    assert abs(off) > 10 * error
    assert (robust - world.risk).abs().max() < 1e-9
    rate = world.estimates("dr", imputed=world.truth)  # what a perfect model of the rate would impute
    spread = [world.estimates("ips").std().item(), rate.std().item()]
    print(f"spread of ips {spread[0]:.4f}, of dr with the true rate {spread[1]:.4f}")
    assert spread[1] < 0.9 * spread[0]


def test_gradients_reach_the_towers_they_are_meant_for() -> None:
    logits, imputed, seen, weights = sample()
    logits.requires_grad_()
    imputed.requires_grad_()
    found = evidence(logits, seen, weights, weights.sum(), CLIP)
    risk, own = doubly_robust(found, imputed)
    by_risk = torch.autograd.grad(risk.sum(), (logits, imputed), retain_graph=True, allow_unused=True)
    by_own = torch.autograd.grad(own.sum(), (logits, imputed), allow_unused=True)
    assert by_risk[1] is None and by_own[0] is None
    assert (by_risk[0][:, 0] == 0).all()  # the propensity is no way to lower the risk
    # d/dz = w [p - r + o (r - y) / q]: rows without a click teach, too, which ips and an imputed error can not do
    p, r = torch.sigmoid(logits[:, 1]), torch.sigmoid(imputed[:, 0])
    q = torch.sigmoid(logits[:, 0]).clamp(min=CLIP)
    expected = weights / weights.sum() * (p - r + seen[:, 0] * (r - seen[:, 1]) / q)
    torch.testing.assert_close(by_risk[0][:, 1], expected.detach())
    assert ((seen[:, 0] == 0) & (by_risk[0][:, 1] != 0)).sum() > 5


def losses(kind: str, logits: Tensor, imputed: Tensor, rows: tuple[Tensor, Tensor], total: Tensor) -> Tensor:
    return counterfactual_losses(Counterfactual(kind=kind, clip=CLIP), logits, imputed, *rows, total)


@pytest.mark.parametrize("kind", ["ips", "dr"])
def test_shares_of_ranks_add_up(kind: str) -> None:
    logits, imputed, seen, weights = sample()
    whole = losses(kind, logits, imputed, (seen, weights), weights.sum())
    parts = [
        losses(kind, logits[k], imputed[k], (seen[k], weights[k]), weights.sum()) for k in torch.arange(60).chunk(4)
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["ips", "dr"])
def test_no_click_and_no_weight(kind: str) -> None:
    """Every parameter gets a gradient; without a click `ips` is an exact zero, without weight both are."""
    logits, imputed, _, weights = (t.requires_grad_() if t.is_floating_point() else t for t in sample())
    for seen, weight in ((torch.zeros(60, 4), weights.detach()), (torch.ones(60, 4), torch.zeros(60))):
        found = losses(kind, logits, imputed, (seen.double(), weight.double()), weight.sum().double())
        gradients = torch.autograd.grad(found.sum(), (logits, imputed), allow_unused=True)
        assert gradients[0] is not None and (gradients[1] is not None) == (kind == "dr")
        if kind == "ips" or weight.sum() == 0:
            assert (found == 0).all() and (gradients[0] == 0).all()


@pytest.mark.parametrize("kind", ["ips", "dr"])
@pytest.mark.parametrize("size", [20.0, 90.0, 1e4])
def test_extreme_logits_stay_finite(kind: str, size: float) -> None:
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        logits = (torch.tensor([signs]) * size).requires_grad_()
        imputed = torch.tensor([[-size]]).requires_grad_()
        rows = (torch.ones(1, 2), torch.ones(1))
        found = losses(kind, logits, imputed, rows, torch.tensor(1.0)).sum()
        found.backward()
        assert found.isfinite() and logits.grad.isfinite().all()


def test_a_click_weighs_at_most_one_over_clip() -> None:
    logits = torch.tensor([[-30.0, 0.0]])
    found = evidence(logits, torch.ones(1, 2), torch.ones(1), torch.tensor(1.0), 0.01)
    assert found.inverse_BC.item() == pytest.approx(100)
    assert ips(found).item() == pytest.approx(100 * math.log(2))
