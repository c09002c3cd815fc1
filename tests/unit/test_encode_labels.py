"""Labels are 0 or 1 and keep to the funnel; the weight of a row is a number that sums have room for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.data.features.labels import LEAST_WEIGHT, MOST_WEIGHT
from tests.unit.test_encode import bag, encode, refused


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (2, "is 2.0,"),
        (-1, "is -1.0,"),
        (1.5, "1.5,"),
        (1e300, "1e300"),
        (np.nan, "NaN"),
        (None, "null"),
    ],
)
def test_labels_are_0_or_1(bad: Any, words: str) -> None:
    message = refused(bag(), {"x": [[1]] * 3, "click": pa.array([0, 1, bad], pa.float64())})
    assert message.startswith("row 2: ") and "click" in message and words in message


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.float32(), pa.uint64()])
def test_labels_of_every_type(kind: pa.DataType) -> None:
    rows = encode(
        bag(), {"x": [[1]] * 2, "click": pa.array([1, 0]).cast(kind), "conversion": pa.array([1, 0]).cast(kind)}
    )
    assert rows.labels_NT.tolist() == [[1, 1], [0, 0], [0, 0]] and rows.labels_NT.dtype == np.float32


FUNNEL = {"x": [[1]] * 4, "click": [1, 0, 1, 0], "conversion": [1, 1, 0, 1]}


def test_a_conversion_without_a_click() -> None:
    assert refused(bag(), FUNNEL).startswith("row 1: `conversion` is 1 where `click` is 0")
    rows = encode(bag(), FUNNEL, violations="drop")
    assert rows.weight_N.tolist() == [1, 0, 1, 0, 0]
    assert rows.dropped_N.tolist() == [False, True, False, True, False]


def test_a_longer_funnel_names_the_broken_place() -> None:
    columns = {**FUNNEL, "conversion": [1, 0, 0, 0], "refund": [1, 0, 1, 0]}
    message = refused(bag(), columns, labels=["click", "conversion", "refund"])
    assert message.startswith("row 2: `refund` is 1 where `conversion` is 0")


def test_row_weights() -> None:
    columns = {"x": [[1]] * 4, "w": [0.0, 2.5, 1.0, 1.0], "click": [0, 1, 0, 1], "conversion": [0, 0, 1, 1]}
    rows = encode(bag(), columns, weight="w", violations="drop")
    assert rows.weight_N.tolist() == [0, 2.5, 0, 1, 0] and rows.dropped_N.tolist() == [False, False, True, False, False]
    for bad, words in ((-1.0, "-1.0"), (np.inf, "inf"), (1e300, "1e300"), (1025.0, "1025.0")):
        unfit = {**columns, "w": pa.array([1, 1, 1, bad], pa.float64())}
        assert f"row 3: `w` is {words}, but a row may weigh" in refused(bag(), unfit, weight="w", violations="drop")
    for bad in (-1.0, np.inf, np.nan, None):
        assert "`w` is" in refused(
            bag(), {**columns, "w": pa.array([1, 1, 1, bad], pa.float64())}, weight="w", violations="drop"
        )


def test_weights_that_a_sum_has_no_room_for_are_refused() -> None:
    edges = {"x": [[1]] * 3, "w": [LEAST_WEIGHT, MOST_WEIGHT, 0.0]}
    assert encode(bag(), edges, weight="w").weight_N.tolist() == [LEAST_WEIGHT, MOST_WEIGHT, 0, 0]
    just = 2**-40  # less than a float32 would show
    for bad in (LEAST_WEIGHT * (1 - just), 1e-300, MOST_WEIGHT * (1 + just), 1e300):
        message = refused(bag(), {"x": [[1]] * 3, "w": [1.0, bad, 1.0]}, weight="w")
        print(message)
        assert message.startswith("row 1: `w` is ") and "divide all by their mean" in message
