"""A configuration to start from, for columns of which a few facts are known: valid as it is, and meant to be edited."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dist_mtl.config.table_rules import table_name_for

UNIQUE = 0.9  # an id that so many of the rows have for themselves tells nothing of later rows
FEW_ROWS = 100  # below, every column looks so
# Ids -> dim of their table. Wider tables pay where an id has many rows to learn from; these are common starting points.
DIMS = ((10, 4), (1_000, 8), (1_000_000, 16))
WIDEST = 32


@dataclass(frozen=True)
class Facts:
    """What is known of a column that can be a feature."""

    kind: Literal["id", "bag", "dense", "bucket"]
    rows: int = 0
    nulls: int = 0
    cardinality: int = 0  # of ids, or of the ids in the lists
    closed: int = 0  # > 0: the ids are 0 ... closed - 1, nearly all of them seen
    max_length: int = 0  # of a bag
    standard: tuple[bool, float, float] = (False, 0.0, 1.0)  # (log, mean, std) of a number
    boundaries: tuple[float, ...] = ()  # of a number that is looked up by bucket
    remark: str = ""
    out: str = ""  # why it is no feature

    @property
    def reason_out(self) -> str:
        """Why it is no feature, or an empty string."""
        if self.out or self.nulls < self.rows:
            if self.out or self.kind in ("dense", "bucket"):
                return self.out
            if self.cardinality < 2:
                return "one value only"
            each = self.kind == "id" and self.cardinality > UNIQUE * self.rows and self.rows > FEW_ROWS
            return "nearly every row has a value of its own" if each else ""
        return "always null"


@dataclass(frozen=True)
class Sources:
    """Where the rows are and what their labels are; `broken`: the rows that break the funnel."""

    train: str
    test: str | None
    labels: tuple[str, ...]
    validation: str | None = None
    funnel: bool = True
    broken: int = 0
    note: str = ""  # what was counted


def config(columns: Mapping[str, Facts], sources: Sources) -> str:
    """The configuration as TOML. Columns whose facts speak against them are named in a comment."""
    names, used = _feature_names(columns), set()
    tables, features, left_out = [], [], []
    for column, facts in columns.items():
        if facts.reason_out:
            left_out.append(f"{column}: {facts.reason_out}")
            continue
        name = names[column]
        table = table_name_for(name, used | ({*names.values()} - {name}))  # `items` -> `items_`
        if facts.kind == "bucket":
            name = table  # it makes the table of its own name
        if facts.kind != "dense":
            used.add(table)
        origin = "" if name == column else f"column = {json.dumps(column)}"
        remark = f"  # {facts.remark}" if facts.remark else ""
        features.append(f"{name} = {{ {_inside(facts, origin, '' if name == table else table)} }}{remark}")
        if facts.kind in ("id", "bag"):
            rows = facts.closed or table_rows(facts.cardinality)
            tables.append(f"{table} = {{ rows = {rows}, dim = {dim_of(rows)} }}  # about {facts.cardinality:,} ids")
    lines = [*_head(sources, left_out), "\n[tables]", *tables, "\n[features]", *features, *_tail(sources)]
    return "\n".join(lines) + "\n"


def table_rows(ids: int) -> int:
    """Rows for so many ids: 16 times as many while that is cheap (6 % of the ids share one), else twice (39 %)."""
    rows = max(16, ids * (16 if ids <= 1_000 else 4 if ids <= 100_000 else 2))
    scale = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // scale) * scale


def dim_of(rows: int) -> int:
    """The dim of a table of so many rows."""
    return next((dim for most, dim in DIMS if rows <= most), WIDEST)


def standard_of(count: int, sums: tuple[float, float, float, float], largest: float) -> tuple[bool, float, float]:
    """(log, mean, std): how to standardise a number, by its logarithm if it is heavy-tailed.

    `sums`: of x, x**2, f(x), f(x)**2 over `count` values, f = sign(x) log(1 + |x|); `largest`: of |x|.
    """
    mean, square, log_mean, log_square = (x / max(1, count) for x in sums)
    std = max(square - mean**2, 0.0) ** 0.5
    if std and (largest - abs(mean)) / std > 10:  # a normal column of 10**9 rows reaches 6
        return True, log_mean, max(log_square - log_mean**2, 1e-12) ** 0.5
    return False, mean, std or 1.0


def infinities(count: int) -> str:
    """Why a number with so many infinities is no feature as it is; nothing if it has none."""
    return f"{count:,} values are infinite; set `clip`" if count else ""


def _inside(facts: Facts, origin: str, table: str) -> str:
    """The keys of a feature."""
    parts = [f'kind = "{facts.kind}"', origin]
    match facts.kind:
        case "bucket":
            parts.append(f"boundaries = [{', '.join(repr(float(b)) for b in facts.boundaries)}]")
        case "dense":
            log, mean, std = facts.standard
            parts.append(f"{'log = true, ' * log}mean = {mean:.6g}, std = {std:.6g}")
        case _:
            parts.append(f'table = "{table}"' if table else "")
            parts.append('policy = "reject"' if facts.closed else "")
            parts.append(f"max_length = {facts.max_length}" if facts.kind == "bag" and facts.max_length else "")
    return ", ".join(part for part in parts if part)


def _head(sources: Sources, left_out: list[str]) -> list[str]:
    labels = sources.labels
    broken = bool(sources.funnel and sources.broken)
    return [
        "# Suggested from the data: edit at will. Integers became ids: make counts and amounts kind = 'dense'.",
        *([f"# {sources.note}"] if sources.note else []),
        *(f"# Left out: {reason}" for reason in left_out),
        "\n[run]",
        'dir = "runs/mine"',
        "\n[data]",
        f"train = {json.dumps(sources.train)}",
        f"test = {json.dumps(sources.test)}" if sources.test else '# test = "..."',
        *([f"validation = {json.dumps(sources.validation)}"] if sources.validation else []),
        f"labels = {json.dumps(list(labels))}",
        *([f'violations = "drop"  # {sources.broken:,} rows break the funnel'] * broken),
        *(["funnel = false  # no label implies another", "\n[model]", 'head = "independent"'] * (not sources.funnel)),
    ]


def _tail(sources: Sources) -> list[str]:
    return ["\n[train]", "evaluate_every_rows = 1_000_000  # on the validation rows"] if sources.validation else []


def _feature_names(columns: Mapping[str, Facts]) -> dict[str, str]:
    """Column -> a name that TOML takes without quotes; two columns never get one name."""
    names: dict[str, str] = {}
    for column in columns:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", column) or "_"
        while plain in names.values() or (plain != column and plain in columns):
            plain += "_"
        names[column] = plain
    return names
