"""What a page is made of; page.html says how each looks."""

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from dist_mtl.tools.report.number_format import MISSING

Tone = Literal["good", "look", "bad", "plain"]


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a swatch, its name, and the last value."""

    name: str
    colour: int = 0  # 1..8; 0: ink
    value: str = ""
    mark: Literal["line", "area", "dot", "rule"] = "line"


@dataclass(frozen=True)
class Figure:
    """A chart with its words."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    value: str = ""  # the one number of the chart
    note: str = ""


@dataclass(frozen=True)
class Figures:
    figures: tuple[Figure, ...]
    heading: str = ""
    lede: str = ""
    kind: str = "figures"


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A table's cell; `note` stands small below."""

    text: str = MISSING
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heading: str = ""
    note: str = ""
    shape: Literal["plain", "metrics", "log"] = "plain"  # what becomes of it on a phone; plain: it scrolls in its box
    kind: str = "table"


@dataclass(frozen=True)
class Pair:
    """A figure beside its table; on a phone above it."""

    figure: Figure
    table: Table
    heading: str = ""
    kind: str = "pair"


@dataclass(frozen=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True)
class Facts:
    facts: tuple[Fact, ...]
    heading: str = ""
    chips: tuple[Fact, ...] = ()  # many small ones
    kind: str = "facts"


@dataclass(frozen=True)
class Code:
    """Lines shown when asked for."""

    summary: str
    lines: tuple[str, ...]
    kind: str = "code"


Block = Figures | Table | Pair | Facts | Code


@dataclass(frozen=True)
class Section:
    """A part of the page. Without blocks it says in `missing` how to get some."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = ()
    lede: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Tile:
    """A number of the headline."""

    name: str
    value: str
    detail: str = ""
    notes: tuple[str, ...] = ()
    svg: Markup = Markup("")
    tone: Tone = "plain"


@dataclass(frozen=True)
class Finding:
    """A sentence of the verdict."""

    tone: Tone
    text: str
    what: str = ""  # to do next
