"""Sharded training on two ranks equals a plain single-process model of the same maths, fed the same batches."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.model.embedding import fill
from dist_mtl.model.mtl import MultiTaskModel
from tests.support import samples
from tests.support.harness import Cluster
from tests.support.workers import assemble, trace

STEPS = 50
PLANS = {
    "row_wise": dict.fromkeys(("user", "item", "tag"), "row_wise"),
    "mixed": {"user": "row_wise", "item": "table_wise", "tag": "data_parallel"},
}
EXPERTS, LABELS = 2, 2
EPS = 1e-8  # the default of every embedding optimizer here
FIRST, SECOND = "backbone.experts.first.layers.0", "backbone.experts.rest.{}.layers.0"  # names in the product


class Oracle(nn.Module):
    """EmbeddingBags, MMoE with ReLU experts of two layers, towers of one, ESMM: torch's parts and nothing of ours."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.bags = nn.ModuleDict({n: nn.EmbeddingBag(t.rows, t.dim, mode="sum") for n, t in config.all_tables.items()})
        ours = MultiTaskModel(config, table_device=torch.device("meta")).state_dict()
        ours = {name: value for name, value in ours.items() if not value.is_meta}
        wide = [ours[f"{FIRST}.{kind}"].chunk(EXPERTS) for kind in ("weight", "bias")]
        self.experts = nn.ModuleList(
            nn.Sequential(
                linear(wide[0][e], wide[1][e]),
                nn.ReLU(),
                linear(ours[f"{SECOND.format(e)}.weight"], ours[f"{SECOND.format(e)}.bias"]),
                nn.ReLU(),
            )
            for e in range(EXPERTS)
        )
        self.gates = nn.ModuleList(linear(g, None) for g in ours["backbone.gates.weight"].chunk(LABELS))
        self.towers = nn.ModuleList(
            nn.Sequential(
                linear(ours[f"towers.{t}.hidden.layers.0.weight"], ours[f"towers.{t}.hidden.layers.0.bias"]),
                nn.ReLU(),
                linear(ours[f"towers.{t}.logit.weight"], ours[f"towers.{t}.logit.bias"]),
            )
            for t in range(LABELS)
        )
        for name, bag in self.bags.items():
            fill(bag.weight.data, config.seed, name, bag.num_embeddings)

    def loss(self, batch: Batch) -> Tensor:
        """(LABELS,): mean cross-entropies of the click and of click-and-conversion, over all rows but padding."""
        pooled = [
            self.bags[self.config.table_of(f)](ids.values(), ids.offsets()[:-1], per_sample_weights=ids.weights())
            for f, ids in batch.ids.to_dict().items()
        ]
        x = torch.cat([*pooled, batch.dense_BD], dim=1)
        x = functional.pad(x, (0, self.experts[0][0].in_features - x.shape[1]))  # ours pads to whole cache lines
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        mixed = [(torch.softmax(gate(x), dim=1)[:, :, None] * experts).sum(1) for gate in self.gates]
        ctr, cvr = (torch.sigmoid(tower(m).squeeze(1)) for tower, m in zip(self.towers, mixed, strict=True))
        losses = functional.binary_cross_entropy(torch.stack([ctr, ctr * cvr], 1), batch.labels_BT, reduction="none")
        return (losses * batch.weight_B[:, None]).sum(0) / batch.weight_B.sum()

    def named(self) -> dict[str, Tensor]:
        """The weights under the names that the product gives them."""
        deep = {
            f"{SECOND.format(i)}.{kind}": getattr(e[2], kind)
            for i, e in enumerate(self.experts)
            for kind in ("weight", "bias")
        }
        towers = {
            f"towers.{t}.{name}.{kind}": getattr(tower[i], kind)
            for t, tower in enumerate(self.towers)
            for name, i in (("hidden.layers.0", 0), ("logit", 2))
            for kind in ("weight", "bias")
        }
        return (
            towers
            | deep
            | {
                f"{FIRST}.weight": torch.cat([e[0].weight for e in self.experts]),
                f"{FIRST}.bias": torch.cat([e[0].bias for e in self.experts]),
                "backbone.gates.weight": torch.cat([g.weight for g in self.gates]),
                **{f"embeddings.collection.embedding_bags.{n}.weight": bag.weight for n, bag in self.bags.items()},
            }
        )


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these initial values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


