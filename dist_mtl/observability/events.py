"""What a run says: a JSONL stream of events, and the lines for a person rendered from them. First rank only."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.observability.console import _line, _step_line
from dist_mtl.observability.run_dir import HeldFolder, check_named, check_outputs, claim
from dist_mtl.observability.tensorboard import TensorBoard
from dist_mtl.terminal.console import Console, Words, progress_bars
from dist_mtl.terminal.printable import printable
from dist_mtl.terminal.wording import plural

STREAM = "events.jsonl"


class Stream:
    """`events.jsonl`: each event a line, in one write without a buffer, so that a fault belongs to its own event."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._torn = path, path.open("ab", buffering=0), False
        claim(self._file, path)

    def write(self, event: dict[str, Any]) -> None:
        """Raises OSError."""
        text = json.dumps(jsonable(event), allow_nan=False) + "\n"
        line = memoryview((("\n" if self._torn else "") + text).encode())
        left = line
        while left:
            left = left[self._file.write(left) :]
            self._torn = 0 < len(left) < len(line)

    def close(self) -> None:
        self._file.close()


class Observer:
    """Takes events; writes RUN/events.jsonl and tells a person on stderr. Silent if not `speaking`.

    A folder that can not be written to is refused at the start. Later a full disk costs the events, not the training:
    the first fault is told, the others are counted, and each event is tried anew, since there may be room again.
    TensorBoard's file, which has no lines, ends with its first fault.
    """

    def __init__(self, run: RunConfig, speaking: bool) -> None:
        self.speaking = speaking
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stream: Stream | None = None
        self._lost = 0
        self._folder: HeldFolder | None = None
        self._run_dir = Path(run.dir)
        if speaking:
            check_outputs(run.dir)
        self._board = TensorBoard(run.dir) if speaking and run.tensorboard else None
        if speaking:
            try:
                Path(run.dir).mkdir(parents=True, exist_ok=True)
                self._stream = Stream(Path(run.dir) / STREAM)
                self._folder = HeldFolder(run.dir)
            except OSError as error:
                raise ConfigError(f"run.dir = '{run.dir}': {error.strerror}; choose a folder to write to") from None

    def has_moved(self) -> bool:
        """Whether the run's folder was renamed, replaced or removed meanwhile. The first rank knows; else False."""
        return self._folder is not None and self._folder.has_moved()

    def run_dir(self) -> Path | None:
        """Where the run's folder is now; None if it was removed. On the first rank; elsewhere where it began."""
        return self._run_dir if self._folder is None else self._folder.now()

    def event(self, name: str, **fields: Any) -> None:
        """Record an event and render its line, if it has one."""
        if self._stream is None:
            return
        try:
            self._stream.write({"event": name, "time": round(time.time(), 3), **fields})
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                why = f"{self._stream.path}: {error.strerror}"
                self._say(f"warning      {why}; events are lost until it can be written again, training goes on")
        if self._board is not None:
            self._on_board(lambda: self._board.event(name, fields))
        if name == "step" and self._bar is not None:
            self._bar.update(self._task, completed=fields["step"], rest=_step_line(fields))
        elif (line := _line(name, _printable(fields))) is not None:
            self._say(line)

    def _on_board(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            board, self._board = self._board, None
            with suppress(OSError):  # it closes the file, but can not write the rest either
                board.close()
            self._say(f"warning      TensorBoard: {error.strerror}; its scalars end here, training goes on")

    def _say(self, line: str) -> None:
        # Plain print: rich would wrap a line in a log at 80 columns.
        with suppress(OSError):  # a stderr that is not cli.run's, on a full disk: the training must go on
            self._bar.console.print(line) if self._bar else print(line, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, done: int, total: int) -> Iterator[None]:
        """A progress bar while steps come in, on a terminal; plain lines otherwise."""
        if not self.speaking or not self.console.is_terminal:
            yield
            return
        columns = Words("step {task.completed}/{task.total}"), BarColumn(None), Words("{task.fields[rest]}")
        with progress_bars(*columns, console=self.console) as self._bar:
            self._task = self._bar.add_task("train", total=total, completed=done, rest="")
            yield
        self._bar = None

    def close(self) -> None:
        """Close the streams, and tell how many events were lost."""
        if self._stream is not None:
            self._stream.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        if self._lost:
            self._say(f"warning      {plural(self._lost, 'event')} could not be written to {self._stream.path}")
        if self._board is not None:
            self._on_board(self._board.close)


def _printable(value: Any) -> Any:
    """The fields of an event without a newline of others: the lines of the console are ours."""
    if isinstance(value, dict):
        return {_printable(key): _printable(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(below) for below in value]
    return printable(value) if isinstance(value, str) else value


def jsonable(value: Any) -> Any:
    """`value` with what JSON can not say (NaN, infinity: an undefined metric) as null."""
    if isinstance(value, dict):
        return {key: jsonable(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str, found: Any, *runs: str) -> None:
    """Write a dataclass of results; undefined metrics as null. `runs`: folders that a link must not lead out of.

    Raises DataError if the disk refuses, ConfigError for such a link.
    """
    check_named(path, *runs)
    try:
        Path(path).write_text(json.dumps(jsonable(asdict(found)), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"{path}: can not be written: {error.strerror}") from None
