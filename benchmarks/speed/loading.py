"""The loader on one core, against pyarrow alone and against torch's DataLoader over the same Parquet.

Every round asks each contender in turn, and a ratio is taken within a round. Times are those of the processor, so that
other load on the machine counts little. Everything runs on one core: Arrow's threads and ours included. `user` leaves
out the kernel, which fills pages of memory that is used for the first time: on a virtual machine that gives free memory
back to its host, that took 2 to 36 us for the same row of 629 ids (seen), so the ratio of all is the noisier one.
"""

import argparse
import os
import resource
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, default_collate

from benchmarks.speed.compare import ratios
from benchmarks.speed.histories import config_of, write_histories
from benchmarks.speed.workload import Shape
from dist_mtl.config import Config
from dist_mtl.data.files import manifest
from dist_mtl.data.loader import Dataset
from dist_mtl.data.synthetic.logs import BenchmarkLogs, write_logs
from dist_mtl.parallel.malloc import keep_freed_memory

Pass = Callable[[], int]  # reads, and tells how many rows
BATCH = 4_096
TORCH_ROWS = 32_768  # of a round of torch's DataLoader, which is slow: as many as our window of histories
WIDE, HISTORIES = "26 ids + 13 dense", "Ali-CCP: 629 ids a row, weighted"
WORDS = {
    "ours": "ours, Parquet -> Batch, shuffled",
    "pyarrow": "pyarrow.dataset.to_batches alone",
    "torch": "torch DataLoader, to_numpy a column",
}
GOALS = {"pyarrow": 0.4, "torch": 5.0}


def report(options: argparse.Namespace) -> str:
    """Both shapes, as Markdown. `options`: rounds, logs (rows of the first shape), folder."""
    use_one_core()
    keep_freed_memory()  # as a training does
    lines = [
        "| rows | contender | rows/s | ids/s | the loader is times as fast | quartiles | user | quartiles | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, config in (wide(options.folder, options.logs), histories(options.folder, options.logs // 16)):
        dataset = Dataset.open(config.data.train, config, shuffle=True)
        ids = sum(len(batch.ids.values()) for batch in dataset.batches(0, 1, 0, 4)) / (4 * BATCH)
        found = measured({"ours": ours(dataset), "pyarrow": alone(dataset), "torch": by_torch(dataset)}, options.rounds)
        for contender, words in WORDS.items():
            speed = 1 / statistics.median(found[contender].all)
            told = f"| {name} | {words} | {speed:,.0f} | {speed * ids:,.0f} |"
            if contender in GOALS:
                told += _times(found[contender].all, found["ours"].all)
                told += _times(found[contender].user, found["ours"].user) + f" {GOALS[contender]} |"
            lines.append(told + " | | | | |" * (contender == "ours"))
    return "\n".join(lines)


def use_one_core() -> None:
    """All threads of this process on one core, where the system knows how (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def wide(folder: str, rows: int) -> tuple[str, Config]:
    """The logs of the other benchmarks, made where they are not there yet, with the default shuffle window."""
    place = Path(folder) / f"loader-wide-{rows}"
    if not manifest.exists(place):
        write_logs(BenchmarkLogs(), place, rows, "train")
    config = Shape(batch=BATCH).config(folder)
    data = config.data.model_copy(update={"train": str(place), "shuffle_rows": 262_144})
    return WIDE, config.model_copy(update={"data": data})


def histories(folder: str, rows: int) -> tuple[str, Config]:
    """Rows of Ali-CCP's shape, made where they are not there yet."""
    place = Path(folder) / f"loader-histories-{rows}"
    if not manifest.exists(place):
        write_histories(str(place), rows)
    return HISTORIES, config_of(str(place), BATCH)


@dataclass(frozen=True)
class Seconds:
    """Of the processor a row, one value a round."""

    all: list[float]
    user: list[float]  # without the kernel


def measured(contenders: dict[str, Pass], rounds: int) -> dict[str, Seconds]:
    """The time of each; a first round warms everything up."""
    found = {name: Seconds([], []) for name in contenders}
    for turn in range(rounds + 1):
        for name, read in contenders.items():
            before = resource.getrusage(resource.RUSAGE_SELF)
            rows = read()
            after = resource.getrusage(resource.RUSAGE_SELF)
            if turn:
                user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
                found[name].user.append(user / rows)
                found[name].all.append((user + kernel) / rows)
    return found


def _times(theirs: list[float], ours: list[float]) -> str:
    low, middle, high = ratios(theirs, ours)
    return f" {middle:.2f} | {low:.2f} to {high:.2f} |"


def ours(dataset: Dataset) -> Pass:
    """An epoch through the loader, shuffled: what training asks of it."""
    epochs = iter(range(10_000))

    def read() -> int:
        first = next(epochs) * dataset.order.steps_per_epoch
        for _ in dataset.batches(0, 1, first, first + dataset.order.steps_per_epoch):
            pass
        return dataset.order.num_rows

    return read


def alone(dataset: Dataset) -> Pass:
    """Arrow's own reader on the same columns: no shuffle, no checksum, no id mapped, no tensor made."""
    source = pyarrow.dataset.dataset(_files(dataset), format="parquet")

    def read() -> int:
        return sum(b.num_rows for b in source.to_batches(columns=list(dataset.columns), use_threads=False))

    return read


def by_torch(dataset: Dataset) -> Pass:
    """A map-style dataset over columns as numpy arrays, row by row, and torch's collate: as tutorials write it."""

    def read() -> int:
        rows = Rows(_files(dataset)[0], dataset.columns)
        for _ in DataLoader(rows, BATCH, shuffle=True, collate_fn=_collate):
            pass
        return len(rows)

    return read


class Rows(torch.utils.data.Dataset):
    """The first rows of a Parquet file, each column a numpy array."""

    def __init__(self, path: str, columns: Iterable[str]) -> None:
        self.columns = {name: [] for name in columns}
        table = pa.Table.from_batches(_first(path, list(self.columns)))
        self.columns = {name: table.column(name).to_numpy() for name in self.columns}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict[str, object]:
        return {name: values[row] for name, values in self.columns.items()}


def _first(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=columns):
        yield batch
        rows += batch.num_rows
        if rows >= TORCH_ROWS:
            return


def _collate(rows: list[dict[str, object]]) -> dict[str, object]:
    """torch's own collate; lists, which it can not stack, as values and lengths."""
    lists = {name for name, value in rows[0].items() if isinstance(value, np.ndarray)}
    found = default_collate([{name: value for name, value in row.items() if name not in lists} for row in rows])
    for name in lists:
        found[name] = torch.from_numpy(np.concatenate([row[name] for row in rows]))
        found[f"{name}.lengths"] = torch.tensor([len(row[name]) for row in rows])
    return found


def _files(dataset: Dataset) -> list[str]:
    return [dataset.folder.at(file.path) for file in dataset.manifest.files]
