"""Sample logs whose labels were drawn from known probabilities: the best reachable AUC, the *ceiling*, is known.

Two kinds: `SampleLogs`, a shop that behaves like measured logs (`shop.py`), and `BenchmarkLogs`, many large id
columns for speed tests. Both are made in shards of SHARD_ROWS rows. A shard is a pure function of (spec, split, shard
index): any process may make any shard, and row i does not depend on how many rows are made. All randomness is
`hashing.mix`: numpy's own generators may change between releases, and a seed must name one dataset on every machine.
Ids are exact; a price or a true probability may differ in its last bit where a C library rounds exp differently.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from dist_mtl.bounded import parse_json, read_bytes
from dist_mtl.config import LogStream, SampleLogs
from dist_mtl.data.files import manifest
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws, shop, timeline, wide
from dist_mtl.data.synthetic.shop import SHARD_ROWS
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import DataError
from dist_mtl.observability.run_dir import write_file

SPEC = "_sample.json"  # beside the manifest of sample logs
MAX_SPEC = 1 << 20  # bytes of it
Split = Literal["train", "test"]
OnRows = Callable[[int], None]  # told how many rows came last
# A shard before its labels: columns, P(click), P(click and conversion), what the delay of a conversion depends on.
Shard = tuple[dict[str, pa.Array], np.ndarray, np.ndarray, np.ndarray]


def generate(spec: SampleLogs | BenchmarkLogs, num_rows: int, split: Split, first_row: int = 0) -> Iterator[pa.Table]:
    """Rows [first_row, first_row + num_rows) of a split, in tables of up to SHARD_ROWS rows.

    Besides the features: click, conversion (int8; a conversion has a click), and as float32 true_ctr = P(click),
    true_cvr = P(conversion | click), true_ctcvr = P(both). With `rows_per_day` both splits are one stream, and the
    caller begins the test rows behind the train rows.
    """
    stop = first_row + num_rows
    for index in range(first_row // SHARD_ROWS, -(-stop // SHARD_ROWS)):
        start = index * SHARD_ROWS
        first, last = max(first_row - start, 0), min(stop - start, SHARD_ROWS)
        yield _shard(spec, split, index).slice(first, last - first)


def first_row(spec: LogStream, split: Split, train_rows: int) -> int:
    """Where a split begins: in a stream the test rows are those after the train rows."""
    return train_rows if split == "test" and spec.rows_per_day else 0


def write_logs(
    spec: SampleLogs | BenchmarkLogs,
    folder: str | Path,
    num_rows: int,
    split: Split,
    on_rows: OnRows | None = None,
    first_row: int = 0,
) -> manifest.Manifest:
    """Write a split as a dataset with its ceiling {"ctr", "cvr", "ctcvr"} in the manifest.

    Raises DataError if `folder` exists, or if so few rows hold no click or no conversion that an AUC is undefined.
    """
    counted = Ceiling()

    def tables() -> Iterator[pa.Table]:
        for table in generate(spec, num_rows, split, first_row):
            counted.add(table)
            yield table
            if on_rows is not None:
                on_rows(table.num_rows)
        ceiling.update(counted.auc())  # write_dataset reads `ceiling` after the last table

    ceiling: dict[str, float] = {}
    return write_dataset(folder, tables(), ceiling)


def write_sample(spec: SampleLogs, train_dir: str | Path, test_dir: str | Path | None) -> None:
    """Write both splits of the sample logs; a split that is there already, or that another process publishes, stays.

    The test split comes first: whoever sees the train folder may rely on both. Raises DataError for a split that is
    there and was made by another `spec`.
    """
    splits: tuple[tuple[str | Path | None, int, Split], ...] = (
        (test_dir, spec.test_rows, "test"),
        (train_dir, spec.train_rows, "train"),
    )
    for folder, rows, split in splits:
        if folder is None:
            continue
        if manifest.exists(folder):
            _check_spec(Path(folder) / Folder.of(folder).beside(SPEC), spec, split)
            continue
        try:
            write_logs(spec, folder, rows, split, first_row=first_row(spec, split, spec.train_rows))
            write_file(Path(folder) / SPEC, json.dumps(_told(spec, split), indent=1) + "\n")
        except (DataError, OSError):
            # Published by another process meanwhile (then it holds the same rows), or a real error.
            if not manifest.exists(folder):
                raise


def _told(spec: SampleLogs, split: Split) -> dict[str, Any]:
    """What decides a split's rows."""
    others = {"test_rows"} if split == "train" else set() if spec.rows_per_day else {"train_rows"}
    return spec.model_dump(mode="json", exclude=others)


def _check_spec(path: Path, spec: SampleLogs, split: Split) -> None:
    """Raise DataError if the rows beside `path` were made by another spec; rows without one are not ours to judge."""
    if not path.exists():
        return
    try:
        # A key that did not exist when the rows were made had its default's meaning.
        defaults = {name: field.default for name, field in type(spec).model_fields.items()}
        made, asked = defaults | parse_json(read_bytes(path, MAX_SPEC)), _told(spec, split)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not the spec of sample logs: {error}; remove the folder, it is made again") from None
    changed = [f"{key}: {made.get(key)} -> {asked.get(key)}" for key in asked if made.get(key) != asked.get(key)]
    if changed:
        raise DataError(
            f"{path.parent}: was made by another data.sample ({', '.join(changed)}); remove the folder, or name another"
        )


