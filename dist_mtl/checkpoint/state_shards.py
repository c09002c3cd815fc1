"""What a rank holds of a state, tensor by tensor, under names that say nothing of the sharding plan.

TorchRec names the optimizer state of a table after the kernel that keeps it: the fused one has `TABLE.momentum1` of
shape (rows,), the optimizer of a data-parallel table `sum` of shape (rows, 1) for the same numbers. Here both are
`optimizer/PARAMETER/momentum1`, (rows,), so that a commit can be read under any plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_mtl.errors import InternalError

# Of a data-parallel table's Adagrad: counts steps for a decay of the learning rate that is never asked for.
IDLE = "step"
ADAGRAD = {"step", "sum"}


@dataclass(frozen=True)
class Part:
    """A block of a tensor, and where it begins in the whole. Writing to it changes the model."""

    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """A tensor of the state as far as this rank has it. `replicated`: every rank that has it has it whole."""

    name: str
    shape: tuple[int, ...]  # of the whole
    parts: tuple[Part, ...]
    replicated: bool


def held(state: dict[str, Any]) -> dict[str, Held]:
    """The tensors of a nested state by name, sharing its memory. Raises InternalError for what is no tensor."""
    found: dict[str, Held] = {}
    for path, value in _leaves(state, ()):
        if (one := _held(_name(path), value, path)) is None:
            continue
        if one.name in found:
            raise InternalError(f"two tensors of the state are named {one.name}")
        found[one.name] = one
    return found


def _leaves(tree: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    adagrad = above[:2] == ("optimizer", "state") and tree.keys() == ADAGRAD
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, dict):
            yield from _leaves(value, path)
        elif not (adagrad and key == IDLE):
            yield path, value


def _name(path: tuple[str, ...]) -> str:
    """The name of a tensor; those of optimizer states lose the kind of optimizer and the repeated table."""
    if path[:2] != ("optimizer", "state"):
        return "/".join(path)
    parameter, state = path[2].partition(".")[2], path[-1].rpartition(".")[2]
    return f"optimizer/{parameter}/{'momentum1' if state == 'sum' else state}"


def _held(name: str, value: Any, path: tuple[str, ...]) -> Held | None:
    """None for the empty stand-in of a table that lives on other ranks."""
    if hasattr(value, "local_shards"):
        parts = tuple(Part(one.tensor.detach(), tuple(one.metadata.shard_offsets)) for one in value.local_shards())
        return Held(name, tuple(value.metadata().size), parts, replicated=False)
    if not isinstance(value, Tensor):
        raise InternalError(f"{name}: {type(value).__name__} in a state; only tensors can be committed")
    tensor = value.detach()
    if path[-1] == "sum" and tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor.view(-1)
    return Held(name, tuple(tensor.shape), (Part(tensor, (0,) * tensor.dim()),), True) if tensor.numel() else None
