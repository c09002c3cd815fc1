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

from dist_mtl.config import RunConfig
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.evaluate import Evaluation
from dist_mtl.hints import plural
from dist_mtl.metrics.task import TaskMetrics
from dist_mtl.outputs import HeldFolder, check_named, check_outputs, claim
from dist_mtl.tensorboard import TensorBoard
from dist_mtl.terminal.console import Console, Table, Words, progress_bars
from dist_mtl.terminal.printable import printable

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


def _step_line(e: dict[str, Any]) -> str:
    aucs = " ".join(f"{task} {_auc(metrics['auc'])}" for task, metrics in e["window"].items())
    wait = f"data wait {e['data_wait']:.0%}"
    speed = f"{e['rows_per_second']:,.0f} rows/s"
    loss = "--" if math.isnan(e["loss"]) else f"{e['loss']:.4f}"
    return f"loss {loss} | AUC {aucs} | {speed} | {wait} | {_duration(e['eta_seconds'])} left"


def _auc(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.4f}".removeprefix("0")


def _line(name: str, e: dict[str, Any]) -> str | None:
    """The line for a person, or None for events that only the stream keeps."""
    match name:
        case "sample_logs":
            return f"sample logs  {e['train']} and {e['test']} made in {e['seconds']:.1f} s"
        case "fitted":
            names = ", ".join(e["features"])
            return f"fitted       to the training rows in {e['seconds']:.1f} s: {names}"
        case "base_rates":
            rates = ", ".join(f"{label} {rate:.3g}" for label, rate in e["rates"].items())
            return f"base rates   counted in {e['seconds']:.1f} s, the towers begin there: {rates}"
        case "start":
            return (
                f"start        {plural(e['rows'], 'row')}, {plural(e['steps'], 'step')} of "
                f"{plural(e['global_batch'], 'row')} "
                f"on {plural(e['world'], 'rank')}, {e['device']}; tables {e['table_bytes'] / 1e6:,.1f} MB"
                + (
                    f"\nnote         {plural(e['idle_gpus'], 'GPU stays', 'GPUs stay')} idle: more ranks than "
                    "GPUs on a node" * bool(e["idle_gpus"])
                )
            )
        case "warning" | "advice":
            return f"{name:<12} {e['message']}"
        case "selection_reset":
            return (
                f"selection    begins anew: `select` or the validation rows have changed (the best was step "
                f"{e['best_step']:,})"
            )
        case "resume":
            return f"resume       from step {e['step']:,} ({e['folder']})"
        case "step":
            return f"step {e['step']:>7,}/{e['steps']:,} {_step_line(e)}"
        case "evaluation" if not e["final"]:
            aucs = " ".join(f"{task} {_auc(metrics['auc']['value'])}" for task, metrics in e["tasks"].items())
            score = "" if e["score"] is None else f" | score {e['score']:.5f}"
            where = f" on {e['partition']}" if "partition" in e else ""
            rest = f"{aucs}{score} | {plural(e['rows'], 'row')} in {e['seconds']:.1f} s"
            return f"evaluation   step {e['step']:,}{where} AUC {rest}"
        case "progressive":
            aucs = " ".join(
                f"{task} {_auc(m['auc'])} (lowest {_auc(m['lowest_auc'])}, {e['by']} {m['lowest_partition']})"
                for task, m in e["tasks"].items()
                if m["auc"] is not None
            )
            return f"progressive  {e['partitions']} x {e['by']}, each before it was trained: mean AUC {aucs}"
        case "commit":
            why = "" if e["reason"] == "periodic" else f" ({e['reason']})"
            behind = f", training waited {e['blocked']:.2f} s" if e["blocked"] < 0.9 * e["seconds"] else ""
            return f"commit       step {e['step']:,} in {e['seconds']:.1f} s{behind}{why}"
        case "commit_failed":
            return (
                f"NO COMMIT    of step {e['step']:,}: {e['message']}. {e['failed']} in a row; more than {e['allowed']} "
                f"end the run (train.failed_commits)"
            )
        case "damaged_commit":
            return f"DAMAGED      {e['message']}. It is now {e['folder']}; the run goes on from an older commit"
        case "skip":
            return f"SKIPPED      {e['reason']} ({e['skipped']} of {e['allowed']}, train.skip_nonfinite)"
        case "early_stop":
            return (
                f"stopped      {plural(e['stale'], 'evaluation')} without a gain; the best is step {e['best_step']:,}, "
                f"score {e['best_score']:.5f}"
            )
        case "quarantine":
            return (
                f"quarantine   {e['path']}, row group {e['row_group']}: "
                f"{plural(e['rows'], 'row is', 'rows are')} skipped from step "
                f"{e['step']:,} on. {e['reason']}"
            )
        case "counts" if e["dropped"] or e["clamped"] or e["lost"] or e["skipped"] or e.get("dynamic"):
            told = (
                f"counts       {plural(e['dropped'], 'row')} dropped (label rules), {plural(e['clamped'], 'id')} "
                "clamped"
            )
            if e["lost"]:
                groups = plural(e["lost"], "damaged row group")
                told += f", {plural(e['quarantined'], 'row')} of {groups} skipped (data.quarantine)"
            if e["skipped"]:
                told += f", {plural(e['skipped'], 'step')} not trained (train.skip_nonfinite)"
            return "\n".join([told, *(_ids_line(table, of) for table, of in e.get("dynamic", {}).items())])
        case "done":
            return f"done         {plural(e['steps'], 'step')} in {e['seconds']:.1f} s"
    return None


