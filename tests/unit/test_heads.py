"""Heads on every backbone, with one label, two and four: gradients, parts of training only, labels without a funnel."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from dist_mtl.config import Config
from dist_mtl.config.file import load, parse
from dist_mtl.data.batch import Batch, collate
from dist_mtl.data.features.encode import Encoder
from dist_mtl.errors import ConfigError
from dist_mtl.model.calibrator import calibrator
from dist_mtl.model.heads import funnel
from dist_mtl.model.loss import TaskObjective
from dist_mtl.model.mtl import MultiTaskModel, Outputs
from tests.support import samples

KINDS = ("single_task", "shared_bottom", "omoe", "mmoe", "ple", "aitm")
LABELS = {1: ("click",), 2: ("click", "conversion"), 4: ("view", "click", "cart", "purchase")}


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def config(kind: str, labels: tuple[str, ...] = LABELS[2], *overrides: str) -> Config:
    experts = {"omoe": ", experts=2", "mmoe": ", experts=2"}.get(kind, "")
    backbone = f"model.backbone={{kind='{kind}', hidden=[16, 8]{experts}}}"
    return samples.config("x", backbone, f"data.labels={list(labels)}", *overrides)


def batch(made: Config, rows: int = 64) -> Batch:
    """Rows whose labels are a funnel."""
    logs = samples.logs(rows)
    stages = {"view": [1] * rows, "cart": logs["conversion"].to_pylist(), "purchase": logs["conversion"].to_pylist()}
    for name in set(stages) - set(logs.column_names):
        logs = logs.append_column(name, pa.array(stages[name]))
    encoder = Encoder(made)
    encoded = encoder.encode(logs, str)
    return collate(encoder, encoded, torch.arange(rows).numpy(), step=1, first_slot=0)


def dense(model: MultiTaskModel) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "embedding_bags" not in name}


@pytest.mark.parametrize("labels", LABELS.values(), ids=[f"{n}-labels" for n in LABELS])
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_on_every_backbone_gives_every_weight_a_gradient(kind: str, labels: tuple[str, ...]) -> None:
    """With and without a click: a rank that leaves a weight out would hang the others."""
    for head in ("ctcvr", "esmm", "clicked"):
        made = config(kind, labels, f"model.head='{head}'")
        model, objective = MultiTaskModel(made, torch.device("cpu")), TaskObjective.of(made.model, len(labels))
        rows = batch(made)
        outputs = model(rows)
        hidden = outputs.representations
        assert [tuple(h.shape) for h in hidden] == [(64, 8)] * len(labels) and outputs.imputed_BC is None
        for tower, h, logit in zip(model.towers, hidden, outputs.logits_BT.unbind(1), strict=True):
            assert torch.equal(tower.logit(h).squeeze(-1), logit)  # what is aligned is what the logit sees
        weights = objective.row_weights(rows)
        objective.losses(outputs, rows, weights, weights.sum(0)).sum().backward()
        assert not [n for n, p in dense(model).items() if p.grad is None or not p.grad.isfinite().all()], head
        rows.labels_BT.zero_()
        model.zero_grad()
        weights = objective.row_weights(rows)
        objective.losses(model(rows), rows, weights, weights.sum(0)).sum().backward()
        assert not [n for n, p in dense(model).items() if p.grad is None], head


@pytest.mark.parametrize("kind", KINDS)
def test_imputation_is_of_training_only(kind: str) -> None:
    labels = LABELS[4]
    made = config(kind, labels, "model.counterfactual={kind='dr'}")
    plain = MultiTaskModel(config(kind, labels), torch.device("cpu"))
    training, scoring = (MultiTaskModel(made, torch.device("cpu"), scoring) for scoring in (False, True))
    sizes = [sum(p.numel() for p in dense(model).values()) for model in (plain, training, scoring)]
    print(f"{kind}: {sizes[0]} dense weights, {sizes[1]} with imputation, {sizes[2]} at scoring")
    assert sizes[0] == sizes[2] == sizes[1] - 3 * (8 * 8 + 8 + 8 + 1)
    assert all(torch.equal(p, dense(training)[name]) for name, p in dense(scoring).items())
    assert all(torch.equal(p, dense(plain)[name]) for name, p in dense(scoring).items())
    rows = batch(made)
    outputs = training(rows)
    assert outputs.imputed_BC.shape == (64, 3)
    outputs.imputed_BC.sum().backward()
    reached = {name.split(".")[0] for name, p in dense(training).items() if p.grad is not None}
    assert reached == {"imputation"}  # it looks on
    training.eval()
    assert training(rows).imputed_BC is None


def test_calibrator_is_its_formula() -> None:
    logits = x(50, 4).double() * 3
    weight = torch.arange(50).double() % 4
    p = torch.sigmoid(logits)
    expected = sum(weight[i] * max(p[i, t] - p[i, t - 1], 0) for i in range(50) for t in range(1, 4)) / weight.sum()
    assert calibrator(logits, weight, weight.sum()).item() == pytest.approx(expected.item(), abs=1e-12)
    shares = [calibrator(logits[k], weight[k], weight.sum()) for k in torch.arange(50).chunk(3)]
    assert sum(shares).item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.autograd.gradcheck(lambda z: calibrator(z, weight, weight.sum()), logits.requires_grad_())


@pytest.mark.parametrize("count", [1, 3])
def test_calibrator_without_weight_is_an_exact_zero(count: int) -> None:
    logits = x(5, count).requires_grad_()
    found = calibrator(logits, torch.zeros(5), torch.tensor(0.0))
    found.backward()
    assert found == 0 and logits.grad.count_nonzero() == 0
    lone = calibrator(logits[:, :1], torch.ones(5), torch.tensor(5.0))
    assert lone == 0 and lone.requires_grad


@pytest.mark.parametrize("head", ["esmm", "clicked"])
def test_other_heads_need_no_calibrator(head: str) -> None:
    joint = funnel(x(1000, 4) * 5, head).joint_BT
    assert (joint[:, 1:] <= joint[:, :-1]).all()
    assert config("aitm", LABELS[2], f"model.head='{head}'").model.calibrator == 0
    assert config("aitm", LABELS[2], "model.head='ctcvr'").model.calibrator == 0.6
    assert config("mmoe", LABELS[2], "model.head='ctcvr'").model.calibrator == 0
    tuned = "model.backbone={kind='aitm', calibrator=0.1}"
    assert config("aitm", LABELS[2], "model.head='ctcvr'", tuned).model.calibrator == 0.1


# ------------------------------------------------------------------------------------------------- labels, no funnel
INDEPENDENT = ("data.funnel=false", "model.head='independent'")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["data.funnel=false"],
            "model.head: `esmm` reads the labels as a funnel, and data.funnel is false; set model.head",
        ),
        (["data.funnel=false", "model.head='clicked'"], "model.head: `clicked` reads the labels as a funnel"),
        (["data.funnel=false", "model.head='ctcvr'"], "model.head: `ctcvr` reads the labels as a funnel"),
        (["model.head='independent'"], "model.head: `independent` is for labels of which none implies another"),
        ([*INDEPENDENT, "data.violations='drop'"], "data.violations: with data.funnel = false no row can break"),
        ([*INDEPENDENT, "model.counterfactual={kind='ips'}"], "with head `independent` remove it"),
        (["model.head='ctcvr'", "model.counterfactual={kind='dr'}"], "with head `ctcvr` remove it, or set model.head"),
        (["model.counterfactual={kind='dr'}", "data.labels=['click']"], "no conversion behind the only label `click`"),
        (["model.counterfactual={kind='dr', clip=0.0}"], "model.counterfactual.clip: Input should be greater than 0"),
        (["model.counterfactual={kind='snips'}"], "model.counterfactual.kind: Input should be 'ips' or 'dr'"),
        (["model.backbone={kind='aitm', calibrator=0.6}"], "with head `esmm` no P(label) can exceed the one before it"),
        ([*INDEPENDENT, "model.backbone={kind='aitm', calibrator=0.6}"], "nothing bounds one label by another"),
        (["model.backbone={kind='ple', level=2}"], "model.backbone.level is not a key; did you mean `levels`?"),
    ],
)
def test_options_that_need_a_funnel_are_refused_without_one(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samples.config("x", *overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_independent_labels_train_on_all_rows(kind: str) -> None:
    """Each logit is of its own label, also where the label before it is not set; no row is refused or dropped."""
    made = config(kind, ("conversion", "click"), *INDEPENDENT)
    rows = batch(made)
    assert (rows.labels_BT[:, 1] > rows.labels_BT[:, 0]).any()  # click without conversion: no funnel in this order
    assert rows.weight_B.tolist() == [1] * 64 and rows.dropped == 0
    model, objective = MultiTaskModel(made, torch.device("cpu")), TaskObjective.of(made.model, 2)
    outputs, weights = model(rows), objective.row_weights(rows)
    assert weights.tolist() == [[1, 1]] * 64
    p, y = torch.sigmoid(outputs.logits_BT.double()), rows.labels_BT
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean(0)
    torch.testing.assert_close(objective.losses(outputs, rows, weights, weights.sum(0)).double(), expected)
    chances = funnel(outputs.logits_BT, "independent")
    torch.testing.assert_close(chances.joint_BT.exp().double(), p)
    assert chances.conditional_BT is chances.joint_BT


def test_the_outputs_of_a_loss_test_need_no_gates() -> None:
    outputs = Outputs(x(2, 2), (), x(2, 2))
    assert outputs.gates == {} and outputs.imputed_BC is None


def test_a_configuration_with_every_new_key_survives_a_commit() -> None:
    made = load(Path(__file__).resolve().parents[2] / "configs" / "funnel.toml")
    assert len(made.data.labels) == 4 and made.model.backbone.kind == "ple"
    assert parse(made.model_dump(mode="json")) == made
