"""Who is measured: each contender is set up once per process and then asked for a number of training steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.nn import functional
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from benchmarks.speed.workload import Shape
from dist_mtl.build import build, open_dataset
from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.metrics.window import TrainingWindow
from dist_mtl.model.embedding import tables_of
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.train_step import train_step
from dist_mtl.scoring.score import read

Steps = Callable[[int], object]
STATUS = 8
HELD = 32  # batches kept in memory for contenders that do not read


def contender(name: str, shape: Shape, folder: str, rt: Runtime) -> Steps:
    """A function that trains (or loads) a given number of steps. Raises KeyError for an unknown name."""
    dataset = open_dataset(f"{folder}/train", shape.config(folder), True, rt)
    return {
        "loader": _loader,
        "metrics": _metrics,
        "step": _step,
        "end_to_end": _end_to_end,
        "bare_dmp": _bare_dmp,
        "plain": _plain,
    }[name](shape, folder, dataset, rt)


@contextmanager
def _reading(dataset: Dataset, rt: Runtime, count: int) -> Iterator[Iterator[Batch]]:
    """`count` batches from Parquet, opened anew: nothing was read ahead while other contenders had the machine."""
    source = batches(dataset, rt, 0, count)
    try:
        yield source
    finally:
        source.close()


def _held(dataset: Dataset, rt: Runtime) -> Iterator[Batch]:
    """The first batches of the dataset, in memory, over and over."""
    source = dataset.batches(rt.rank, rt.size, 0, min(HELD, dataset.order.steps_per_epoch))
    return cycle(list(source))


def _loader(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """Parquet to batches, nothing else."""

    def steps(count: int) -> None:
        with _reading(dataset, rt, count) as source:
            for _ in source:
                pass

    return steps


def _metrics(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """What the sliding metrics add to a step; a status line every STATUS steps, more often than the default of 50."""
    config, held = shape.config(folder), _held(dataset, rt)
    window = TrainingWindow(len(config.tasks), rt)
    batch = next(held)
    logits_BT = torch.randn(len(batch.weight_B), 2, generator=torch.Generator().manual_seed(1)) - 3

    def steps(count: int) -> None:
        for step in range(1, count + 1):
            window.update(*read(logits_BT, batch.labels_BT, batch.weight_B, config.model.head).columns)
            if step % STATUS == 0:
                window.close_part()

    return steps


def _step(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """Our training step on batches in memory."""
    return training_steps(shape.config(folder), dataset, rt)


def _end_to_end(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """Our training step, reading Parquet."""
    train = _trainer(shape.config(folder), rt)

    def steps(count: int) -> None:
        with _reading(dataset, rt, count) as source:
            for batch in source:
                train(batch)

    return steps


def training_steps(config: Config, dataset: Dataset, rt: Runtime) -> Steps:
    """The training step of a configuration, on batches in memory."""
    train, held = _trainer(config, rt), _held(dataset, rt)
    return lambda count: [train(next(held)) for _ in range(count)]


def _trainer(config: Config, rt: Runtime) -> Callable[[Batch], object]:
    model, objective = build(config, rt, steps=1_000_000), Objective.of(config)
    return lambda batch: train_step(model, objective, model.learn_ids(batch), rt)


class TextbookMMoE(nn.Module):
    """MMoE as tutorials write it: a list of experts, a list of gates, a list of towers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, last = shape.expert

        def expert() -> nn.Module:
            return nn.Sequential(nn.Linear(shape.inputs, hidden), nn.ReLU(), nn.Linear(hidden, last), nn.ReLU())

        self.experts = nn.ModuleList(expert() for _ in range(shape.experts))
        self.gates = nn.ModuleList(nn.Linear(shape.inputs, shape.experts, bias=False) for _ in range(2))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(last, shape.tower[0]), nn.ReLU(), nn.Linear(shape.tower[0], 1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        outputs = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = torch.softmax(gate(x), dim=-1)
            outputs.append(tower((weights.unsqueeze(-1) * experts).sum(dim=1)))
        return torch.cat(outputs, dim=1)


class BareModel(nn.Module):
    """TorchRec's own hand-off (`to_dict`, as its DLRM does it) in front of the textbook MMoE."""

    def __init__(self, shape: Shape, folder: str) -> None:
        super().__init__()
        self.collection = EmbeddingBagCollection(
            tables=tables_of(shape.config(folder), weighted=False), device=torch.device("meta")
        )
        self.names = [f"c{i}" for i in range(shape.ids)]
        self.mmoe = TextbookMMoE(shape)

    def forward(self, batch: Batch) -> Tensor:
        pooled = self.collection(batch.ids).to_dict()
        return self.mmoe(torch.cat([pooled[name] for name in self.names] + [batch.dense_BD], dim=1))


def _bare_dmp(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """A bare DistributedModelParallel loop: default planner, fused row-wise Adagrad, Adam, no metrics and no checks."""
    model = BareModel(shape, folder)
    apply_optimizer_in_backward(RowWiseAdagrad, model.collection.parameters(), {"lr": 0.02, "eps": 1e-8})
    model = DistributedModelParallel(model, device=rt.device)
    rest = dict(in_backward_optimizer_filter(model.named_parameters()))
    dense = KeyedOptimizerWrapper(rest, lambda p: torch.optim.Adam(p, lr=1e-3))
    return _loop(model, CombinedOptimizer([model.fused_optimizer, dense]), _held(dataset, rt))


class PlainModel(nn.Module):
    """One nn.EmbeddingBag with sparse gradients a feature, in front of the textbook MMoE."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(shape.rows, shape.dim, mode="sum", sparse=True) for _ in range(shape.ids)
        )
        self.mmoe = TextbookMMoE(shape)

    def forward(self, batch: Batch) -> Tensor:
        ids = batch.ids.values().view(len(self.bags), -1, 1)
        pooled = [bag(one) for bag, one in zip(self.bags, ids, strict=True)]
        return self.mmoe(torch.cat([*pooled, batch.dense_BD], dim=1))


class _Both:
    """Two optimizers as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


def _plain(shape: Shape, folder: str, dataset: Dataset, rt: Runtime) -> Steps:
    """nn.EmbeddingBag(sparse=True) + Adagrad, Adam for the rest; one process."""
    if dist.get_world_size() > 1:
        raise ValueError("`plain` has no sharding; it runs on one rank")
    model = PlainModel(shape)
    optimizer = _Both(
        torch.optim.Adagrad(model.bags.parameters(), lr=0.02), torch.optim.Adam(model.mmoe.parameters(), lr=1e-3)
    )
    return _loop(model, optimizer, _held(dataset, rt))


def _loop(model: nn.Module, optimizer: CombinedOptimizer | _Both, source: Iterator[Batch]) -> Steps:
    """The plainest training loop: mean binary cross-entropy of the rank's own rows."""

    def steps(count: int) -> None:
        for _ in range(count):
            batch = next(source)
            optimizer.zero_grad()
            losses = functional.binary_cross_entropy_with_logits(model(batch), batch.labels_BT, reduction="none")
            losses.mean(dim=0).sum().backward()
            optimizer.step()

    return steps