def _ids_line(table: str, of: dict[str, int]) -> str:
    taken, without = of["occupied"] / of["rows"], of["fallback"] / max(1, of["lookups"])
    return (
        f"dynamic ids  {table}: {taken:.0%} of {plural(of['rows'], 'row')} taken, "
        f"{plural(of['admitted'], 'id')} admitted, "
        f"{of['evicted']:,} evicted; {without:.1%} of the lookups had no row of their own"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def write_json(path: str, found: Any, *runs: str) -> None:
    """Write a dataclass of results; undefined metrics as null. `runs`: folders that a link must not lead out of.

    Raises DataError if the disk refuses, ConfigError for such a link.
    """
    check_named(path, *runs)
    try:
        Path(path).write_text(json.dumps(jsonable(asdict(found)), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"{path}: can not be written: {error.strerror}") from None


def print_table(evaluation: Evaluation, title: str) -> None:
    """The end-of-run tables on stdout: each task on its own space; then by slice and within groups, if any."""
    console = Console()
    table = _table(title, ["task", *_columns(bool(evaluation.ceiling))])
    for name, m in evaluation.tasks.items():
        table.add_row(name.upper(), *_cells(m, evaluation.ceiling, name))
    console.print(table)
    for column, slices in evaluation.slices.items():
        table = _table(f"by {column}", [column, "task", *_columns(False)])
        for value, tasks in slices.items():
            for name, m in tasks.items():
                table.add_row(value, name.upper(), *_cells(m, {}, name))
            table.add_section()
        console.print(table)
    for column, tasks in evaluation.groups.items():
        cuts = list(next(iter(tasks.values())).ndcg)
        ranked = [f"NDCG@{k}" for k in cuts]
        table = _table(f"within {column}", ["task", "groups", "GAUC", "+-", "unweighted", *ranked, "MRR", "of groups"])
        for name, g in tasks.items():
            values = (g.gauc, 1.96 * g.gauc_error, g.gauc_unweighted, *(g.ndcg[k] for k in cuts), g.mrr)
            cells = (f"{value:.4f}" for value in values)
            table.add_row(name.upper(), f"{g.groups:,}", *cells, f"{g.groups_with_positive:,}")
        console.print(table)
    for message in evaluation.advice:
        console.print(f"advice: {message}", soft_wrap=True)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title)
    for place, column in enumerate(columns):
        words = place == 0 or column == "task"
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _columns(with_ceiling: bool) -> list[str]:
    known = ["ceiling", "reached"] if with_ceiling else []
    return ["rows", "positives", "AUC", "95 % interval", *known, "logloss", "NE", "PCOC"]


def _cells(m: TaskMetrics, ceilings: dict[str, float], task: str) -> list[str]:
    cells = [f"{m.rows:,.0f}", f"{m.positives:,.0f}", f"{m.auc.value:.4f}", f"{m.auc.low:.4f}-{m.auc.high:.4f}"]
    if ceilings:
        ceiling = ceilings.get(task)
        cells += ["", ""] if ceiling is None else [f"{ceiling:.4f}", f"{(m.auc.value - 0.5) / (ceiling - 0.5):.1%}"]
    return [*cells, f"{m.logloss:.5f}", f"{m.normalised_entropy:.4f}", f"{m.pcoc:.3f}"]
