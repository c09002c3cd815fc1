"""What a run says: one JSONL stream of events, and the lines for a person that are rendered from them. First rank only."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from dist_mtl.errors import ConfigError
from dist_mtl.evaluate import Evaluation

STREAM = "events.jsonl"


class Observer:
    """Takes events; writes `events.jsonl` below the run's folder and tells a person on stderr. Silent if not `speaking`."""

    def __init__(self, run_dir: str, speaking: bool) -> None:
        self.speaking = speaking
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stream = None
        if speaking:
            try:
                Path(run_dir).mkdir(parents=True, exist_ok=True)
                self._stream = (Path(run_dir) / STREAM).open("a")
            except OSError as error:
                raise ConfigError(f"run.dir = '{run_dir}': {error.strerror}; choose a folder to write to") from None

    def event(self, name: str, **fields: Any) -> None:
        """Record an event and render its line, if it has one."""
        if self._stream is None:
            return
        self._stream.write(
            json.dumps(_json({"event": name, "time": round(time.time(), 3), **fields}), allow_nan=False) + "\n"
        )
        self._stream.flush()
        if name == "step" and self._bar is not None:
            self._bar.update(self._task, completed=fields["step"], rest=_step_line(fields))
        elif (line := _line(name, fields)) is not None:
            # Plain print: rich would wrap a line in a log at 80 columns.
            self._bar.console.print(line, markup=False) if self._bar else print(line, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, done: int, total: int) -> Iterator[None]:
        """A progress bar while steps come in, on a terminal; plain lines otherwise."""
        if not self.speaking or not self.console.is_terminal:
            yield
            return
        columns = TextColumn("step {task.completed}/{task.total}"), BarColumn(None), TextColumn("{task.fields[rest]}")
        with Progress(*columns, console=self.console) as self._bar:
            self._task = self._bar.add_task("train", total=total, completed=done, rest="")
            yield
        self._bar = None

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            self._stream.close()


def _json(value: Any) -> Any:
    """`value` with what JSON can not say (NaN, infinity: an undefined metric) as null."""
    if isinstance(value, dict):
        return {key: _json(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_json(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_line(e: dict[str, Any]) -> str:
    losses = " ".join(f"{name} {value:.4f}" for name, value in e["losses"].items())
    wait = f"data wait {e['data_wait']:.0%}"
    return f"{losses} | {e['rows_per_second']:,.0f} rows/s | {wait} | {_duration(e['eta_seconds'])} left"


def _line(name: str, e: dict[str, Any]) -> str | None:
    """The line for a person, or None for events that only the stream keeps."""
    match name:
        case "sample_logs":
            return f"sample logs  {e['train']} and {e['test']} made in {e['seconds']:.1f} s"
        case "start":
            return (
                f"start        {e['rows']:,} rows, {e['steps']:,} steps of {e['global_batch']:,} rows on {e['world']} "
                f"rank(s), {e['device']}; tables {e['table_bytes'] / 1e6:,.1f} MB"
                + (
                    f"\nnote         {e['idle_gpus']} GPUs stay idle: more ranks than GPUs on a node"
                    * bool(e["idle_gpus"])
                )
            )
        case "resume":
            return f"resume       from step {e['step']:,} ({e['folder']})"
        case "step":
            return f"step {e['step']:>7,}/{e['steps']:,} {_step_line(e)}"
        case "commit":
            return f"commit       step {e['step']:,} in {e['seconds']:.1f} s"
        case "counts" if e["dropped"] or e["clamped"]:
            return f"counts       {e['dropped']:,} rows dropped (label rules), {e['clamped']:,} ids clamped"
        case "done":
            return f"done         {e['steps']:,} steps in {e['seconds']:.1f} s"
    return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def print_table(evaluation: Evaluation, title: str) -> None:
    """The end-of-run table on stdout: each task on its own space."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("task")
    columns = ["rows", "positives", "AUC", "95 % interval", "logloss", "NE", "PCOC"]
    if evaluation.ceiling:
        columns[4:4] = ["ceiling", "reached"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, m in evaluation.tasks.items():
        cells = [f"{m.rows:,.0f}", f"{m.positives:,.0f}", f"{m.auc.value:.4f}", f"{m.auc.low:.4f}-{m.auc.high:.4f}"]
        if evaluation.ceiling:
            ceiling = evaluation.ceiling.get(name)
            cells += ["", ""] if ceiling is None else [f"{ceiling:.4f}", f"{(m.auc.value - 0.5) / (ceiling - 0.5):.1%}"]
        table.add_row(name.upper(), *cells, f"{m.logloss:.5f}", f"{m.normalised_entropy:.4f}", f"{m.pcoc:.3f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
