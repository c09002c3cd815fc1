"""Down-sampled logs: the corrected probabilities are those of all traffic, exactly, at every level of the funnel."""

import numpy as np
import pytest
import torch

from dist_mtl.model.heads import Funnel, funnel
from dist_mtl.model.sampling_correction import undo_sampling


def sampled(conditional_BT: torch.Tensor, kept: tuple[float, ...]) -> torch.Tensor:
    """By the definition: the conditional probabilities among the rows that are left after dropping by level."""
    reach = torch.cat([torch.ones_like(conditional_BT[:, :1]), conditional_BT.cumprod(dim=1)], dim=1)
    stops = torch.cat([reach[:, :-1] * (1 - conditional_BT), reach[:, -1:]], dim=1)
    left = stops * torch.tensor([*kept, 1.0], dtype=torch.float64)
    tails = left.flip(1).cumsum(dim=1).flip(1)
    return tails[:, 1:] / tails[:, :-1]


@pytest.mark.parametrize("kept", [(0.1,), (0.05, 1.0), (0.1, 0.3), (1.0, 0.2, 0.5), (1.0, 1.0)])
def test_it_inverts_the_sampling(kept: tuple[float, ...]) -> None:
    draw = np.random.default_rng(0)
    truth_BT = torch.from_numpy(10 ** draw.uniform(-5, -0.05, (1_000, len(kept))))
    logged_BT = sampled(truth_BT, kept)
    found = undo_sampling(Funnel(logged_BT.log().cumsum(dim=1), logged_BT.log()), kept)
    torch.testing.assert_close(found.conditional_BT.exp(), truth_BT, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.joint_BT.exp(), truth_BT.cumprod(dim=1), rtol=1e-9, atol=0)


def test_one_task_is_the_published_formula() -> None:
    """He et al. 2014: q = p / (p + (1 - p) / w)."""
    p, w = torch.tensor([[0.3], [0.02], [0.9]], dtype=torch.float64), 0.025
    found = undo_sampling(Funnel(p.log(), p.log()), (w,)).joint_BT.exp()
    torch.testing.assert_close(found, p / (p + (1 - p) / w))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[90.0, 90.0], [-90.0, -90.0], [0.0, 90.0], [90.0, -90.0]])
    for head in ("ctcvr", "esmm"):
        found = undo_sampling(funnel(logits, head), (0.01, 0.1))
        assert found.joint_BT.isfinite().all() and found.conditional_BT.isfinite().all()
        assert (found.joint_BT < 0).all() and (found.conditional_BT < 0).all()


def test_counted_on_drawn_rows() -> None:
    """Rows are drawn, dropped, counted, corrected: the rates of all rows come back."""
    draw, kept = np.random.default_rng(1), (0.1, 0.5)
    click = draw.random(2_000_000) < 0.05
    conversion = click & (draw.random(2_000_000) < 0.1)
    level = click.astype(int) + conversion
    left = draw.random(len(level)) < np.array([*kept, 1.0])[level]
    ctr, cvr = click[left].mean(), conversion[left & click].mean()
    logs = torch.tensor([[ctr, cvr]], dtype=torch.float64).log()
    found = undo_sampling(Funnel(logs.cumsum(dim=1), logs), kept).conditional_BT.exp()[0].tolist()
    print(
        f"CTR {ctr:.4f} -> {found[0]:.5f} of {click.mean():.5f}; "
        f"CVR {cvr:.4f} -> {found[1]:.5f} of {conversion[click].mean():.5f}"
    )
    assert found == pytest.approx([click.mean(), conversion[click].mean()], rel=0.03)
