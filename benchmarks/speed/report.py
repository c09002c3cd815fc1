"""The benchmark's run and its Markdown: rows/s, ratios, and the distance from the machine's floor."""

import argparse
import statistics
import sys
from pathlib import Path

import torch

from benchmarks.speed.compare import Entry, compare, ratios
from benchmarks.speed.hardware_limits import measure_floor
from benchmarks.speed.workload import Shape
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.logs import BenchmarkLogs, write_logs
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.terminal.wording import plural

# (what, faster, slower or equal): the claims, each a ratio of times within a round.
CLAIMS = (
    ("loader over step", "loader", "step"),
    ("sliding metrics over the step that they are part of", "metrics", "step"),
    ("end to end over its step alone", "end_to_end", "step"),
    ("end to end over a bare DMP step", "end_to_end", "bare_dmp"),
    ("step over a bare DMP step", "step", "bare_dmp"),
    ("end to end over torch-rechub", "end_to_end", "torch-rechub"),
    ("step over nn.EmbeddingBag(sparse) + Adagrad", "step", "plain"),
)


def entries_of(ranks: int, threads: int, rechub: bool, only: list[str] | None) -> list[Entry]:
    """The contenders on `ranks` ranks of `threads` threads; those that can not be sharded on one rank only.

    Raises ConfigError if `only` names one that does not exist, or that can not run so.
    """
    alone = ["plain", *(["torch-rechub"] if rechub else [])] if ranks == 1 else []
    names = ["loader", "metrics", "step", "end_to_end", "bare_dmp", *alone]
    for name in only or ():
        if name not in (*names, "plain", "torch-rechub"):
            raise ConfigError(f"--only {name}: there is no such contender; {nearest(name, names) or ', '.join(names)}")
        if name not in names and ranks > 1:
            raise ConfigError(f"--only {name}: it can not be sharded; use --ranks 1")
        if name not in names:
            raise ConfigError(f"--only {name}: name the Python of an environment that has it, --rechub PYTHON")
    return [Entry(name, ranks, threads) for name in names if only is None or name in only]


def logs_of(options: argparse.Namespace) -> tuple[Shape, str]:
    """The shape that the options name and the folder of its logs, made where they are not there yet."""
    folder = Path(options.folder) / f"{options.rows}"
    if not manifest.exists(folder / "train"):
        write_logs(BenchmarkLogs(rows_per_table=options.rows), folder / "train", options.logs, "train")
    return Shape(rows=options.rows), str(folder)


def report(entries: list[Entry], options: argparse.Namespace) -> str:
    """Measure and describe. `options`: rows, threads, rounds, steps, logs, folder, rechub."""
    shape, folder = logs_of(options)
    commands = {entry: _command(entry.name, shape, folder, options.rechub) for entry in entries}
    found = {entry: one.seconds for entry, one in compare(commands, options.rounds, options.steps).items()}
    lines = [f"{shape.ids} tables x {shape.rows:,} rows x {shape.dim}, {shape.dense} dense, batch {shape.batch:,}", ""]
    lines += ["| contender | ms/step | rows/s |", "|---|---|---|"]
    for entry, seconds in found.items():
        middle = statistics.median(seconds)
        lines.append(f"| {entry.label} | {1e3 * middle:.1f} | {shape.batch / middle:,.0f} |")
    lines += ["", "| times as fast | median | quartiles |", "|---|---|---|"]
    for what, ours, theirs in CLAIMS:
        seconds = {entry.name: values for entry, values in found.items()}
        if ours in seconds and theirs in seconds:
            low, middle, high = ratios(seconds[theirs], seconds[ours])
            lines.append(f"| {what} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    torch.set_num_threads(options.threads)
    floor = measure_floor(shape)
    lines += [
        "",
        f"Floor with {plural(floor.threads, 'thread')}: {floor.gemm_flops / 1e9:.0f} GFLOP/s in the widest product, "
        f"{floor.row_seconds * 1e9:.0f} ns a random row; {shape.flops_per_step / 1e9:.1f} GFLOP and "
        f"{shape.batch * shape.ids:,} rows a step: at least {1e3 * floor.step_seconds:.0f} ms.",
    ]
    return "\n".join(lines)


def _command(name: str, shape: Shape, folder: str, rechub_python: str | None) -> list[str]:
    """How to start a process of a contender."""
    if name != "torch-rechub":
        return [sys.executable, "-m", "benchmarks.speed.worker", name, str(shape.rows), folder]
    sizes = [shape.rows, shape.ids, shape.dense, shape.dim, shape.batch]
    return [rechub_python, str(Path(__file__).with_name("rechub.py")), *map(str, sizes)]
