"""The datasets that stand beside a train dataset, as the converters write them: OUT/train, OUT/validation, OUT/test.

What they have in common with the training rows says which columns can carry over from one to the other: a column whose
values are in one of them only (the user or page that the rows were split by) teaches nothing about the other.
"""

import os.path
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dist_mtl.config.dataset_uri import Place
from dist_mtl.data.cardinality import KEPT
from dist_mtl.data.column_class import columns_of, same_class
from dist_mtl.data.files import manifest as manifests
from dist_mtl.data.files.folder import Folder
from dist_mtl.errors import DataError
from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.counts import Counts, Plan
from dist_mtl.tools.describe.labels import check_labels
from dist_mtl.tools.describe.scan import gather

TRAIN, HELD_OUT = "train", ("validation", "test")
FEWEST_VALUES = 3  # of a held-out dataset, that say something
RECUR = 0.02  # share of the held-out rows whose value training has seen; below it, the column is one of the split


@dataclass(frozen=True)
class Beside:
    """A held-out dataset: its rows, or why it cannot be used with these train rows."""

    folder: str
    digest: str = ""
    counts: Counts | None = None
    fault: str = ""

    def lacks_values_of(self, seen: Seen) -> bool:
        """Whether next to no held-out row has a value of this column that the training rows have."""
        theirs = self.seen(seen.column.name)
        if seen.values is None or theirs is None or theirs.values is None:
            return False
        mine, hashes = seen.values.distinct.smallest, theirs.values.distinct.smallest
        # Both are the smallest hashes of their values: below the smaller of the two limits they are complete.
        limit = min((kept[-1] for kept in (mine, hashes) if len(kept) == KEPT), default=None)
        inside = np.ones(len(hashes), bool) if limit is None else hashes <= limit
        rows = theirs.values.counts[inside].sum(axis=(1, 2))
        if len(rows) < FEWEST_VALUES:
            return False
        return bool(rows[np.isin(hashes[inside], mine)].sum() <= RECUR * rows.sum())

    def lies_apart_from(self, seen: Seen) -> bool:
        """Whether the numbers of this column are all above, or all below, those of the training rows."""
        theirs = self.seen(seen.column.name)
        if theirs is None or None in (seen.lowest, theirs.lowest) or seen.column.is_list:
            return False
        return theirs.lowest > seen.highest or theirs.highest < seen.lowest

    def seen(self, name: str) -> Seen | None:
        """A column of it."""
        found = () if self.counts is None else self.counts.columns
        return next((one for one in found if one.column.name == name), None)


def look_at(folders: dict[str, str], train: pa.Schema, plan: Plan, ranks: int) -> dict[str, Beside]:
    """Held-out datasets by name. Reads every row of them once, in the types of the train rows."""
    return {name: _look(place, train, plan, ranks) for name, place in folders.items()}


def places(folder: str) -> dict[str, str]:
    """Where the held-out datasets of a train folder are."""
    place = Place.parse(folder)
    url = os.path.normpath(place.url) if place.is_local else place.url.rstrip("/")
    before, slash, name = url.rpartition("/")
    if name != TRAIN or place.ranges or "?" in url:
        return {}
    found = {other: f"{before}{slash}{other}" for other in HELD_OUT}
    return {other: url for other, url in found.items() if _is_there(url)}


def _is_there(url: str) -> bool:
    if Place.parse(url).is_local:
        return os.path.isdir(url)
    try:
        manifests.read(url)
    except DataError:
        return False
    return True


def _look(url: str, train: pa.Schema, plan: Plan, ranks: int) -> Beside:
    columns, outcomes = plan.columns, plan.outcomes
    try:
        folder = Folder.of(url)
        manifest = manifests.read(folder)
        manifests.check_files(folder, manifest, manifest.files, full=False)
        schema = manifests.arrow_schema(folder, manifest)
        if absent := [one.name for one in columns if one.name not in schema.names]:
            raise DataError(f"there is no column `{absent[0]}` in it")
        here, there = columns_of(schema), columns_of(train)
        if other := [name for name in there if not same_class(here[name].kind, there[name].kind)]:
            raise DataError(f"column `{other[0]}` is {here[other[0]]}, not {there[other[0]]}")
        check_labels(outcomes.labels, outcomes.funnel, schema, url)
        counts = gather(folder, manifest, train, replace(plan, day=None), ranks)
        for name, count in zip(outcomes.labels, counts.labels, strict=True):
            if count.nulls or count.bad:
                raise DataError(f"label `{name}` is not 0 or 1 in {count.nulls + count.bad:,} of its rows")
        return Beside(url, manifest.digest, counts)
    except DataError as error:
        return Beside(url, fault=str(error).splitlines()[0])
