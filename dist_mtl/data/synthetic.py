"""Sample logs whose labels were drawn from known probabilities: the best reachable AUC, the *ceiling*, is known.

Two kinds: `SampleLogs`, a shop that behaves like measured logs (`data/shop.py`), and `BenchmarkLogs`, many large id
columns for speed tests. Both are made in shards of SHARD_ROWS rows. A shard is a pure function of (spec, split, shard
index): any process may make any shard, and row i does not depend on how many rows are made. All randomness is
`hashing.mix`: numpy's own generators may change between releases, and a seed must name one dataset on every machine.
Ids are exact; a price or a true probability may differ in its last bit where a C library rounds exp differently.
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from dist_mtl.config import Population, SampleLogs, Section, Seed
from dist_mtl.data import draws, manifest, shop
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.shop import SHARD_ROWS, sigmoid, solve
from dist_mtl.data.writer import write_dataset
from dist_mtl.errors import DataError

SPEC = "sample.json"  # beside the manifest of sample logs
Split = Literal["train", "test"]
OnRows = Callable[[int], None]  # told how many rows came last


class BenchmarkLogs(Section):
    """Id columns c0, c1, ... of `rows_per_table` ids each and dense columns d0, d1, ..., all independent."""

    ids: Annotated[int, Field(ge=1, le=10_000)] = 26
    rows_per_table: Population = 1_000_000
    dense: Annotated[int, Field(ge=0, le=10_000)] = 13
    seed: Seed = 7
    ctr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    cvr: Annotated[float, Field(gt=0, lt=1)] = 0.10


def generate(spec: SampleLogs | BenchmarkLogs, num_rows: int, split: Split, first_row: int = 0) -> Iterator[pa.Table]:
    """Rows [first_row, first_row + num_rows) of a split, in tables of up to SHARD_ROWS rows.

    Besides the features: click, conversion (int8; a conversion has a click), and as float32 true_ctr = P(click),
    true_cvr = P(conversion | click), true_ctcvr = P(both).
    """
    stop = first_row + num_rows
    for index in range(first_row // SHARD_ROWS, -(-stop // SHARD_ROWS)):
        start = index * SHARD_ROWS
        first, last = max(first_row - start, 0), min(stop - start, SHARD_ROWS)
        table = _shop_shard(spec, split, index) if isinstance(spec, SampleLogs) else _wide_shard(spec, split, index)
        yield table.slice(first, last - first)


def write_logs(
    spec: SampleLogs | BenchmarkLogs, folder: str | Path, num_rows: int, split: Split, on_rows: OnRows | None = None
) -> manifest.Manifest:
    """Write a split as a dataset with its ceiling {"ctr", "cvr", "ctcvr"} in the manifest.

    Raises DataError if `folder` exists, or if so few rows hold no click or no conversion that an AUC is undefined.
    """
    counted = Ceiling()

    def tables() -> Iterator[pa.Table]:
        for table in generate(spec, num_rows, split):
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
        if (Path(folder) / manifest.NAME).exists():
            _check_spec(Path(folder) / SPEC, spec, split)
            continue
        try:
            write_logs(spec, folder, rows, split)
            (Path(folder) / SPEC).write_text(json.dumps(_told(spec, split), indent=1) + "\n")
        except (DataError, OSError):
            # Published by another process meanwhile (then it holds the same rows), or a real error.
            if not (Path(folder) / manifest.NAME).exists():
                raise


def _told(spec: SampleLogs, split: Split) -> dict[str, Any]:
    """What decides a split's rows."""
    other = "test_rows" if split == "train" else "train_rows"
    return spec.model_dump(mode="json", exclude={other})


def _check_spec(path: Path, spec: SampleLogs, split: Split) -> None:
    """Raise DataError if the rows beside `path` were made by another spec; rows without one are not ours to judge."""
    if not path.exists():
        return
    try:
        made, asked = json.loads(path.read_text()), _told(spec, split)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the spec of sample logs: {error}; remove the folder, it is made again") from None
    changed = [f"{key}: {made.get(key)} -> {asked.get(key)}" for key in asked if made.get(key) != asked.get(key)]
    if changed:
        raise DataError(
            f"{path.parent}: was made by another data.sample ({', '.join(changed)}); remove the folder, or name another"
        )


