"""Tables, styled lines and progress bars on a terminal, in which no text is markup and every text is printable.

The only importer of rich: a string that it is given is data.
"""

import os
import sys
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleDimensions
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from dist_mtl.terminal.printable import printable
from dist_mtl.terminal.streams import plain

NARROWEST, WIDEST = 40, 4_000  # characters; below it rich cuts cells to nothing, and a terminal may say 1 or 0
LOG_WIDTH = 120  # of tables in a file or a pipe


class Console(RichConsole):
    """rich's console; `wide`: the width where there is no terminal."""

    def __init__(self, stderr: bool = False, wide: int = LOG_WIDTH) -> None:
        stream = plain(sys.stderr if stderr else sys.stdout)
        # rich believes COLUMNS and LINES, whatever they say: 0, or a digit that is none of int's
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        super().__init__(
            file=stream,
            width=None if stream is not None and stream.isatty() else wide,  # None: a process without that stream
            markup=False,
            emoji=False,
            highlight=False,
            _environ=environment,
        )

    @property
    def size(self) -> ConsoleDimensions:
        width, height = super().size
        return ConsoleDimensions(min(max(width, NARROWEST), WIDEST), max(height, 10))

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n"), **options | {"markup": False, "emoji": False})


class Table(RichTable):
    """A table with its title at the left. A newline within a cell is escaped as well; `stacked` makes one of ours."""

    def __init__(self, title: str, **options: Any) -> None:
        super().__init__(title=printable(title), title_justify="left", title_style="bold", **options)

    def add_column(self, header: str = "", **options: Any) -> None:
        super().add_column(printable(header), **options)

    def add_row(self, *cells: "str | Text", **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def styled(text: str, style: str = "") -> Text:
    """A line in a style; a newline in it is escaped, as in a cell."""
    return Text(printable(text), style=style)


def stacked(*lines: str) -> Text:
    """A cell of several lines."""
    return Text("\n".join(map(printable, lines)))


class Words(ProgressColumn):
    """A column of a progress bar: `template` formatted with the task."""

    def __init__(self, template: str) -> None:
        super().__init__()
        self._template = template

    def render(self, task: Task) -> Text:
        return Text(printable(self._template.format(task=task)))


def progress_bars(*columns: ProgressColumn, console: Console | None = None) -> Progress:
    """Bars on stderr, each a row of `columns`."""
    # Not through rich's proxy of stdout and stderr: it reads escape sequences of what is printed as styles.
    console = console or Console(stderr=True)
    return Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)


def usual_columns() -> tuple[ProgressColumn, ...]:
    """Description, bar, share, time left."""
    return Words("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
