"""Metrics by the values of a column: a day, a position, a bucket of ages.

The values are found before the rows are scored, in one pass over that column alone. So the memory is fixed, the ranks
agree on the values without a word, and a string's name is known although the rows carry its hash.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dist_mtl.config import BucketFeature, Config
from dist_mtl.data.features.group_keys import check_key, keys_of
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError
from dist_mtl.metrics.histogram import COARSE, LogitHistogram
from dist_mtl.metrics.task import TaskMetrics, compute
from dist_mtl.parallel.runtime import Runtime

MOST_VALUES = 1_000_000  # distinct values that a slice may have before it is refused; all but a few become `other`
OTHER, NULL = "other", "null"


def column_of(config: Config, name: str) -> str:
    """The Parquet column that `metrics.slices` or `metrics.groups` means: a feature's own, or the one of that name."""
    feature = config.features.get(name)
    return name if feature is None else config.columns_of(name)[0]


@dataclass(frozen=True)
class Slicing:
    """The slices of one column: `names[i]`, and the key of each but `other` (last, if there are more values)."""

    name: str
    column: str
    names: tuple[str, ...]
    keys_V: np.ndarray  # int64, ascending
    places_V: np.ndarray  # keys_V[j] belongs to names[places_V[j]]
    null: int  # place of rows without a value
    boundaries: tuple[float, ...] | None = None  # of a bucketised feature, whose keys are the buckets

    def places(self, column: pa.ChunkedArray) -> np.ndarray:
        """(N,) int64: the slice of each row."""
        keys, present = _keys(column, self.boundaries)
        if not len(self.keys_V):
            return np.where(present, len(self.names) - 1, self.null)
        found = np.minimum(np.searchsorted(self.keys_V, keys), len(self.keys_V) - 1)
        places = np.where(self.keys_V[found] == keys, self.places_V[found], len(self.names) - 1)
        return np.where(present, places, self.null)


def discover(dataset: Dataset, config: Config, name: str, rt: Runtime) -> Slicing:
    """The slices of `name` in a dataset, the largest `metrics.max_slices` - 1 and `other`. The same on every rank.

    Each rank reads the column in its share of the row groups. Raises DataError: no such column, a type without keys, or
    more than MOST_VALUES values.
    """
    feature, column = config.features.get(name), column_of(config, name)
    boundaries = feature.edges if isinstance(feature, BucketFeature) else None
    if boundaries is None:
        source = f"metrics.slices `{name}`: {dataset.folder}"
        rt.all_ranks(lambda: check_key(column, dataset.schema.field(column).type, source))
    counts, titles = rt.all_ranks(lambda: _count(dataset, column, boundaries, rt.rank, rt.size))
    total: Counter[int | None] = Counter()
    for other_counts, other_titles in rt.gather((counts, titles)):
        total.update(other_counts)
        titles |= other_titles
    limit = config.metrics.max_slices
    ranked = sorted(total, key=lambda key: (-total[key], titles[key]))
    kept = ranked if len(ranked) <= limit else ranked[: limit - 1]
    shown = sorted(kept, key=lambda key: (key is None, key if boundaries else _natural(titles[key])))
    names = tuple(titles[key] for key in shown) + ((OTHER,) if len(kept) < len(ranked) else ())
    places = {key: place for place, key in enumerate(shown)}
    keys = np.array(sorted(key for key in shown if key is not None), np.int64)
    null = places.get(None, len(names) - 1)
    return Slicing(name, column, names, keys, np.array([places[k] for k in keys.tolist()]), null, boundaries)


class SlicedHistograms:
    """One coarse histogram a task and slice of a column; see LogitHistogram."""

    def __init__(self, slicing: Slicing, num_tasks: int, device: torch.device, weighted: bool = False) -> None:
        self.slicing, self.num_tasks = slicing, num_tasks
        self.histogram = LogitHistogram(len(slicing.names) * num_tasks, device, COARSE, weighted)

    def update(
        self, column: pa.ChunkedArray, logits_BM: torch.Tensor, labels_BM: torch.Tensor, weights_BM: torch.Tensor
    ) -> None:
        """Add the rows that stand before the padding, of which `column` has the values."""
        places_N = torch.from_numpy(self.slicing.places(column)).to(logits_BM.device)
        rows = slice(0, len(places_N))
        self.histogram.update(
            logits_BM[rows], labels_BM[rows], weights_BM[rows], first_task_B=places_N * self.num_tasks
        )

    def compute(self, tasks: tuple[str, ...]) -> dict[str, dict[str, TaskMetrics]]:
        """slice -> task -> metrics; a slice without a row that counts is left out."""
        metrics = iter(compute(self.histogram))
        found = {name: {task: next(metrics) for task in tasks} for name in self.slicing.names}
        return {name: by_task for name, by_task in found.items() if any(m.rows for m in by_task.values())}


def _keys(column: pa.ChunkedArray, boundaries: tuple[float, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    if boundaries is None:
        return keys_of(column)
    numbers = column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.searchsorted(np.asarray(boundaries), numbers, side="right"), ~np.isnan(numbers)


def _count(
    dataset: Dataset, column: str, boundaries: tuple[float, ...] | None, rank: int, world: int
) -> tuple[Counter, dict[int | None, str]]:
    """Rows by key in this rank's share, and the keys' names; None: no value."""
    blocks, reader = dataset.blocks, dataset.reader((column,))
    counts: Counter[int | None] = Counter()
    titles: dict[int | None, str] = {None: NULL}
    for index in range(rank, len(blocks), world):
        values = reader.read([Span(index, 0, blocks[index].rows)]).column(column)
        keys, present = _keys(values, boundaries)
        if missing := int((~present).sum()):
            counts[None] += missing
        unique, first, rows = np.unique(keys[present], return_index=True, return_counts=True)
        counts.update(dict(zip(unique.tolist(), rows.tolist(), strict=True)))
        new = [i for i, key in enumerate(unique.tolist()) if key not in titles]
        if boundaries is not None:
            titles |= {int(unique[i]): _bucket(boundaries, int(unique[i])) for i in new}
        else:
            texts = pc.take(values, pa.array(np.flatnonzero(present)[first[new]])).to_pylist()
            titles |= {int(unique[i]): _title(text) for i, text in zip(new, texts, strict=True)}
        if len(titles) > MOST_VALUES:
            raise DataError(
                f"{dataset.folder}: column `{column}` has more than {MOST_VALUES:,} values; metrics.slices is for "
                f"columns of few values, metrics.groups for users and searches"
            )
    return counts, {key: titles[key] for key in counts}


def _title(value: object) -> str:
    """A value's name; a string that reads like one of ours is quoted: no two slices have one name."""
    text = str(value)
    return repr(text) if text in (OTHER, NULL) or text[:1] in ("'", '"') else text


def _bucket(boundaries: tuple[float, ...], bucket: int) -> str:
    shown = [f"{x:g}" if float(f"{x:g}") == x else repr(x) for x in boundaries]
    if bucket == 0:
        return f"< {shown[0]}"
    if bucket == len(boundaries):
        return f">= {shown[-1]}"
    return f"{shown[bucket - 1]} to {shown[bucket]}"


def _natural(title: str) -> tuple[int, float, str]:
    """Numbers in their order, before words."""
    try:
        return (0, float(title), title)
    except ValueError:
        return (1, 0.0, title)
