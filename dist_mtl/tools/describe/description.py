"""A described dataset: what was counted, and what follows from it. Nothing here reads rows again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from dist_mtl.config import Config, DataConfig
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.files import manifest as manifests
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.marks import labels_of
from dist_mtl.errors import DataError
from dist_mtl.tools.describe import table_usage
from dist_mtl.tools.describe.beside import Beside, look_at, places
from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.counts import Counts, Plan
from dist_mtl.tools.describe.days import day_of, find_day
from dist_mtl.tools.describe.drift import Day, days_of
from dist_mtl.tools.describe.labels import Outcomes, check_labels
from dist_mtl.tools.describe.leaks import Signal, signals
from dist_mtl.tools.describe.sampling import BUCKETS, LONGEST, columns_of, sample_of
from dist_mtl.tools.describe.scan import OnRows, gather
from dist_mtl.tools.describe.trained import other_ids

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class Wish:
    """What to describe, and as what.

    `labels`, `day` None: those of the configuration; else the labels that a converter marked, else by usual names.
    """

    folder: str
    config: Config | None = None
    labels: tuple[str, ...] | None = None
    funnel: bool = True  # where `labels` are given: each implies the one before it
    day: str | None = None
    ranks: int = 1


@dataclass(frozen=True)
class Description:
    """What is in a dataset. `unfit`: what the configuration asks of columns that they can not be. `repeated`: names
    that several columns share, which are not looked at."""

    folder: str
    manifest: Manifest
    counts: Counts = field(repr=False)
    config: Config | None
    unfit: tuple[str, ...]
    beside: dict[str, Beside] = field(default_factory=dict, repr=False)  # the held-out datasets: validation, test
    repeated: tuple[str, ...] = ()

    @property
    def outcomes(self) -> Outcomes:
        return self.counts.plan.outcomes

    @cached_property
    def columns(self) -> dict[str, Seen]:
        """By name, in the dataset's order; the labels among them."""
        return {seen.column.name: seen for seen in self.counts.columns}

    @cached_property
    def signals(self) -> list[Signal]:
        """What columns say of the labels, the strongest first."""
        found = [
            one for seen in self.counts.columns if seen.column.kind != "label" for one in signals(seen, self.outcomes)
        ]
        return sorted(found, key=lambda one: -one.strength)

    @cached_property
    def suspects(self) -> dict[str, Signal]:
        """Column -> the strongest signal of those that are too strong."""
        return {one.column: one for one in reversed(self.signals) if one.is_suspect}

    @cached_property
    def days(self) -> list[Day]:
        """In their order; none if no column tells them."""
        return [] if self.counts.too_many_days else days_of(self.counts, self.outcomes.tasks)

    @cached_property
    def tables(self) -> list[table_usage.TableUse]:
        """The tables of the configuration against the ids."""
        return table_usage.uses(self.config, self.columns) if self.config is not None else []


def describe(wish: Wish, on_start: OnRows | None = None, on_rows: OnRows | None = None) -> Description:
    """Read a dataset and describe it. `on_start` is told how many rows there are, `on_rows` how many came last.

    Raises DataError: no manifest, a file that is not the listed one, a damaged row group, a label that is not there.
    """
    folder = Folder.of(wish.folder)
    manifest = manifests.read(folder)
    manifests.check_files(
        folder, manifest, manifest.files, full=False
    )  # the pass itself checks every byte that it reads
    whole = manifests.arrow_schema(folder, manifest)
    schema = pa.schema([field for field in whole if whole.names.count(field.name) == 1])
    if on_start is not None:
        on_start(manifest.num_rows)
    outcomes = _outcomes(wish, schema)
    sample = sample_of(folder, manifest, schema)
    bounded = table_usage.bounded(wish.config) if wish.config is not None else {}
    columns = columns_of(sample, outcomes.labels, bounded)
    if wish.day is not None:
        day = day_of(wish.day, schema, sample, wish.folder)
    else:
        day = find_day(schema, [key for key in manifest.partitions if key in schema.names], sample)
    del sample
    plan = Plan(columns, outcomes, day)
    counts = gather(folder, manifest, schema, plan, wish.ranks, on_rows)
    beside = look_at(_held_out(wish), schema, plan, wish.ranks)
    repeated = tuple(sorted(set(whole.names) - set(schema.names)))
    return Description(wish.folder, manifest, counts, wish.config, _unfit(wish, whole), beside, repeated)


def quantile(seen: Seen, share: float) -> float | None:
    """A quantile of a column's numbers, or of the lengths of its lists; off by about one in BUCKETS rows at most.

    A bin with twice its share of the rows is there for one frequent value, its lowest, which then is the quantile.

    A list longer than LONGEST counts as one of LONGEST.
    """
    counts = seen.bins[:-1].sum(axis=1)
    total = int(counts.sum())
    if not total or seen.lowest is None:
        return None
    cumulated = np.cumsum(counts)
    rank = share * total
    place = int(min(np.searchsorted(cumulated, rank, side="left"), np.flatnonzero(counts)[-1]))
    if seen.column.is_list:
        return float(place)
    edges = seen.column.edges
    low = max(edges[place - 1], seen.lowest) if place else seen.lowest
    if seen.column.kind == "whole" or counts[place] > 2 * total / BUCKETS:
        return float(low)
    high = min(edges[place], seen.highest) if place < len(edges) else seen.highest
    inside = (rank - (cumulated[place] - counts[place])) / max(1, counts[place])
    return float(low + (high - low) * min(max(inside, 0.0), 1.0))


def mean_std(seen: Seen) -> tuple[float, float] | None:
    """Mean and standard deviation of the finite numbers, or of the lengths of the lists."""
    count = seen.rows if seen.column.is_list else seen.finite
    if not count or seen.lowest is None:
        return None
    mean, square = float(seen.sums[0] / count), float(seen.sums[1] / count)
    return mean, max(square - mean * mean, 0.0) ** 0.5


def longer_than(seen: Seen, length: int) -> int | None:
    """Lists that are longer; None where they are not told apart any more."""
    if length >= LONGEST:
        return 0 if (seen.highest or 0) <= length else None
    return int(seen.bins[length + 1 : -1].sum())


def _outcomes(wish: Wish, schema: pa.Schema) -> Outcomes:
    source = wish.folder
    if wish.labels is not None:
        return check_labels(wish.labels, wish.funnel, schema, source)
    if wish.config is not None:
        return check_labels(wish.config.data.labels, wish.config.data.funnel, schema, source)
    if (marks := labels_of(schema)) is not None:
        return check_labels(*marks, schema, source)
    usual: Sequence[str] = DataConfig.model_fields["labels"].default
    return check_labels([name for name in usual if name in schema.names], True, schema, source)


def _held_out(wish: Wish) -> dict[str, str]:
    """The held-out datasets of the configuration; those that it does not name, from beside the train folder."""
    named = {} if wish.config is None else {"validation": wish.config.data.validation, "test": wish.config.data.test}
    return places(wish.folder) | {name: place for name, place in named.items() if place is not None}


def _unfit(wish: Wish, schema: pa.Schema) -> tuple[str, ...]:
    if wish.config is None:
        return ()
    problems = list(other_ids(wish.config, schema, wish.folder))
    try:
        Encoder(wish.config).check_schema(schema, wish.folder)
    except DataError as error:
        problems += str(error).splitlines()
    return tuple(problems)
