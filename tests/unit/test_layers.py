"""Layers against the formulas written out, and dropout that no world size can change."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_mtl.config import CrossInteraction, DotInteraction, NoInteraction
from dist_mtl.model.layers import MLP, Cross, Dot, Noise, ParallelMLP, dropout
from dist_mtl.model.mtl import Interaction, MultiTaskModel
from dist_mtl.model.tower import Tower
from tests.support import samples


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def expert(model: ParallelMLP, index: int, inputs: Tensor) -> Tensor:
    """Expert `index` of a ParallelMLP as a plain MLP, from slices of its weights."""
    [first] = model.first.layers
    width = first.out_features // len(model.rest)
    rows = slice(index * width, (index + 1) * width)
    hidden = functional.relu(functional.linear(inputs, first.weight[rows], first.bias[rows]))
    for layer in model.rest[index].layers:
        hidden = functional.relu(layer(hidden))
    return hidden


@pytest.mark.parametrize("widths", [(8,), (8, 4), (8, 6, 5)])
def test_parallel_mlps_are_separate_mlps(widths: tuple[int, ...]) -> None:
    model = ParallelMLP(3, 10, widths)
    outputs = model(x(7, 10))
    assert len(outputs) == 3 and model.outputs == widths[-1]
    for e, output in enumerate(outputs):
        torch.testing.assert_close(output, expert(model, e, x(7, 10)))
    # Independent: the gradient of one output reaches the weights of no other.
    outputs[1].sum().backward()
    [first] = model.first.layers
    moved = first.weight.grad.view(3, -1).abs().sum(1)
    assert moved[0] == moved[2] == 0 < moved[1]


def test_dot_is_every_pair_once() -> None:
    vectors = x(5, 4, 6)
    pairs = Dot(4)(vectors)
    expected = [(vectors[:, i] * vectors[:, j]).sum(1) for i in range(4) for j in range(i)]
    torch.testing.assert_close(pairs, torch.stack(expected, 1))
    assert Dot(4).outputs == 6


@pytest.mark.parametrize("rank", [None, 3])
def test_cross_is_its_formula(rank: int | None) -> None:
    model, inputs = Cross(6, 2, rank), x(4, 6)
    current = inputs
    for mixer in model.mixers:
        weight, bias = (
            (mixer.weight, mixer.bias) if rank is None else (mixer[1].weight @ mixer[0].weight, mixer[1].bias)
        )
        current = inputs * (current @ weight.T + bias) + current
    torch.testing.assert_close(model(inputs), current)


def test_interactions_keep_the_order_of_their_inputs() -> None:
    """dot: vectors, then their products; none: embeddings, then numbers; zeros up to a whole number of cache lines."""
    pooled, dense = x(3, 16), x(3, 5)
    plain = Interaction(NoInteraction(), (8, 8), 5)
    out = plain(pooled, dense)
    assert out.shape[1] == plain.outputs and plain.outputs % 16 == 0
    assert torch.equal(out[:, :21], torch.cat([pooled, dense], 1)) and (out[:, 21:] == 0).all()

    dot = Interaction(DotInteraction(kind="dot", bottom=(7,)), (8, 8), 5)
    bottom = dot.bottom(dense)
    first, second = pooled[:, :8], pooled[:, 8:]
    products = [(second * first).sum(1), (bottom * first).sum(1), (bottom * second).sum(1)]
    expected = torch.cat([pooled, bottom, torch.stack(products, 1)], 1)
    torch.testing.assert_close(dot(pooled, dense)[:, :27], expected)

    cross = Interaction(CrossInteraction(kind="dcn"), (8, 8), 5)
    torch.testing.assert_close(cross(pooled, dense)[:, :21], cross.cross(torch.cat([pooled, dense], 1)))
    for made in (plain, dot, cross):
        assert made(pooled, dense).shape[1] == made.outputs


def test_a_tower_gives_its_last_hidden_layer() -> None:
    tower = Tower(6, (5, 4), 0.0)
    hidden, logit = tower(x(3, 6), None)
    assert hidden.shape == (3, 4) and logit.shape == (3,)
    torch.testing.assert_close(logit, functional.linear(hidden, tower.logit.weight, tower.logit.bias)[:, 0])
    assert (hidden >= 0).all()


def keep(
    step: int = 1, slots: Tensor | None = None, seed: int = 1, width: int = 500, rate: float = 0.3, layer: int = 1
) -> Tensor:
    """The mask of a layer."""
    noise = Noise(seed, step, torch.arange(400) if slots is None else slots)
    for _ in range(layer - 1):
        noise.keep(width, rate)
    return noise.keep(width, rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_its_share(rate: float) -> None:
    """200,000 units, within 5 sigma; by row and by unit as well."""
    kept = keep(rate=rate).double()
    spread = math.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) <= 5 * spread / math.sqrt(kept.numel())
    assert (kept.mean(0) - (1 - rate)).abs().max() <= 5.5 * spread / math.sqrt(400)
    assert (kept.mean(1) - (1 - rate)).abs().max() <= 5.5 * spread / math.sqrt(500)


def test_masks_follow_seed_step_layer_slot_and_unit_and_nothing_else() -> None:
    first = keep()
    assert torch.equal(first, keep())
    for other in (keep(step=2), keep(seed=2), keep(layer=2), keep(slots=torch.arange(400) + 400)):
        agreement = (first == other).double().mean()
        assert abs(agreement - 0.58) < 0.01  # 0.7^2 + 0.3^2: independent
    parts = [keep(slots=part) for part in torch.arange(400).chunk(4)]  # four ranks
    assert torch.equal(torch.cat(parts), first)
    assert torch.equal(keep(width=100), first[:, :100])
    rows = first.double() - 0.7
    assert (rows @ rows.T / 500 - torch.eye(400) * 0.21).abs().max() < 0.06  # rows do not resemble each other


def test_inverted_dropout() -> None:
    ones = torch.ones(400, 500)
    noise = Noise(1, 1, torch.arange(400))
    out = dropout(ones, 0.3, noise)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert torch.equal(out > 0, keep())
    assert dropout(ones, 0.3, None) is ones and dropout(ones, 0.0, noise) is ones


def test_dropout_sits_behind_every_hidden_layer() -> None:
    model = MLP(10, (64, 64), rate=0.5)
    inputs = x(200, 10)
    assert not torch.equal(model(inputs, Noise(1, 1, torch.arange(200))), model(inputs, Noise(1, 2, torch.arange(200))))
    hidden = functional.relu(model.layers[0](inputs)) * Noise(1, 1, torch.arange(200)).keep(64, 0.5) * 2
    noise = Noise(1, 1, torch.arange(200))
    noise.layer = 1
    expected = functional.relu(model.layers[1](hidden)) * noise.keep(64, 0.5) * 2
    torch.testing.assert_close(model(inputs, Noise(1, 1, torch.arange(200))), expected)


def test_dense_weights_depend_on_the_configuration_alone() -> None:
    """Not on torch's generator, which they leave as it was."""
    config = samples.config("x")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = MultiTaskModel(config, torch.device("meta"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = MultiTaskModel(config, torch.device("meta"))
    other = MultiTaskModel(samples.config("x", "seed=2"), torch.device("meta"))
    names = [n for n, p in first.named_parameters() if not p.is_meta]
    get = [dict(m.named_parameters()) for m in (first, second, other)]
    assert len(names) > 10 and all(torch.equal(get[0][n], get[1][n]) for n in names)
    assert not any(torch.equal(get[0][n], get[2][n]) for n in names)
    assert all(p.is_meta for n, p in first.named_parameters() if "embedding_bags" in n)
    assert isinstance(first.towers, nn.ModuleList) and len(first.towers) == 2
