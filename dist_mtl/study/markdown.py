"""Sections as Markdown: tables, and lines to unfold. Charts are for the page."""

from collections.abc import Sequence

from dist_mtl.report.blocks import Block, Cell, Code, Section, Table


def markdown(title: str, parts: Sequence[Section]) -> str:
    """The document."""
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {part.title}", "", part.lede, ""]
        for block in part.blocks:
            lines += _block(block)
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block) -> list[str]:
    match block:
        case Table():
            head = f"| {' | '.join(_escaped(column.name) for column in block.columns)} |"
            rule = f"|{'|'.join('---:' if column.numeric else '---' for column in block.columns)}|"
            return [head, rule, *(f"| {' | '.join(map(_cell, row))} |" for row in block.rows), ""]
        case Code():
            fence = "`" * (1 + max((len(run) for line in block.lines for run in _runs(line)), default=2))
            inside = [fence, *block.lines, fence]
            return ["<details>", f"<summary>{_escaped(block.summary)}</summary>", "", *inside, "", "</details>", ""]
        case _:
            return []


def _cell(cell: Cell) -> str:
    return _escaped(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _escaped(text: str) -> str:
    """What could end a cell or be taken for a tag; the words are names and messages that others wrote."""
    for found, told in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(found, told)
    return text


def _runs(line: str) -> list[str]:
    """Runs of backticks that a fence has to outdo; a fence has three at least."""
    return ["``", *("".join(c if c == "`" else " " for c in line).split())]
