"""A suggested configuration as TOML: what was decided about columns, rows and training, in writing."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dist_mtl.config.file import readable
from dist_mtl.config.table_rules import table_name_for


@dataclass(frozen=True)
class Use:
    """A column as a feature. `rows`, `dim`: of the table that it is looked up in."""

    kind: Literal["id", "bag", "dense", "bucket"]
    keys: tuple[str, ...] = ()  # further keys of the feature, as TOML
    rows: int = 0
    dim: int = 0
    remark: str = ""

    @property
    def suffix(self) -> str:
        """Of its name, where a column is used in several ways."""
        return {"bucket": "_bucket", "dense": "_number"}.get(self.kind, "")


@dataclass(frozen=True)
class Suggested:
    """All that a configuration says. `uses`: column -> its features; `left_out`: column -> why it has none."""

    uses: Mapping[str, tuple[Use, ...]]
    left_out: Mapping[str, str]
    train: str
    held_out: Mapping[str, str]  # `validation`, `test` -> folder
    labels: tuple[str, ...]
    name: str  # of the dataset, for run.dir
    data: tuple[str, ...] = ()  # further lines of [data]
    notes: tuple[str, ...] = ()  # comments at the top
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # section -> its lines


def toml(of: Suggested) -> str:
    """The text. Its run.dir is a function of everything else in it: another dataset or choice, another folder."""
    names, tables, features = _names(of.uses), [], []
    for (column, number), name in names.items():
        use = of.uses[column][number]
        table = _table(name, use, names.values())
        parts = [f'kind = "{use.kind}"', f"column = {quoted(column)}" if name != column else ""]
        if use.kind in ("id", "bag"):
            tables.append(f"{table} = {{ {_table_keys(use)} }}")
            parts.append(f'table = "{table}"' if table != name else "")
        remark = f"  # {readable(use.remark)}" if use.remark else ""
        features.append(f"{name} = {{ {', '.join(part for part in (*parts, *use.keys) if part)} }}{remark}")
    body = [
        "\n[data]",
        f"train = {quoted(of.train)}",
        *(f"{key} = {quoted(folder)}" for key, folder in of.held_out.items()),
        f"labels = [{', '.join(map(quoted, of.labels))}]",
        *of.data,
        *(["\n[tables]", *tables] if tables else []),
        "\n[features]",
        *features,
        *(line for section, lines in of.settings.items() for line in (f"\n[{section}]", *lines)),
    ]
    head = ["Suggested from the data: a start, to be edited.", *of.notes]
    head += [f"Left out: {column}: {why}" for column, why in of.left_out.items()]
    digest = hashlib.sha256("\n".join([of.name, *of.notes, *body]).encode()).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", of.name).strip("._")[:60] or "mine"
    run = ["\n[run]", f'dir = "runs/{plain}-{digest}"']
    return "\n".join([*(f"# {readable(line)}" for line in head), *run, *body]) + "\n"


def quoted(text: str) -> str:
    """A TOML string. JSON's escapes are TOML's, but for DEL, and for the pairs that JSON makes of later characters."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _names(uses: Mapping[str, tuple[Use, ...]]) -> dict[tuple[str, int], str]:
    """(column, number of the use) -> a name that TOML takes without quotes; no two are equal.

    A column's only feature has the column's name, if that can be, so that it needs no `column`.
    """
    keep = {column for column in uses if re.fullmatch(r"[A-Za-z0-9_]+", column)}
    names: dict[tuple[str, int], str] = {}
    for column, several in uses.items():
        for number, use in enumerate(several):
            name = column if column in keep and not number else _free(column, use if number else None, keep, names)
            if use.kind == "bucket":  # it makes the table of its own name
                others = {*names.values(), *keep - {name}}
                name = table_name_for(name, others)
            names[column, number] = name
    return names


def _free(column: str, use: Use | None, keep: Collection[str], names: Mapping[tuple[str, int], str]) -> str:
    name = (re.sub(r"[^A-Za-z0-9_]", "_", column) or "_") + (use.suffix if use else "")
    while name in keep or name in names.values():
        name += "_"
    return name


def _table(name: str, use: Use, names: Collection[str]) -> str:
    """The table of a feature: of its name where a table can have it, and no other feature has."""
    return table_name_for(name, {*names} - {name}) if use.kind in ("id", "bag") else ""


def _table_keys(use: Use) -> str:
    pooling = ', pooling = "mean"' if use.kind == "bag" else ""
    return f"rows = {use.rows}, dim = {use.dim}{pooling}"
