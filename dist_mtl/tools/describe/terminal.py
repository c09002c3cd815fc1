"""The description as tables on a terminal."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from dist_mtl.terminal.console import Console, Table, progress_bars, styled, usual_columns
from dist_mtl.tools.describe import summary_tables
from dist_mtl.tools.describe.description import Description, Wish, describe
from dist_mtl.tools.describe.findings import findings
from dist_mtl.tools.describe.suggested_config import shown

STYLE = {"bad": "bold red", "look": "yellow", "good": "green", "plain": ""}
MARK = {"bad": "✗", "look": "!", "good": "✓", "plain": "·"}


def described(wish: Wish) -> Description:
    """Describe, with a bar of rows on stderr."""
    with progress_bars(*usual_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as bars:
        bar = bars.add_task("rows", total=None)
        return describe(wish, lambda rows: bars.update(bar, total=rows), lambda rows: bars.advance(bar, rows))


def show(description: Description, console: Console) -> None:
    """Findings, then the tables, then the suggested configuration."""
    console.print(styled(summary_tables.headline(description), "bold"))
    for finding in findings(description):
        console.print(styled(f"{MARK[finding.tone]} {finding.text}", STYLE[finding.tone]), styled(finding.what))
    for table in summary_tables.tables(description):
        console.print()
        console.print(_table(table.title, table.columns, table.rows))
        if table.note:
            console.print(styled(table.note, "dim"))
    console.print("\nA configuration to start from:", style="bold")
    console.print(shown(description), soft_wrap=True)


def _table(
    title: str, columns: Sequence[summary_tables.Column], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]
) -> Table:
    table = Table(title, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.name, justify="right" if column.numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
