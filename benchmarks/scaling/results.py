"""What was measured as figures: a row for each point of each series, with its ratios to the first one."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from benchmarks.scaling.measure import Measured
from benchmarks.speed.compare import ratios
from dist_mtl.terminal.printable import printable

# What a phase of parallel/pipeline.py's stopwatch is called on the page; the rest of a step is `other`.
PHASES = {
    "data": "data wait",
    "ids": "dynamic ids",
    "input_dist": "input distribution",
    "lookup": "embedding",
    "output_dist": "output distribution",
    "forward": "dense forward",
    "backward": "dense backward",
    "agree": "agreement",
    "tables": "embedding backward",
    "update": "optimizer",
}

LEAST = 2e-5  # seconds: what is less is a phase that the model does not have


@dataclass(frozen=True)
class Row:
    """One point in one series. Times in milliseconds, sizes in MB (1e6 bytes), both of a rank.

    `gain`, `low`, `high`: median and quartiles over the rounds of what the series asks. Weak and strong: efficiency,
    rows/s of a rank over that of the first point. Tables: a step's time over that of the first point.
    """

    series: str
    kind: str
    ranks: int
    rows_per_table: int | None
    global_batch: int
    interleaved: bool
    step_ms: float  # median, of the slowest rank
    rows_per_second: float
    gain: float
    low: float
    high: float
    collectives_ms: float  # under the profiler; on CPU beside other work
    tables_mb: float  # weights and states, of the rank that holds most
    tables_imbalance: float  # largest rank / mean
    memory_mb: float  # of the rank that holds most: resident set at its peak; on CUDA what was allocated there
    predicted_memory_mb: float | None
    predicted_step_ms: float | None


def rows_of(measured: Sequence[Measured]) -> list[Row]:
    """The rows, in the order of the series."""
    found = []
    for one in measured:
        first = next(other for other in measured if other.series is one.series)
        found.append(_row(one, first))
    return found


def _row(one: Measured, first: Measured) -> Row:
    point, kind = one.point, one.series.kind
    if kind == "tables":
        low, middle, high = ratios(one.seconds, first.seconds)
    else:  # rows/s of a rank
        work = (point.global_batch / point.ranks) / (first.point.global_batch / first.point.ranks)
        low, middle, high = (work * ratio for ratio in ratios(first.seconds, one.seconds))
    seconds = statistics.median(one.seconds)
    tables = [fact["table_bytes"] for fact in one.facts]
    peaks = [fact["device_peak"] or memory.peak for fact, memory in zip(one.facts, one.memory, strict=True)]
    return Row(
        series=one.series.name,
        kind=kind,
        ranks=point.ranks,
        rows_per_table=point.rows,
        global_batch=point.global_batch,
        interleaved=one.interleaved,
        step_ms=1e3 * seconds,
        rows_per_second=point.global_batch / seconds,
        gain=middle,
        low=low,
        high=high,
        collectives_ms=1e3 * max(sum(rank.values()) for rank in one.collectives),
        tables_mb=max(tables) / 1e6,
        tables_imbalance=max(tables) / statistics.mean(tables) if any(tables) else 1.0,
        memory_mb=max(peaks) / 1e6,
        predicted_memory_mb=_expected_mb(one),
        predicted_step_ms=1e3 * one.predicted.seconds if one.predicted else None,
    )


def _expected_mb(one: Measured) -> float | None:
    """As the peak is counted: on CPU with the process, on CUDA without what torch does not allocate."""
    if one.predicted is None:
        return None
    if one.facts[0]["device"] == "cpu":
        return 1e3 * one.predicted.most("host")
    return 1e3 * (one.predicted.most("hbm") - one.predicted.cluster.profile.process_device_gb)


def split_of(one: Measured) -> dict[str, float]:
    """Milliseconds of a step by phase, mean over the ranks, in the order of a step."""
    mean = {phase: statistics.mean(rank.get(phase, 0.0) for rank in one.split) for phase in PHASES}
    return {PHASES[phase]: 1e3 * seconds for phase, seconds in mean.items() if seconds > LEAST}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All rows, with a line of names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(replace(row, series=printable(row.series))) for row in rows)
