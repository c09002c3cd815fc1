"""Dense numbers and buckets in every form, and what is refused, with what to do."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.config.file import parse
from dist_mtl.data.batch import collate
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.model.mtl import MultiTaskModel
from tests.unit.test_encode import encode, refused
from tests.unit.test_features import config, config_error, rows_of


def test_a_dense_number_in_every_form() -> None:
    x = pa.array([-5.0, 0.0, 5.0, 20.0, np.inf, None])

    def dense(**options: Any) -> list[float]:
        return encode({"x": {"kind": "dense", **options}}, {"x": x}).dense_ND[:-1, 0].tolist()

    assert dense(clip=[0, 10]) == [0, 0, 5, 10, 10, 0]  # an infinity, too
    assert dense(clip=[0, 10], minimum=0, maximum=10, fill=0.5) == [0, 0, 0.5, 1, 1, 0.5]
    assert dense(clip=[-20, 20], minimum=0, maximum=10) == [-0.5, 0, 0.5, 2, 2, 0]  # beyond the ends, unless clipped
    logs = dense(clip=[0, 10], log=True, minimum=0, maximum=10)
    np.testing.assert_allclose(logs, [0, 0, np.log(6) / np.log(11), 1, 1, 0], rtol=1e-6)
    assert dense(clip=[-20, 20], scale="standard", fitted=[5, 10]) == [-1, -0.5, 0, 1.5, 1.5, 0]
    assert dense(clip=[-20, 20], scale="minmax", fitted=[0, 10]) == [-0.5, 0, 0.5, 2, 2, 0]


@pytest.mark.parametrize("column", [pa.array([True, None, False]), pa.array([Decimal(1), None, Decimal(0)])])
def test_booleans_and_decimals_are_numbers(column: pa.Array) -> None:
    made = config(
        {"x": {"kind": "dense", "fill": -1.0}, "b": {"kind": "bucket", "column": "x", "boundaries": [0.5]}}, {}
    )
    rows = rows_of(made, {"x": column})
    assert rows.dense_ND[:, 0].tolist() == [1, -1, 0, 0] and rows.singles_NS[:, 0].tolist() == [1, NO_ID, 0, NO_ID]


def test_a_null_may_be_refused() -> None:
    for bad in (None, np.nan):
        told = refused({"x": {"kind": "dense", "null": "reject"}}, {"x": pa.array([1.0, bad, bad])})
        assert told == "row 1: features.x is null or NaN, and null = 'reject' (2 such in this read)"


def test_an_indicator_reaches_the_network() -> None:
    """A null and its `fill` differ by the indicator alone, so the logits tell whether the network sees it."""
    features = {
        "x": {"kind": "dense", "fill": 2.0, "null": "indicator"},
        "y": {"kind": "dense"},
        "z": {"kind": "dense", "null": "indicator"},
        "id": {"kind": "id", "table": "t"},
    }
    made = config(features)
    assert Encoder(made).dense == ["x", "y", "z", "x", "z"]
    rows = rows_of(made, {"x": pa.array([None, 2.0]), "y": [3.0, 3.0], "z": pa.array([4.0, 4.0]), "id": [1, 1]})
    assert rows.dense_ND.tolist() == [[2, 3, 4, 1, 0], [2, 3, 4, 0, 0], [0] * 5]
    model = MultiTaskModel(made, torch.device("cpu")).eval()
    with torch.no_grad():
        null, filled = model(collate(Encoder(made), rows, np.arange(2), 1, 0)).logits_BT
        plain = parse({**made.model_dump(mode="json"), "features": features | {"x": {"kind": "dense", "fill": 2.0}}})
    print(f"logits of a null {null.tolist()}, of its fill {filled.tolist()}")
    assert (null != filled).all()
    assert len(Encoder(plain).dense) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": "standard", "mean": 1.0}, "`scale` is found in the data; remove mean"),
        ({"scale": "minmax", "maximum": 1.0}, "`scale` is found in the data; remove mean"),
        ({"std": 2.0, "minimum": 0.0, "maximum": 1.0}, "mean and std, or minimum and maximum, not both"),
        ({"minimum": 0.0}, "minimum and maximum come together"),
        ({"minimum": 1.0, "maximum": 1.0}, "the lower one first, then the higher one; got 1 and 1"),
        ({"clip": [2.0, 1.0]}, "clip: the lower one first"),
        ({"null": "reject", "fill": 1.0}, "null = 'reject' leaves nothing to fill; remove `fill`"),
        ({"fitted": [0.0, 1.0]}, "`fitted` is what training found for `scale`; remove it"),
        ({"scale": "standard", "fitted": [0.0, 0.0]}, "`fitted` is (mean, std), and std is above 0"),
        ({"scale": "minmax", "fitted": [1.0, 0.0]}, "the lower one first"),
    ],
)
def test_dense_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    said = config_error({"x": {"kind": "dense", **options}, "id": {"kind": "id", "table": "t"}})
    assert "features.x" in said and says in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give either `boundaries` or `quantiles`"),
        ({"boundaries": [1.0], "quantiles": 4}, "give either `boundaries` or `quantiles`"),
        ({"boundaries": [1.0], "fitted": [1.0]}, "`fitted` is what training found for `quantiles`; remove it"),
        ({"quantiles": 4, "fitted": [1.0, 1.0]}, "boundaries must be strictly ascending"),
        ({"quantiles": 1}, "greater than or equal to 2"),
    ],
)
def test_bucket_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    assert says in config_error({"x": {"kind": "bucket", **options}}, {})


def test_a_configuration_of_before_reads_as_it_did() -> None:
    """As commits of earlier versions hold it: every key of then, none of now."""
    before = {
        "age": {"kind": "bucket", "column": None, "table": None, "boundaries": [20.0, 30.0], "dim": 16},
        "price": {"kind": "dense", "column": None, "log": True, "mean": 2.0, "std": 1.5, "fill": 0.25},
    }
    made = config(before, {})
    assert made == config({"age": {"kind": "bucket", "boundaries": [20, 30]}, "price": before["price"]}, {})
    rows = rows_of(made, {"age": pa.array([25.0, None]), "price": pa.array([np.e - 1, None])})
    assert rows.singles_NS[:2, 0].tolist() == [1, NO_ID]
    np.testing.assert_allclose(rows.dense_ND[:2, 0], [(1 - 2) / 1.5, 0.25], rtol=1e-6)
