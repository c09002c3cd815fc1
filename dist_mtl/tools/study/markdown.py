"""Sections as Markdown: tables, and lines to unfold. Charts are for the page."""

import re
from collections.abc import Sequence

from dist_mtl.terminal.printable import printable
from dist_mtl.tools.report.blocks import Block, Cell, Code, Section, Table

ACTIVE = re.compile(r"[\\`*\[\]~|]|(?<!\w)_|_(?!\w)")  # what Markdown reads as more than a letter; a_b stays


def markdown(title: str, parts: Sequence[Section]) -> str:
    """The document."""
    lines = [f"# {plain(title)}", ""]
    for part in parts:
        lines += [f"## {plain(part.title)}", "", printable(part.lede), ""]
        for block in part.blocks:
            lines += _block(block)
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block) -> list[str]:
    match block:
        case Table():
            head = f"| {' | '.join(plain(column.name) for column in block.columns)} |"
            rule = f"|{'|'.join('---:' if column.numeric else '---' for column in block.columns)}|"
            return [head, rule, *(f"| {' | '.join(map(_cell, row))} |" for row in block.rows), ""]
        case Code():
            fence = "`" * (1 + max((len(run) for line in block.lines for run in _runs(line)), default=2))
            inside = [fence, *map(printable, block.lines), fence]
            return ["<details>", f"<summary>{plain(block.summary)}</summary>", "", *inside, "", "</details>", ""]
        case _:
            return []


def _cell(cell: Cell) -> str:
    return plain(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def plain(text: str) -> str:
    """Names and messages that others wrote, as text: they end no cell, and make no tag, link or emphasis."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ACTIVE.sub(r"\\\g<0>", text)


def code(text: str) -> str:
    """A span of code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * ("`" in text)
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


def _runs(line: str) -> list[str]:
    """Runs of backticks that a fence has to outdo; a fence has three at least."""
    return ["``", *("".join(c if c == "`" else " " for c in line).split())]
