"""A column's distribution: exact for few distinct values, of stated precision for many, the same bits in any order."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.data.features import quantile_sketch as module
from dist_mtl.data.features.quantile_sketch import MOST_CELLS, Sketch

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def of(*parts: np.ndarray) -> Sketch:
    """A sketch that was given the parts one after the other."""
    one = Sketch()
    for part in parts:
        one.add(np.asarray(part, np.float64))
    return one


def boundaries(values: list[float], buckets: int) -> list[float]:
    """By the definition, from the sorted values."""
    ordered = sorted(v for v in values if math.isfinite(v))
    found = sorted({ordered[k * len(ordered) // buckets] for k in range(1, buckets)} - {ordered[0]})
    return found or sorted(set(ordered))[1:2]


def same(a: Sketch, b: Sketch) -> bool:
    arrays = np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)
    return arrays and (a.dropped, a.lowest, a.highest) == (b.dropped, b.lowest, b.highest)


@settings(deadline=None, derandomize=True)
@given(st.lists(FINITE | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=60), st.integers(2, 12))
def test_few_values_are_exact(values: list[float], buckets: int) -> None:
    one = of(np.array([*values, np.nan, np.inf, -np.inf]))
    assert one.precision == 0 and one.total == len(values)
    assert one.quantiles(buckets) == boundaries(values, buckets)
    assert one.values().tolist() == sorted(set(values)) and (one.lowest, one.highest) == (min(values), max(values))


@settings(deadline=None, derandomize=True)
@given(st.lists(FINITE, max_size=200), st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 40))
def test_the_same_bits_in_any_order_and_any_parts(values: list[float], seed: int, parts: int, cells: int) -> None:
    """With so few cells that they must be joined, at different times in different parts."""
    draw, whole = np.random.default_rng(seed), np.array(values)
    limit, module.MOST_CELLS = module.MOST_CELLS, cells
    try:
        merged = Sketch()
        for part in np.array_split(draw.permutation(whole), parts):
            merged.merge(of(*np.array_split(part, 3)))
        assert same(merged, of(whole))
        assert len(merged.keys) <= cells or merged.dropped > 48
    finally:
        module.MOST_CELLS = limit


@pytest.mark.parametrize("kind", ["normal", "lognormal", "uniform", "zeros"])
def test_many_values_in_bounded_memory_with_the_stated_error(kind: str) -> None:
    """2 * 10^6 distinct values: each boundary within `precision` of the exact one, each bucket's share within 0.1 %."""
    draw = np.random.default_rng(3)
    values = {
        "normal": draw.normal(size=2_000_000),
        "lognormal": draw.lognormal(2, 3, 2_000_000),
        "uniform": draw.uniform(1e6, 1e6 + 1, 2_000_000),
        "zeros": np.where(draw.random(2_000_000) < 0.9, 0.0, draw.lognormal(0, 1, 2_000_000)),
    }[kind]
    start = time.process_time()
    one = of(*np.array_split(values, 8))
    seconds = time.process_time() - start
    found, exact = np.array(one.quantiles(64)), np.array(boundaries(values.tolist(), 64))
    assert len(one.keys) <= MOST_CELLS and len(found) == len(exact)
    off = np.abs(found - exact) / np.abs(exact)
    shares = np.diff(np.concatenate([[0], np.searchsorted(np.sort(values), found), [len(values)]])) / len(values)
    ideal = np.diff(np.concatenate([[0], np.searchsorted(np.sort(values), exact), [len(values)]])) / len(values)
    print(
        f"{kind}: {len(one.keys):,} cells, precision {one.precision:.1e}, boundaries off by {off.max():.1e}, "
        f"shares by {np.abs(shares - ideal).max():.1e}; {seconds:.2f} s for 2e6"
    )
    assert off.max() <= one.precision
    assert np.abs(shares - ideal).max() < 1e-3
    mean = (one.values() * one.counts).sum() / one.total
    assert abs(mean - values.mean()) <= one.precision * np.abs(values).mean()


def test_it_survives_the_ends_of_float64() -> None:
    ends = np.array([1.7e308, -1.7e308, 5e-324, -5e-324, 0.0, 1.0])
    assert of(ends).values().tolist() == sorted(ends.tolist())
    draw = np.random.default_rng(1)
    bits = draw.integers(-(2**63), 2**63 - 1, 300_000).view(np.float64)
    one = of(bits[np.isfinite(bits)])
    assert one.dropped and len(one.keys) <= MOST_CELLS
    assert np.isfinite(one.values()).all() and np.isfinite(one.quantiles(1_000)).all()
    assert (np.diff(one.quantiles(1_000)) > 0).all()


def test_nothing_and_one_value() -> None:
    assert of(np.array([np.nan])).total == 0
    assert of(np.array([3.0, 3.0])).quantiles(4) == []
    assert of(np.array([0.0] * 99 + [7.0])).quantiles(4) == [7.0]  # the lowest is told from all others
