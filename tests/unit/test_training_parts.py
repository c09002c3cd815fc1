"""What a model has for training only: teachers, their probe, no cost in scoring; mistakes of its sections are told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError
from dist_mtl.model.loss import Objective
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.model.ranks import OneRank
from dist_mtl.model.relatedness import Probe, Teacher, training_parts
from tests.support import samples
from tests.support.funnel_rows import LABELS, rows


@pytest.fixture(scope="module")
def some_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Batch]:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 200)
    [batch, *_] = Dataset.open(str(folder / "train"), samples.config(folder), shuffle=True).batches(0, 1, 0, 1)
    return folder, batch


# ------------------------------------------------------------------------------------------------------------- teachers
def test_targets() -> None:
    batch = rows(30, dead=3)
    click, conversion = batch.labels_BT.unbind(1)
    agreement = Teacher("agreement", 1, ((0, 1),))
    assert torch.equal(agreement.targets(batch.labels_BT, None)[:, 0], (click == conversion).double())
    assert torch.equal(agreement.row_weights(batch)[:, 0], batch.weight_B)
    given_click = Teacher("conversion_given_click", 1, ((0, 1),))
    assert torch.equal(given_click.targets(batch.labels_BT, None)[:, 0], conversion)
    assert torch.equal(given_click.row_weights(batch)[:, 0], batch.weight_B * click)


def test_gradient_agreement_is_each_rows_own_cosine() -> None:
    """Against a gradient taken row by row."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    x = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    target = Teacher("gradient_agreement", 1, ((0, 1),)).targets(torch.zeros(10, 2), Probe(x, model(x)))
    for row in range(10):
        jacobian = torch.autograd.functional.jacobian(model, x[row].detach())
        cosine = torch.cosine_similarity(jacobian[0], jacobian[1], dim=0)
        torch.testing.assert_close(target[row, 0], (1 + cosine) / 2)
    assert not target.requires_grad and model[0].weight.grad is None


def test_each_row_is_probed_in_turn_whatever_the_ranks() -> None:
    """Slots of the global batch, one in 4, other ones at each step; four ranks of 6 rows hold 1 or 2 of them."""
    teacher, slots = Teacher("gradient_agreement", 4, ((0, 1),)), torch.arange(24)
    seen = []
    for step in range(1, 5):
        whole = slots[teacher.rows(rows(24, step))]
        parts = [replace(rows(6, step), slots_B=part) for part in slots.chunk(4)]
        assert torch.equal(whole, torch.cat([p.slots_B[teacher.rows(p)] for p in parts]))
        assert sum(len(teacher.row_weights(p)) for p in parts) == len(whole) == 6
        seen += whole.tolist()
    assert sorted(seen) == slots.tolist()


def test_the_probe_is_the_model(some_rows: tuple[Path, Batch]) -> None:
    """The same logits on its rows (there is no dropout), and no parameter gets a gradient from it."""
    folder, batch = some_rows
    config = samples.config(folder, "model.alignment={kind='adaftr', num_negatives=16, probe_stride=5}")
    model = MultiTaskModel(config, torch.device("cpu"))
    found = model(batch)
    rows = model.training_parts.probed.rows(batch)
    assert len(found.training.probe.x_RI) == len(batch.weight_B[rows]) in (12, 13)
    torch.testing.assert_close(found.training.probe.logits_RT, found.logits_BT[rows])
    gradients = found.training.probe.gradients()
    assert len(gradients) == 2 and all(g.shape == found.training.probe.x_RI.shape for g in gradients)
    assert all(p.grad is None for p in model.parameters())


# -------------------------------------------------------------------------------------------------------- training only
METHODS = (
    "model.alignment={kind='adaftr', projection=[6, 4], num_negatives=16}",
    "model.pairwise={kind='pwiser'}",
    "model.balance='uncertainty'",
)


def cost(config: Config, batch: Batch, scoring: bool) -> tuple[int, int, Tensor]:
    """Parameters, FLOPs of a forward pass in evaluation mode, its logits."""
    model = MultiTaskModel(config, torch.device("cpu"), scoring=scoring).eval()
    with torch.no_grad():
        for table in model.embeddings.collection.parameters():
            table.fill_(0.01)  # drawn by torch's generator where no rank has filled them
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(batch).logits_BT
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops(), logits


def test_scoring_pays_nothing(some_rows: tuple[Path, Batch]) -> None:
    """Parameters and FLOPs with and without every method; a trained model in evaluation mode has the same FLOPs."""
    folder, batch = some_rows
    plain_config, config = samples.config(folder), samples.config(folder, *METHODS)
    parameters, flops, logits = cost(plain_config, batch, scoring=True)
    scored, trained = cost(config, batch, scoring=True), cost(config, batch, scoring=False)
    print(f"scoring {scored[:2]}, without methods {(parameters, flops)}, a model in training {trained[:2]}")
    assert scored[:2] == (parameters, flops) and flops > 0
    assert trained[0] > parameters and trained[1] == flops
    assert torch.equal(scored[2], logits) and torch.equal(trained[2], logits)  # the same initial weights, too


def test_off_has_no_parts(some_rows: tuple[Path, Batch]) -> None:
    folder, _ = some_rows
    config = samples.config(folder)
    assert MultiTaskModel(config, torch.device("meta")).training_parts is None
    objective = Objective.of(config)
    assert objective.names == LABELS and not objective.terms
    assert training_parts(samples.config(folder, "model.alignment={kind='fixed', num_negatives=9}"), 8, 4) is None


def test_every_part_is_trained(some_rows: tuple[Path, Batch]) -> None:
    """Each parameter gets a gradient, also with a task that no pair names."""
    folder, batch = some_rows
    for more in (METHODS, ("model.alignment={kind='pico', projection=[4], num_negatives=16, standardise=false}",)):
        config = samples.config(folder, *more)
        model, objective = MultiTaskModel(config, torch.device("cpu")), Objective.of(config)
        _, loss = objective.shares(model(batch), batch, objective.totals(batch).float(), OneRank())
        loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing and any("training_parts.relatedness" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.alignment={kind='adaftr', num_negatives=64}", "num_negatives: 64 of 64 rows"),
        ("model.alignment={kind='pico', temperatures=[1.0, 0.5]}", "temperatures: low, then high"),
        ("model.alignment={kind='fixed', temperature=0.001}", "temperature: Input should be greater"),
        ("model.alignment={kind='fixed', pairs=[['click', 'conversoin']]}", "did you mean"),
        ("model.alignment={kind='fixed', pairs=[['click', 'click']]}", "can not be compared with itself"),
        ("model.alignment={kind='pico', target='agreement'}", "target is not a key"),
        ("model.pairwise={kind='pwiser', margins=[0.1, 1.0]}", "never 1 apart"),
        ("model.pairwise={kind='pwiser', weight=0}", "greater than 0"),
        ("model.balance='gradnorm'", "'fixed', 'uncertainty' or 'pcgrad'"),
    ],
)
def test_mistakes_are_told(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samples.config("x", override)
    print(caught.value)
    assert words in str(caught.value)


def test_methods_need_a_second_task() -> None:
    tree = samples.tree("x")
    tree["data"]["labels"] = ["click"]
    tree["model"] |= {
        "alignment": {"kind": "fixed", "num_negatives": 9},
        "pairwise": {"kind": "pwiser"},
        "balance": "pcgrad",
    }
    with pytest.raises(ConfigError) as caught:
        parse(tree)
    assert all(f"model.{key}:" in str(caught.value) for key in ("alignment", "pairwise", "balance"))
