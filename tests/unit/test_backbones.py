"""Backbones against textbook implementations with the same weights, for one task, two and four."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from dist_mtl.config import AITM, PLE, MMoE, OMoE, SharedBottom, SingleTask
from dist_mtl.model.backbone import build_backbone
from dist_mtl.model.layers import Noise, ParallelMLP

INPUTS, HIDDEN, ROWS = 10, (8, 6), 7
SPECS = [
    SingleTask(kind="single_task", hidden=HIDDEN),
    SharedBottom(kind="shared_bottom", hidden=HIDDEN),
    OMoE(kind="omoe", experts=3, hidden=HIDDEN),
    MMoE(kind="mmoe", experts=3, hidden=HIDDEN),
    PLE(kind="ple", levels=1, task_experts=2, shared_experts=1, hidden=HIDDEN),
    PLE(kind="ple", levels=3, task_experts=1, shared_experts=2, hidden=HIDDEN),
    AITM(kind="aitm", hidden=HIDDEN),
]
IDS = ["single_task", "shared_bottom", "omoe", "mmoe", "cgc", "ple", "aitm"]
TASKS = (1, 2, 4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


# ----------------------------------------------------------------------------------------------- the textbook, in loops
def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def experts_of(model: ParallelMLP) -> list[nn.Module]:
    """The MLPs of a `ParallelMLP`, each on its own."""
    [first] = model.first.layers
    count = len(model.rest)
    parts = zip(first.weight.chunk(count), first.bias.chunk(count), model.rest, strict=True)
    made = []
    for weight, bias, rest in parts:
        layers = [linear(weight, bias), nn.ReLU()]
        for layer in rest.layers:
            layers += [linear(layer.weight, layer.bias), nn.ReLU()]
        made.append(nn.Sequential(*layers))
    return made


def mixture(gate: nn.Linear, at: Tensor, experts: list[nn.Module], inputs: list[Tensor]) -> Tensor:
    """sum_e softmax(gate(at))_e expert_e(input_e)."""
    weights = torch.softmax(gate(at), dim=1)
    return sum(weights[:, e : e + 1] * expert(inputs[e]) for e, expert in enumerate(experts))


def textbook_mixture(model: nn.Module, inputs: Tensor, num_tasks: int) -> list[Tensor]:
    experts = experts_of(model.experts)
    gates = [linear(part) for part in model.gates.weight.chunk(model.num_gates)]
    return [mixture(gates[t % len(gates)], inputs, experts, [inputs] * len(experts)) for t in range(num_tasks)]


def textbook_ple(model: nn.Module, spec: PLE, inputs: Tensor, num_tasks: int) -> list[Tensor]:
    """Group by group, gate by gate; group `num_tasks` is the shared one."""
    groups = range(num_tasks + 1)
    current = [inputs] * (num_tasks + 1)
    sizes = [spec.task_experts] * num_tasks + [spec.shared_experts]
    for level in model.levels:
        flat = [e for group in level.experts for e in experts_of(group)]
        starts = [sum(sizes[:g]) for g in groups]
        owned = [flat[s : s + n] for s, n in zip(starts, sizes, strict=True)]
        weights = torch.cat([gate.weight for gate in level.gates]) if len(level.gates) > 1 else level.gates[0].weight
        following, place = [], 0
        for g in groups:
            reached = [*groups] if g == num_tasks else [g, num_tasks]
            size = sum(sizes[h] for h in reached)
            if place == len(weights):
                break  # the last level has no shared gate
            gate = linear(weights[place : place + size])
            place += size
            experts = [e for h in reached for e in owned[h]]
            following.append(mixture(gate, current[g], experts, [current[h] for h in reached for _ in owned[h]]))
        assert place == len(weights)
        current = following
    return current


def textbook_aitm(model: nn.Module, inputs: Tensor, num_tasks: int) -> list[Tensor]:
    """z_t = w_p V p + w_q V q, w = softmax of (K u) . (Q u) / sqrt(width), p = ReLU(G z_{t-1} + b), row by row."""
    own = [expert(inputs) for expert in experts_of(model.bottoms)]
    found = [own[0]]
    for t in range(1, num_tasks):
        transfer = model.transfers[t - 1]
        [info] = transfer.info.layers
        value, key, query = transfer.projections.weight.chunk(3)
        rows = []
        for row in range(len(inputs)):
            told = torch.relu(info.weight @ found[-1][row] + info.bias)
            pair = (told, own[t][row])
            scores = torch.stack([(key @ u) @ (query @ u) / len(u) ** 0.5 for u in pair])
            w = torch.softmax(scores, dim=0)
            rows.append(w[0] * (value @ pair[0]) + w[1] * (value @ pair[1]))
        found.append(torch.stack(rows))
    return found


@pytest.mark.parametrize("num_tasks", TASKS)
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_a_backbone_is_its_textbook(spec: MMoE, num_tasks: int) -> None:
    model = build_backbone(spec, INPUTS, num_tasks, 0.0).double()
    inputs = x(ROWS, INPUTS).double()
    match spec:
        case SingleTask():
            expected = [expert(inputs) for expert in experts_of(model.bottoms)]
        case SharedBottom():
            expected = [model.bottom(inputs)] * num_tasks
        case OMoE() | MMoE():
            expected = textbook_mixture(model, inputs, num_tasks)
        case PLE():
            expected = textbook_ple(model, spec, inputs, num_tasks)
        case AITM():
            expected = textbook_aitm(model, inputs, num_tasks)
    found = model(inputs, None).by_task
    assert len(found) == len(expected) == num_tasks and model.outputs == HIDDEN[-1]
    difference = max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
    print(f"{spec.kind}, {num_tasks} labels: {difference:.1e}")
    assert difference < 1e-6
    assert max(a.abs().max().item() for a in found) > 0.01


@pytest.mark.parametrize("num_tasks", TASKS)
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_every_weight_of_a_backbone_has_a_gradient(spec: MMoE, num_tasks: int) -> None:
    model = build_backbone(spec, INPUTS, num_tasks, 0.0)
    found = model(x(400, INPUTS), None).by_task
    assert [tuple(task.shape) for task in found] == [(400, model.outputs)] * num_tasks
    sum(((t + 1) * task.square()).sum() for t, task in enumerate(found)).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_a_task_expert_learns_from_its_own_task_alone() -> None:
    """And its gate; a shared expert from every task. One level: at the next ones the shared gate carries it further."""
    spec = PLE(kind="ple", levels=1, task_experts=2, shared_experts=1, hidden=HIDDEN)
    model = build_backbone(spec, INPUTS, 3, 0.0)
    model(x(400, INPUTS), None).by_task[1].sum().backward()
    [level] = model.levels
    [experts] = level.experts
    moved = [bool(rest.layers[0].weight.grad is not None and rest.layers[0].weight.grad.any()) for rest in experts.rest]
    assert moved == [False, False, True, True, False, False, True]
    [gate] = level.gates
    assert [bool(part.any()) for part in gate.weight.grad.chunk(3)] == [False, True, False]


def test_information_runs_down_the_funnel_only() -> None:
    """AITM: task t learns through the bottoms of tasks 0 ... t."""
    model = build_backbone(AITM(kind="aitm", hidden=HIDDEN), INPUTS, 4, 0.0)
    for t in range(4):
        model.zero_grad()
        model(x(400, INPUTS), None).by_task[t].sum().backward()
        [first] = model.bottoms.first.layers
        moved = [bool(part.any()) for part in first.weight.grad.chunk(4)]
        assert moved == [s <= t for s in range(4)]


def test_a_saturated_transfer_is_its_textbook_without_denormals() -> None:
    """Scores of hundreds: the weight that vanishes stays where float32 is fast; the rest does not see it."""
    model = build_backbone(AITM(kind="aitm", hidden=HIDDEN), INPUTS, 2, 0.0).double()
    inputs = x(200, INPUTS).double()
    with torch.no_grad():
        model.transfers[0].projections.weight[HIDDEN[-1] :] *= 100  # keys and queries
    found, expected = model(inputs, None), textbook_aitm(model, inputs, 2)
    weights = found.gates["transfer"]
    difference = (found.by_task[1] - expected[1]).abs().max().item()
    print(f"least weight {weights.min().item():.1e}, difference {difference:.1e}")
    assert 1e-7 < weights.min() < 1e-6 and difference < 1e-6


@pytest.mark.parametrize("num_tasks", TASKS)
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_gates_are_distributions(spec: MMoE, num_tasks: int) -> None:
    """(B, gates, experts) by name; 0 for an expert beyond a gate's reach, so that load and entropy need no mask."""
    found = build_backbone(spec, INPUTS, num_tasks, 0.0)(x(ROWS, INPUTS), None).gates
    gates, transfers = num_tasks, num_tasks - 1
    shapes = {
        "single_task": {},
        "shared_bottom": {},
        "omoe": {"experts": (1, 3)},
        "mmoe": {"experts": (gates, 3)},
        "cgc": {"level1": (gates, 2 * gates + 1)},
        "ple": {"level1": (gates + 1, gates + 2), "level2": (gates + 1, gates + 2), "level3": (gates, gates + 2)},
        "aitm": {"transfer": (transfers, 2)} if transfers else {},
    }[IDS[SPECS.index(spec)]]
    assert {name: tuple(gate.shape[1:]) for name, gate in found.items()} == shapes
    for gate in found.values():
        torch.testing.assert_close(gate.sum(-1), torch.ones(gate.shape[:-1]))
    if spec.kind == "ple":
        count = spec.task_experts
        for gate, t, s in product(found.values(), range(num_tasks), range(num_tasks)):
            part = gate[:, t, s * count : (s + 1) * count]
            assert (part > 0).all() if s == t else (part == 0).all()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_dropout_of_a_row_does_not_depend_on_its_neighbours(spec: MMoE) -> None:
    model, inputs, slots = build_backbone(spec, INPUTS, 3, 0.4), x(ROWS, INPUTS), torch.arange(ROWS)
    whole = model(inputs, Noise(1, 1, slots.clone())).by_task
    parts = [model(inputs[p], Noise(1, 1, slots[p])).by_task for p in (slice(0, 3), slice(3, None))]
    for task, split in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(task, torch.cat(split))
    assert not torch.allclose(whole[0], model(inputs, None).by_task[0])
