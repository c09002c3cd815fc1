"""The optimizers of the tables, fused into the backward pass, and of the dense part; their learning rates."""

import math
from dataclasses import dataclass

import torch
import torchrec.optim
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_mtl.config import TableConfig
from dist_mtl.config.training import EmbeddingOptim, OptimConfig
from dist_mtl.errors import InternalError

EPS = 1e-8  # FBGEMM's own default; torchrec.optim's is 1e-10, and the two differ by 8e-6 after a few steps (measured)


@dataclass(frozen=True)
class Schedule:
    """Learning rates over a run of `steps` steps, as factors of the configured ones: a function of the step alone."""

    optim: OptimConfig
    steps: int

    def factor(self, step: int, is_dense: bool) -> float:
        """Dense weights warm up linearly; both kinds decay to (almost) zero at the last step, if they are to."""
        warm_up = self.optim.dense.warmup_steps if is_dense else 0
        factor = min(1.0, step / warm_up) if warm_up else 1.0
        done = (step - 1) / self.steps
        match self.optim.decay:
            case "linear":
                return factor * (1 - done)
            case "cosine":
                return factor * (1 + math.cos(math.pi * done)) / 2
            case "none":
                return factor


def _optimizers(
    module: DistributedModelParallel, tables: dict[str, TableConfig], optim: OptimConfig
) -> CombinedOptimizer:
    """The fused optimizer, its rule for data-parallel tables (TorchRec leaves them untrained), AdamW for the rest."""
    parts: list[tuple[str, KeyedOptimizer]] = [("fused", module.fused_optimizer)]
    rest = dict(in_backward_optimizer_filter(module.named_parameters()))
    replicated = {name: p for name, p in rest.items() if table_name(name) in tables}
    dense = {name: p for name, p in rest.items() if name not in replicated}
    if replicated:
        kind, options = embedding_optimizer(optim.embedding)
        parts.append(("replicated", KeyedOptimizerWrapper(replicated, lambda p: kind(p, **options))))
    decay = optim.dense.weight_decay
    parts.append(
        (
            "dense",
            KeyedOptimizerWrapper(
                dense, lambda p: torch.optim.AdamW(p, lr=optim.dense.lr, weight_decay=decay, fused=True)
            ),
        )
    )
    # A table that lives on another rank is an empty parameter here.
    held = {name for name, p in module.named_parameters() if p.numel()}
    untrained = held.difference(*(part.params for _, part in parts))
    if untrained:
        raise InternalError(f"no optimizer trains {sorted(untrained)}")
    return CombinedOptimizer(parts)


def table_name(parameter: str) -> str | None:
    """The table of a parameter's name in a state dict, e.g. `embeddings.collection.embedding_bags.user.weight`."""
    parts = parameter.split(".")
    return parts[-2] if len(parts) > 2 and parts[-3] == "embedding_bags" else None


def embedding_optimizer(optim: EmbeddingOptim) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """The optimizer class and a fresh dict of its options (TorchRec keeps and changes the dict it is given)."""
    options = {"lr": optim.lr, "eps": optim.eps or EPS}
    match optim.kind:
        case "rowwise_adagrad":
            return torchrec.optim.RowWiseAdagrad, options
        case "adagrad":
            return torch.optim.Adagrad, options
        case "sgd":
            return torch.optim.SGD, {"lr": optim.lr}
        case "adam":
            return torch.optim.Adam, options
        case "partial_rowwise_adam":
            return torchrec.optim.PartialRowWiseAdam, options
