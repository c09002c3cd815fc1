"""`train.dense = "bf16"`: the products are in bfloat16, what the losses see is float32, under every model."""

from pathlib import Path

import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.data.loader import Dataset
from dist_mtl.model.loss import Objective
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.model.ranks import OneRank
from tests.support import samples

BACKBONES = ("single_task", "shared_bottom", "omoe", "mmoe", "ple", "aitm")
MODELS = {kind: (f"model.backbone={{kind='{kind}', hidden=[16, 8]}}",) for kind in BACKBONES} | {
    "dot": ("model.interaction={kind='dot'}", "tables.user.dim=8", "tables.tag.dim=8"),
    "dcn": ("model.interaction={kind='dcn'}",),
    "adaftr, probed": (
        "model.alignment={kind='adaftr', target='gradient_agreement', negatives='all'}",
        "model.dropout=0.2",
    ),
    "pcgrad": ("model.balance='pcgrad'",),
    "doubly robust": ("model.head='esmm'", "model.counterfactual={kind='dr'}"),
}


def trained(folder: Path, *overrides: str) -> tuple[torch.Tensor, MultiTaskModel, set[torch.dtype]]:
    """The terms of one batch, the model with its gradients, and the types of its products."""
    config: Config = samples.config(folder, *overrides)
    [batch, *_] = Dataset.open(str(folder / "train"), config, shuffle=True).batches(0, 1, 0, 1)
    torch.manual_seed(0)  # of the tables
    model, objective, types = MultiTaskModel(config, torch.device("cpu")), Objective.of(config), set()
    model.towers[0].logit.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    outputs, totals = model(batch), objective.totals(batch).float()
    seen = [outputs.shared_BI, *outputs.representations, outputs.logits_BT, *outputs.gates.values()]
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    terms, loss = objective.shares(outputs, batch, totals, OneRank())
    loss.backward()
    return terms.detach(), model, types


@pytest.mark.parametrize("kind", MODELS)
def test_products_are_bf16_and_what_the_losses_see_is_not(tmp_path: Path, kind: str) -> None:
    samples.write_logs(tmp_path / "train", 100)
    full, plain, types = trained(tmp_path, *MODELS[kind])
    half, model, half_types = trained(tmp_path, *MODELS[kind], "train.dense='bf16'")
    assert types == {torch.float32} and half_types == {torch.bfloat16}
    gap = (half - full).abs().max().item()
    print(f"{kind}: terms differ by {gap:.1e}")
    assert 0 < gap < 2e-2
    gradients = [(p.grad, q.grad) for p, q in zip(plain.parameters(), model.parameters(), strict=True)]
    assert {(p is None, q is None) for p, q in gradients} <= {(False, False), (True, True)}
    assert all(q.dtype == torch.float32 and q.isfinite().all() for _, q in gradients if q is not None)
    assert model.state_dict().keys() == plain.state_dict().keys()