class Ceiling:
    """The AUC of the true probabilities against the labels, streaming, in 25 MB whatever the number of rows.

    Scores are compared by the upper 22 bits of their float32 pattern, which for positive floats is ordered as they are:
    scores within 1 part in 8192 count as ties. That moves an AUC by less than 1e-5 (tested against an exact one).
    """

    TASKS = {"ctr": "click", "cvr": "conversion", "ctcvr": "conversion"}
    SHIFT = 10
    BINS = (0x3F800000 >> SHIFT) + 1  # 0x3F800000 is 1.0

    def __init__(self) -> None:
        self._counts = {task: np.zeros((2, self.BINS), np.int32) for task in self.TASKS}

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has the labels and the true probabilities."""
        clicks = table.column("click").to_numpy() == 1
        for task, label in self.TASKS.items():
            labels = table.column(label).to_numpy()
            bins = table.column(f"true_{task}").to_numpy().view(np.int32) >> self.SHIFT
            if task == "cvr":
                labels, bins = labels[clicks], bins[clicks]
            np.add.at(self._counts[task], (labels, bins), 1)

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


def _shop_shard(spec: SampleLogs, split: Split, index: int) -> pa.Table:
    world = shop.world(spec)
    rows = shop.impressions(spec, world, split, index)
    columns: dict[str, pa.Array] = {name: pa.array(values) for name, values in rows.features.items()}
    columns["rating"] = pa.array(rows.features["rating"], mask=rows.missing)
    offsets, past = rows.history
    columns["history"] = pa.ListArray.from_arrays(offsets, past.astype(np.int64))
    columns["rho"] = pa.array(rows.rho.astype(np.float32))
    ctr, ctcvr = shop.probabilities(spec, world, rows, accidents=split == "train" or spec.accidents_in_test)
    return pa.table(columns | _labels(ctr, ctcvr, spec.seed, split, index))


def _labels(ctr: np.ndarray, ctcvr: np.ndarray, seed: int, split: str, index: int) -> dict[str, pa.Array]:
    """The labels drawn from these probabilities, and the probabilities."""
    cvr = ctcvr / ctr
    click = draws.uniform(random_bits(SHARD_ROWS, seed, split, index, "click")) < ctr
    conversion = click & (draws.uniform(random_bits(SHARD_ROWS, seed, split, index, "conversion")) < cvr)
    columns = {"click": click.astype(np.int8), "conversion": conversion.astype(np.int8)}
    columns |= {f"true_{k}": p.astype(np.float32) for k, p in (("ctr", ctr), ("cvr", cvr), ("ctcvr", ctcvr))}
    return {name: pa.array(values) for name, values in columns.items()}


def _wide_shard(spec: BenchmarkLogs, split: Split, index: int) -> pa.Table:
    columns, click, purchase = _wide_rows(spec, split, index)
    click_bias, purchase_bias = _wide_biases(spec)
    ctr = sigmoid(click_bias + click)
    labels = _labels(ctr, ctr * sigmoid(purchase_bias + purchase), spec.seed, split, index)
    return pa.table({name: pa.array(values) for name, values in columns.items()} | labels)


def _wide_rows(spec: BenchmarkLogs, split: str, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(columns, click logit, purchase logit): the first three ids and four dense columns decide the labels."""
    columns: dict[str, np.ndarray] = {}
    for k in range(spec.ids):
        u = draws.uniform(random_bits(SHARD_ROWS, spec.seed, split, index, f"c{k}"))
        columns[f"c{k}"] = draws.scatter(draws.popular(u, spec.rows_per_table), spec.rows_per_table, spec.seed, k)
    for k in range(spec.dense):
        columns[f"d{k}"] = draws.normal(random_bits(SHARD_ROWS, spec.seed, split, index, f"d{k}")).astype(np.float32)
    click, purchase = np.zeros(SHARD_ROWS), np.zeros(SHARD_ROWS)
    for k in range(min(3, spec.ids)):
        click += 0.5 * draws.normal(draws.words_of(columns[f"c{k}"], spec.seed, k, "click"))
        purchase += 0.3 * draws.normal(draws.words_of(columns[f"c{k}"], spec.seed, k, "purchase"))
    for k in range(min(4, spec.dense)):
        click += (0.5, 0.5, 0.3, 0.0)[k] * columns[f"d{k}"]
        purchase += (0.5, 0.0, 0.5, 0.7)[k] * columns[f"d{k}"]
    return columns, click, purchase


@lru_cache(maxsize=4)
def _wide_biases(spec: BenchmarkLogs) -> tuple[float, float]:
    _, click, purchase = _wide_rows(spec, "calibration", 0)
    click_bias = solve(lambda b: float(sigmoid(b + click).mean()), spec.ctr)
    ctr = sigmoid(click_bias + click)
    return click_bias, solve(lambda b: float((ctr * sigmoid(b + purchase)).mean()), spec.ctr * spec.cvr)
