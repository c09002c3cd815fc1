"""What a conversion shows: a bar while files are read, then a line about each dataset and the rows."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.terminal.console import Words, progress_bars
from dist_mtl.terminal.printable import printable
from dist_mtl.terminal.wording import plural
from dist_mtl.tools.convert.lines import bytes_of
from dist_mtl.tools.convert.parts import OnProgress
from dist_mtl.tools.convert.tally import Tally


@contextmanager
def progress(paths: Sequence[str | Path]) -> Iterator[OnProgress]:
    """A bar on stderr while `paths` are read: the share of their bytes, rows and rates."""
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        Words("{task.fields[told]}"),
        TimeElapsedColumn(),
        Words("left"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with progress_bars(*columns) as bars:
        bar = bars.add_task("", total=bytes_of(paths), told="")

        def on_progress(num_bytes: int, rows: int) -> None:
            seconds = max(time.monotonic() - start, 1e-3)
            told = f"{plural(rows, 'row')}, {rows / seconds:,.0f} rows/s, {num_bytes / seconds / 1e6:,.0f} MB/s"
            bars.update(bar, completed=num_bytes, told=told)

        yield on_progress


def tell_all(out: str, made: dict[str, Manifest], tally: Tally | None = None) -> None:
    """A line about each dataset, and lines about what became of the rows, on stdout."""
    for name, listed in made.items():
        tell(Path(out) / name, listed)
    if tally is not None:
        print("\n".join(map(printable, tally.told())))


def tell(folder: str | Path, listed: Manifest) -> None:
    """One line about a dataset, on stdout."""
    print(
        f"{folder}: {plural(listed.num_rows, 'row')} in {plural(len(listed.files), 'file')}, digest "
        f"{listed.digest[:16]}"
    )