class RowWiseAdagrad:
    """s_r += mean_d(g_rd^2); w_r -= lr g_r / (sqrt(s_r) + eps): one number of state a row."""

    def __init__(self, tables: list[nn.Parameter], lr: float, eps: float) -> None:
        self.tables, self.lr, self.eps = tables, lr, eps
        self.sums = [torch.zeros(len(t)) for t in tables]

    @torch.no_grad()
    def step(self) -> None:
        for table, sums in zip(self.tables, self.sums, strict=True):
            sums += table.grad.square().mean(1)
            table -= self.lr * table.grad / (sums.sqrt() + self.eps)[:, None]


def train_oracle(config: Config, warmup: int) -> tuple[Oracle, list[Tensor]]:
    """The plain loop; the losses of every step."""
    oracle, optim = Oracle(config), config.optim
    tables = [bag.weight for bag in oracle.bags.values()]
    sparse = {
        "rowwise_adagrad": lambda: RowWiseAdagrad(tables, optim.embedding.lr, EPS),
        "adagrad": lambda: torch.optim.Adagrad(tables, optim.embedding.lr, eps=EPS),
        "sgd": lambda: torch.optim.SGD(tables, optim.embedding.lr),
    }[optim.embedding.kind]()
    rest = [p for name, p in oracle.named_parameters() if not name.startswith("bags")]
    dense = torch.optim.AdamW(rest, lr=optim.dense.lr, weight_decay=optim.dense.weight_decay)
    losses = []
    for batch in Dataset.open(config.data.train, config, shuffle=True).batches(0, 1, 0, STEPS):
        dense.param_groups[0]["lr"] = optim.dense.lr * min(1.0, batch.step / warmup)
        oracle.zero_grad()
        loss = oracle.loss(batch)
        loss.sum().backward()
        sparse.step()
        dense.step()
        losses.append(loss.detach().double())
    return oracle, losses


@pytest.mark.parametrize(
    ("kind", "sharding", "lr"),
    [("rowwise_adagrad", "row_wise", 0.02), ("adagrad", "table_wise", 0.003), ("sgd", "mixed", 20.0)],
)
def test_two_ranks_equal_the_oracle(tmp_path: Path, kind: str, sharding: str, lr: float) -> None:
    """Losses and every final weight to 1e-6, float32. Only SGD would show gradients that are off by a factor.

    Well conditioned on purpose: AdamW and Adagrad divide a gradient by its own size, so where it is a cancelled sum of
    about 1e-9 the step is noise of size lr. Hence small learning rates; decay and warm-up are on, to be checked, too.
    """
    samples.write_logs(tmp_path / "train", 3_000)
    config = samples.config(
        tmp_path,
        "train.epochs=2",
        f"optim.embedding={{kind='{kind}', lr={lr}}}",
        "optim.dense={lr=3e-4, weight_decay=0.1, warmup_steps=5}",
        *(f"tables.{table}.sharding={plan}" for table, plan in PLANS.get(sharding, {}).items()),
    )
    ranks = Cluster(2).run(trace, config, STEPS)
    oracle, expected = train_oracle(config, warmup=5)
    gap = (torch.from_numpy(ranks[0].losses) - torch.stack(expected)).abs().max().item()
    ours = {n: torch.from_numpy(w) for n, w in assemble([r.last for r in ranks]).items()}
    gaps = {name: (ours[f"model/{name}"] - w).abs().max().item() for name, w in oracle.named().items()}
    assert len(gaps) == len([n for n in ours if n.startswith("model/")])
    worst = max(gaps, key=gaps.get)
    print(f"{kind}, {sharding}: losses differ by {gap:.1e}, weights by {gaps[worst]:.1e} ({worst})")
    assert gap < 1e-6
    assert gaps[worst] < 1e-6
    start = Oracle(config).named()
    assert all((w - start[name]).abs().max() > 1e-4 for name, w in oracle.named().items())  # everything has trained
