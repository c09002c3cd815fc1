"""How far a study is: a line for each job that ends and, on a terminal, a bar; on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, TaskID
from rich.progress import Progress as Bar

from dist_mtl.terminal.console import Console, Words, progress_bars
from dist_mtl.tools.report.number_format import duration, plural


class Progress:
    """The stages one after another, each with its own count. What is left is reckoned from the jobs of this stage."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._todo = self._ended = self._later = 0
        self._started = 0.0
        self._waited: set[str] = set()

    @contextmanager
    def stage(self, name: str, todo: int, there: int, later: int = 0) -> Iterator[None]:
        """A stage: jobs to run, those that have their result already, and how many come in the stages after it."""
        self._todo, self._ended, self._later, self._started = todo, 0, later, time.monotonic()
        self._say(f"{name:<9} {plural(todo, 'job')} to run, {there} done before")
        if not self._console.is_terminal or not todo:
            yield
            return
        count = Words("{task.description} {task.completed}/{task.total}")
        columns = count, BarColumn(None), Words("{task.fields[rest]}")
        with progress_bars(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task(name, total=todo, rest="")
            yield
        self._bar = None

    def ended(self, name: str, seconds: float, failure: str | None) -> None:
        """A job has ended; `failure`: why it has no result."""
        self._ended += 1
        left = max(self._todo - self._ended, 0) + self._later
        rest = f"{duration((time.monotonic() - self._started) / self._ended * left)} left" if left else ""
        what = f"in {duration(seconds)}" if failure is None else f"FAILED, {failure}"
        self._say(f"{self._ended:>4}/{self._todo} {name} {what}" + (f" | {rest}" if rest and self._bar is None else ""))
        if self._bar is not None:
            self._bar.update(self._task, completed=self._ended, rest=rest)

    def waits(self, name: str, lock: Path) -> None:
        """A job waits for a process that is at work in its folder; told once."""
        if name not in self._waited:
            self._waited.add(name)
            pid = lock.read_text().strip() or "unknown"
            self._say(f"{'waiting':<9} {name}: process {pid}, of a study that was killed or of another one, is at it")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line)
        else:
            self._console.print(line, soft_wrap=True)
