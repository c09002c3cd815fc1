"""Numeric columns: dense features and buckets."""

import numpy as np
import pyarrow as pa

from dist_mtl.config import DenseFeature
from dist_mtl.data.features.reject import Where, refuse, refuse_value

# Of a scaled number: weights begin so that inputs of about 1 are right, and what is 100 times as large sets the step.
LARGEST = 100.0
SHARE, FEWEST = 0.1, 1000  # of the variance that one row may have; of so many rows on: of 10, one always has more


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats, decimals; booleans are 0 and 1. A column of null alone has none, which is no fault."""
    kinds = pa.types
    numbers = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    return numbers or kinds.is_boolean(kind) or kinds.is_null(kind)


def numbers_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A numeric column as float64, a null as NaN."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def complete(column: pa.ChunkedArray, name: str, where: Where) -> np.ndarray:
    """The same of a column that may hold neither null nor NaN. Raises DataError."""
    if column.null_count:
        refuse(column.combine_chunks().is_null().to_numpy(zero_copy_only=False), where, f"`{name}` is null")
    numbers = numbers_of(column)
    refuse(np.isnan(numbers), where, f"`{name}` is NaN")
    return numbers


def buckets_of(numbers: np.ndarray, edges: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(buckets int64, missing bool): bucket k holds edges[k-1] <= x < edges[k]; NaN has none."""
    return np.searchsorted(np.asarray(edges), numbers, side="right"), np.isnan(numbers)


def dense_of(column: pa.ChunkedArray, name: str, feature: DenseFeature, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """(what the network sees float32, missing bool) of a column's numbers; see `DenseFeature`.

    Raises DataError: a null or NaN under null = "reject", an infinity, or more than float32 holds.
    """
    numbers = numbers_of(column)
    missing = np.isnan(numbers)
    if feature.null == "reject":
        refuse(missing, where, f"features.{name} is null or NaN, and null = 'reject'")
    shift, width = _shift_and_width(feature)
    with np.errstate(over="ignore"):
        scaled = (squeezed(numbers, feature) - shift) / width
        values = (np.where(missing, feature.fill, scaled) if missing.any() else scaled).astype(np.float32)
    if not (good := np.isfinite(values)).all():
        refuse_value(np.isinf(numbers), where, f"features.{name}", column, "no number; set `clip`, or correct the data")
        problem = "beyond the range of float32 once it is scaled; set `clip`, or log = true"
        refuse_value(~good, where, f"features.{name}", column, problem)
    return values, missing


def squeezed(numbers: np.ndarray, feature: DenseFeature) -> np.ndarray:
    """f of the clipped numbers: what mean and std are of."""
    return _f(numbers if feature.clip is None else np.clip(numbers, *feature.clip), feature)


def _f(numbers: np.ndarray, feature: DenseFeature) -> np.ndarray:
    return np.sign(numbers) * np.log1p(np.abs(numbers)) if feature.log else numbers


def _shift_and_width(feature: DenseFeature) -> tuple[float, float]:
    if feature.ends is None:
        return feature.moments
    low, high = _f(np.asarray(feature.ends), feature).tolist()
    return low, high - low


def extreme(largest: float, rows: int = 0) -> str | None:
    """What to say of a feature by its largest value once it is scaled; None: it is within reason.

    `rows`: over which its mean and standard deviation were taken; one far value then hides in them.
    """
    advice = "set `clip`, log = true, or scale = 'standard'"
    if abs(largest) > LARGEST:
        return f"its largest value is {largest:.3g} once it is scaled, where a network expects 1 or so; {advice}"
    if rows >= FEWEST and largest**2 > SHARE * rows:
        return (
            f"its largest value is {largest:.3g} once it is scaled, {largest**2 / rows:.0%} of the variance by one row "
            f"alone, which leaves all others next to nothing; {advice.rpartition(',')[0]}"
        )
    return None