class Ceiling:
    """The AUC of the true probabilities against the labels, streaming, in 50 MB whatever the number of rows.

    Scores are compared by the upper 22 bits of their float32 pattern, which for positive floats is ordered as they are:
    scores within 1 part in 8192 count as ties. That moves an AUC by less than 1e-5 (tested against an exact one).
    """

    TASKS = {"ctr": "click", "cvr": "conversion", "ctcvr": "conversion"}
    COLUMNS = ("click", "conversion", *(f"true_{task}" for task in TASKS))
    SHIFT = 10
    BINS = (0x3F800000 >> SHIFT) + 1  # 0x3F800000 is 1.0

    def __init__(self) -> None:
        self._counts = {task: np.zeros((2, self.BINS), np.int64) for task in self.TASKS}

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has the labels and the true probabilities."""
        clicks = table.column("click").to_numpy() == 1
        for task, label in self.TASKS.items():
            labels = table.column(label).to_numpy()
            bins = table.column(f"true_{task}").to_numpy().view(np.int32) >> self.SHIFT
            if task == "cvr":
                labels, bins = labels[clicks], bins[clicks]
            np.add.at(self._counts[task], (labels, bins), 1)

    def merge(self, other: "Ceiling") -> None:
        """Count the rows that another one has counted."""
        for task, counts in other._counts.items():
            self._counts[task] += counts

    def auc(self) -> dict[str, float]:
        """The ceiling of each task on its own space: CVR on clicks, the others on all rows."""
        result = {}
        for task, (negatives, positives) in self._counts.items():
            total = float(positives.sum()) * float(negatives.sum())
            if not total:
                what = f"too few rows: they hold no {self.TASKS[task]}, or nothing else"
                raise DataError(f"{what}, so the AUC of {task} does not exist; make more")
            beaten = np.cumsum(negatives, dtype=np.int64) - negatives / 2  # a tie counts half
            result[task] = float(positives @ beaten / total)
        return result


def _shard(spec: SampleLogs | BenchmarkLogs, split: Split, index: int) -> pa.Table:
    source = shop.STREAM if spec.rows_per_day else split  # one stream: its test rows are those after its train rows
    if isinstance(spec, BenchmarkLogs):
        columns, ctr, ctcvr, campaign = _wide(spec, source, index)
    else:
        columns, ctr, ctcvr, campaign = _shop(spec, split, source, index)
    labels = _labels(ctr, ctcvr, spec.seed, source, index)
    if spec.delayed:
        labels |= _late(spec, labels["conversion"], campaign, columns["time"], source, index)
    return pa.table(columns | labels)


def _shop(spec: SampleLogs, split: Split, source: str, index: int) -> Shard:
    world = shop.world(spec)
    rows = shop.impressions(spec, world, source, index)
    columns: dict[str, pa.Array] = {name: pa.array(values) for name, values in rows.features.items()}
    columns["rating"] = pa.array(rows.features["rating"], mask=rows.missing)
    offsets, past = rows.history
    columns["history"] = pa.ListArray.from_arrays(offsets, past.astype(np.int64))
    columns["rho"] = pa.array(rows.rho.astype(np.float32))
    ctr, ctcvr = shop.probabilities(spec, world, rows, accidents=split == "train" or spec.accidents_in_test)
    return columns, ctr, ctcvr, rows.features["category"]


def _wide(spec: BenchmarkLogs, source: str, index: int) -> Shard:
    rows = wide.impressions(spec, source, index)
    columns: dict[str, pa.Array] = {name: pa.array(values) for name, values in rows.columns.items()}
    columns |= {name: pa.ListArray.from_arrays(offsets, ids) for name, (offsets, ids) in rows.histories.items()}
    return columns, *wide.probabilities(spec, rows), rows.columns["c0"]


def _labels(ctr: np.ndarray, ctcvr: np.ndarray, seed: int, source: str, index: int) -> dict[str, pa.Array]:
    """The labels drawn from these probabilities, and the probabilities."""
    cvr = ctcvr / ctr
    click = draws.uniform(random_bits(SHARD_ROWS, seed, source, index, "click")) < ctr
    conversion = click & (draws.uniform(random_bits(SHARD_ROWS, seed, source, index, "conversion")) < cvr)
    columns = {"click": click.astype(np.int8), "conversion": conversion.astype(np.int8)}
    columns |= {f"true_{k}": p.astype(np.float32) for k, p in (("ctr", ctr), ("cvr", cvr), ("ctcvr", ctcvr))}
    return {name: pa.array(values) for name, values in columns.items()}


def _late(
    spec: LogStream, conversion: pa.Array, campaign: np.ndarray, time: pa.Array, source: str, index: int
) -> dict[str, pa.Array]:
    """When each conversion comes (seconds since 1970; null: none), and which of them are seen before the cut-off."""
    converted = conversion.to_numpy() == 1
    came = time.to_numpy().copy()
    came[converted] += timeline.delays(campaign[converted], spec.seed, source, index)
    columns = {"conversion_time": pa.array(came, mask=~converted)}
    if spec.cutoff_day is not None:
        seen = converted & (came < timeline.FIRST_SECOND + spec.cutoff_day * timeline.DAY)
        columns["conversion_seen"] = pa.array(seen.astype(np.int8))
    return columns
