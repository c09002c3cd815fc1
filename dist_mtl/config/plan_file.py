"""A sharding plan as a file: "dist_mtl plan", version 1. JSON; no torch is needed to read or to write it.

    {"format": "dist_mtl plan", "version": 1, "world": 16, "local_world": 8, "replicas": 1, "tables": [
      {"table": "user", "rows": 1000, "dim": 16, "sharding": "row_wise", "kernel": "fused", "precision": "fp32",
       "cache_share": null, "shards": [{"rank": 0, "offset": [0, 0], "size": [63, 16]}, ...]}, ...]}

What a rank is expected to need (`per_rank`, bytes) and how long a step is estimated to take (`step_ms`) may stand
there, too; a launcher asks for memory by the first, and training looks at neither.

`sharding` and `kernel` are the words of a configuration, and never `auto`; the kernel of a data-parallel table is
`dense`, and it has no shards. Shards stand in the order of their offsets, columns before rows.
"""

import json
import math
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dist_mtl.bounded import parse_json
from dist_mtl.config.section import Dim, Positive, Section
from dist_mtl.config.sharding import SHARDINGS, Sharding
from dist_mtl.errors import ConfigError
from dist_mtl.plan_bytes import plan_bytes
from dist_mtl.terminal.wording import plural

Index = Annotated[int, Field(ge=0)]
Pair = tuple[Index, Index]  # rows, columns


class PlannedShard(Section):
    """A block of a table and the rank that holds it."""

    rank: Index
    offset: Pair
    size: tuple[Positive, Positive]


class PlannedTable(Section):
    """Where a table lives."""

    table: str
    rows: Positive
    dim: Dim
    sharding: Sharding
    kernel: Literal["dense", "fused", "uvm", "uvm_caching", "key_value"]
    precision: Literal["fp32", "fp16"] = "fp32"
    cache_share: Annotated[float, Field(gt=0, lt=1)] | None = None  # of `uvm_caching`
    shards: tuple[PlannedShard, ...] = ()


class PlannedRank(Section):
    """Bytes that a rank is expected to need."""

    hbm: Index  # 0 on CPU
    host: Index


class PlanFile(Section):
    """A plan of all tables of a run on `world` ranks, `local_world` of them on each node.

    Valid only if every table's shards are those that TorchRec's kernels expect of its sharding: it finds the rank of a
    row by dividing, not by looking it up, so that another cut would train other rows, silently.
    """

    format: Literal["dist_mtl plan"] = "dist_mtl plan"
    version: Literal[1] = 1
    world: Positive
    local_world: Positive
    replicas: Positive = 1
    tables: Annotated[tuple[PlannedTable, ...], Field(min_length=1)]
    per_rank: tuple[PlannedRank, ...] = ()  # none: nobody has estimated it
    step_ms: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        problems = [f"world {self.world} is no multiple of local_world {self.local_world}"]
        problems = problems if self.world % self.local_world else []
        twice = [name for name, count in Counter(t.table for t in self.tables).items() if count > 1]
        problems += [f"{name} stands there twice" for name in twice]
        problems += [f"{t.table}: {told}" for t in self.tables if (told := _wrong(t, self.world, self.local_world))]
        if self.per_rank and len(self.per_rank) != self.world:
            problems.append(f"per_rank tells of {plural(len(self.per_rank), 'rank')}, and there are {self.world}")
        if problems:
            raise ValueError("; ".join(problems[:10]))
        return self


def read_plan(path: str | Path) -> PlanFile:
    """The plan of a file. Raises ConfigError: it can not be read, or is no whole plan."""
    try:
        return PlanFile.model_validate(parse_json(plan_bytes(path)))
    except OSError as error:
        raise ConfigError(f"{path}: the plan can not be read: {error.strerror}; name one that can") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"]
        raise ConfigError(f"{path}: no plan of version 1: {told}. Make it anew with dist-mtl plan") from None
    except ValueError as error:
        raise ConfigError(f"{path}: no plan: {error}; name a file that dist-mtl plan --json wrote") from None


def write_plan(plan: PlanFile, path: str | Path) -> None:
    """Write it, replacing what is there: one line a table. Raises ConfigError."""
    tree = plan.model_dump(mode="json")
    tables = ",\n  ".join(json.dumps(table) for table in tree.pop("tables"))
    text = json.dumps(tree).removesuffix("}") + f', "tables": [\n  {tables}\n]}}\n'
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise ConfigError(f"{path}: the plan can not be written: {error.strerror}; name another place") from None


def _wrong(table: PlannedTable, world: int, local_world: int) -> str | None:
    """What is wrong with a table's place, if anything is."""
    traits = SHARDINGS[table.sharding]
    if (table.kernel == "dense") != traits.replicated:
        return f"kernel {table.kernel} with sharding {table.sharding}; `dense` belongs to `data_parallel` alone"
    if table.cache_share is not None and table.kernel != "uvm_caching":
        return f"cache_share with kernel {table.kernel}; only `uvm_caching` has a cache"
    if traits.replicated:
        return "a data-parallel table has no shards" if table.shards else None
    if not table.shards:
        return f"{table.sharding}, and it has no shards"
    if any(shard.rank >= world for shard in table.shards):
        return (
            f"a shard is on rank {max(s.rank for s in table.shards)}, and {plural(world, 'rank is', 'ranks are')} there"
        )
    blocks = [list(group) for _, group in groupby(table.shards, lambda s: (s.offset[1], s.size[1]))]
    begins = [block[0].offset[1] for block in blocks]
    ends = [block[0].offset[1] + block[0].size[1] for block in blocks]
    if begins != [0, *ends[:-1]] or ends[-1] != table.dim:
        return f"the shards' columns are not 0 to {table.dim}, each once and in order"
    if wrong := [width for width in map(int.__sub__, ends, begins) if width % 4]:
        return f"a shard has {plural(wrong[0], 'column')}; FBGEMM's kernels want a multiple of 4"
    if len(blocks) > 1 and not traits.splits_columns:
        return f"{table.sharding} does not cut columns"
    if any(told := [t for t in (_wrong_rows(table, block, world, local_world) for block in blocks) if t]):
        return told[0]
    return None


def _wrong_rows(table: PlannedTable, block: list[PlannedShard], world: int, local_world: int) -> str | None:
    """The same of the shards of one range of columns: their rows and ranks."""
    ranks = [shard.rank for shard in block]
    first = ranks[0] - ranks[0] % local_world
    match SHARDINGS[table.sharding].rows:
        case "world":
            wanted = list(range(world))
        case "node":
            wanted = list(range(first, first + local_world))
        case "whole":
            wanted = ranks[:1]
    if ranks != wanted:
        return f"{table.sharding} shards on ranks {ranks}; they must be on {wanted}, one each, in order"
    share = math.ceil(table.rows / len(wanted))
    rows = [(number * share, min(share, table.rows - number * share)) for number in range(len(wanted))]
    if [(shard.offset[0], shard.size[0]) for shard in block] != rows:
        return f"the shards' rows must be {rows} (first row, rows)"
    return None
