"""What two runs were made of, where it differs: configuration, sharding plan, releases."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dist_mtl.checkpoint.format import Commit
from dist_mtl.config import Config
from dist_mtl.metrics.recalibration import Fit
from dist_mtl.model.mtl import MultiTaskModel

ABSENT = "(absent)"
FLOAT = 4  # bytes of a weight
ELSEWHERE = ("run",)  # where a run lives and what it says on the way; nothing of it is learnt


@dataclass(frozen=True)
class Change:
    """A value of A and of B as text; ABSENT where there is none."""

    a: str
    b: str


@dataclass(frozen=True)
class Differences:
    """By dotted key, by table, by package; empty where the runs agree. The bytes are of the weights, by rank.

    The configuration has the keys `recalibration.*` as well: what is done to the scores since the run ended.
    """

    config: dict[str, Change] = field(default_factory=dict)
    plan: dict[str, Change] = field(default_factory=dict)
    versions: dict[str, Change] = field(default_factory=dict)
    bytes_by_rank: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # of A, of B


@dataclass(frozen=True)
class Parameters:
    """Weights of the tables, and of all that is not a table."""

    tables: int
    dense: int


def differences(
    a: tuple[Config, Commit], b: tuple[Config, Commit], fits: tuple[Fit | None, Fit | None] = (None, None)
) -> Differences:
    """What differs between two commits; configurations as they are parsed now, defaults included."""
    trees = [config.model_dump(mode="json", exclude=set(ELSEWHERE)) for config, _ in (a, b)]
    for tree, fit in zip(trees, fits, strict=True):
        tree["recalibration"] = _recalibration(fit)
    plans = [{row["table"]: placement(row) for row in commit.plan} for _, commit in (a, b)]
    return Differences(
        config=dict(_changes(*trees)),
        plan=dict(_changes(*plans)),
        versions=dict(_changes(a[1].versions, b[1].versions)),
        bytes_by_rank=(bytes_by_rank(*a), bytes_by_rank(*b)),
    )


def _recalibration(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {"method": fit.method, "data": fit.data, "digest": fit.digest[:12], "tasks": list(fit.maps)}


def _changes(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Change]]:
    """Dotted keys in the order of A, then what only B has. A subtree that one side lacks is one change."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        if a != b:
            yield prefix, Change(_text(a), _text(b))
        return
    for key in dict.fromkeys((*a, *b)):
        yield from _changes(a.get(key, ABSENT), b.get(key, ABSENT), f"{prefix}.{key}" if prefix else key)


def _text(value: Any) -> str:
    """As a configuration file would have it, nearly: `none` for what is not set."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_text, value))}]"
        case dict():
            return f"{{{', '.join(f'{key} = {_text(below)}' for key, below in value.items() if below is not None)}}}"
        case _:
            return str(value)


def placement(row: dict[str, Any]) -> str:
    """How a table of a commit's plan is placed: `row_wise, fused, ranks 0 1 2 3`."""
    ranks = sorted({shard["rank"] for shard in row["shards"]})
    where = f"rank{'s' * (len(ranks) > 1)} {' '.join(map(str, ranks))}" if ranks else "every rank"
    return f"{row['sharding']}, {row['kernel']}, {where}"


def bytes_by_rank(config: Config, commit: Commit) -> tuple[int, ...]:
    """Bytes of the tables' weights on each rank that trained the run; a data-parallel table is on all of them."""
    held = [0] * commit.world
    for row in commit.plan:
        table = config.all_tables[row["table"]]
        if not row["shards"]:
            held = [bytes_ + FLOAT * table.rows * table.dim for bytes_ in held]
        for shard in row["shards"]:
            held[shard["rank"]] += FLOAT * math.prod(shard["size"])
    return tuple(held)


def parameters(config: Config) -> Parameters:
    """Counted on a model without its tables' memory."""
    tables = sum(table.rows * table.dim for table in config.all_tables.values())
    model = MultiTaskModel(config, table_device=torch.device("meta"))
    return Parameters(tables, sum(p.numel() for p in model.parameters()) - tables)
