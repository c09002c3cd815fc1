"""What features ask of the training rows before step 1: boundaries of quantiles, means, ranges.

One pass over those columns alone. What is found goes into the configuration, and so into every commit: whatever is
scored by it is treated as the training rows were.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from dist_mtl.config import BucketFeature, Config, DenseFeature
from dist_mtl.data.features.numbers import extreme, numbers_of, squeezed
from dist_mtl.data.features.quantile_sketch import Sketch
from dist_mtl.data.files.quarantine import salvage
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Partitions, Span
from dist_mtl.errors import DataError

ROWS_AT_ONCE = 1 << 18
Found = dict[str, tuple[float, ...]]  # feature -> what its key `fitted` is to be


def unfitted(config: Config) -> list[str]:
    """The features that wait for what the training rows say."""
    features = config.features.items()
    return [n for n, f in features if isinstance(f, BucketFeature | DenseFeature) and not f.is_fitted]


def with_found(config: Config, found: Found) -> Config:
    """The configuration with what was found."""
    changed = {name: config.features[name].model_copy(update={"fitted": values}) for name, values in found.items()}
    return config.model_copy(update={"features": {**config.features, **changed}})


def inherited(config: Config, earlier: Config) -> Found:
    """What an earlier run found for features that ask for the same."""
    found = {}
    for name in unfitted(config):
        theirs = earlier.features.get(name)
        if isinstance(theirs, BucketFeature | DenseFeature) and theirs.fitted is not None:
            if theirs.model_copy(update={"fitted": None}) == config.features[name]:
                found[name] = theirs.fitted
    return found


def sketch(dataset: Dataset, columns: Iterable[str], part: int, parts: int) -> dict[str, Sketch]:
    """The distributions of columns in this part of the rows, see `first_rows`."""
    sketches = {column: Sketch() for column in columns}
    for table, _ in first_rows(dataset, tuple(sketches), part, parts):
        for column, one in sketches.items():
            one.add(numbers_of(table.column(column)))
    return sketches


def first_rows(
    dataset: Dataset, columns: tuple[str, ...], part: int, parts: int
) -> Iterator[tuple[pa.Table, Callable[[int], str]]]:
    """Columns of the rows in every `parts`-th row group from `part` on, and where each row stands.

    Of a stream in its first partition alone: the others are tested before they are trained. Raises DataError for a
    damaged row group, unless the run may skip it.
    """
    order = dataset.order
    known = order.parts[0].blocks if isinstance(order, Partitions) else range(len(dataset.blocks))
    reader, mine = dataset.reader(columns), known[part::parts]
    spans, rows = [], 0
    for index in mine:
        spans.append(Span(index, 0, dataset.blocks[index].rows))
        rows += dataset.blocks[index].rows
        if rows >= ROWS_AT_ONCE or index == mine[-1]:
            sound, table = salvage(reader.read, spans, {}) if dataset.quarantine else (spans, reader.read(spans))
            if table is not None:
                yield table, partial(reader.locate, sound)
            spans, rows = [], 0


def merged(parts: Iterable[Sketch]) -> Sketch:
    """One sketch of what several have counted."""
    whole = Sketch()
    for part in parts:
        whole.merge(part)
    return whole


def find(name: str, feature: BucketFeature | DenseFeature, of: Sketch) -> tuple[tuple[float, ...], str | None]:
    """(what a feature asks for, a warning or None). A column that tells nothing apart is left as it is, with a warning.

    Raises DataError: no mean and standard deviation in float64.
    """
    if not of.total:
        nothing = "no training row has a number there, so it tells nothing; remove it, or correct its column"
        return (0.0,) if isinstance(feature, BucketFeature) else (0.0, 1.0), f"features.{name}: {nothing}"
    low, high = of.lowest, of.highest
    if isinstance(feature, DenseFeature) and feature.clip is not None:
        low, high = np.clip([low, high], *feature.clip).tolist()
    if low == high:
        match feature:
            case BucketFeature():
                values = (low,)
            case DenseFeature(scale="minmax"):
                values = (low, low + max(1.0, abs(low)))
            case _:
                values = (float(squeezed(np.float64(low), feature)), 1.0)
        return values, f"features.{name}: all training rows have the value {low:g}, so it tells nothing; remove it"
    match feature:
        case BucketFeature():
            return tuple(of.quantiles(feature.quantiles)), None
        case DenseFeature(scale="minmax"):
            return (low, high), None
        case _:
            mean, std = _moments(name, feature, of)
            ends = (squeezed(np.array([low, high]), feature) - mean) / std
            far = extreme(float(ends[np.abs(ends).argmax()]), int(of.total))
            return (mean, std), far and f"features.{name}: numbers from {low:g} to {high:g}: {far}"


def _moments(name: str, feature: DenseFeature, of: Sketch) -> tuple[float, float]:
    values, shares = squeezed(of.values(), feature), of.counts / of.total
    with np.errstate(over="ignore"):
        mean = float((values * shares).sum())
        std = float(np.sqrt(((values - mean) ** 2 * shares).sum()))
    if not (np.isfinite(std) and std > 0):
        raise DataError(
            f"features.{name}: numbers from {of.lowest:g} to {of.highest:g} have no standard deviation in float64; "
            f"set `clip`, or log = true"
        )
    return mean, std
