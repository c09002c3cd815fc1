"""The columns of a dataset against what the features need, before a row is read."""

import pyarrow as pa
import pytest

from dist_mtl.errors import DataError
from tests.unit.test_encode import bag, encoder, single


def test_the_schema_check_tells_every_problem() -> None:
    features = {
        **single("clamp"),
        "y": {"kind": "bag", "table": "t"},
        "z": {"kind": "dense", "column": "prize"},
        "s": {"kind": "id", "table": "t"},
    }
    schema = pa.schema(
        {
            "x": pa.string(),
            "y": pa.int64(),
            "price": pa.float64(),
            "s": pa.float32(),
            "click": pa.int8(),
            "conversion": pa.bool_(),
        }
    )
    with pytest.raises(DataError) as caught:
        encoder(features).check_schema(schema, "logs")
    assert str(caught.value).splitlines() == [
        "logs: column `x` is string, but features.x with policy `clamp` needs integers or booleans",
        "logs: column `s` is float, but features.s needs integers, strings, booleans, dates or times; "
        "cast it to int64 where the data are made, or use kind = 'bucket' or 'dense'",
        "logs: column `y` is int64, but features.y needs a list of ids: integers, strings, booleans, dates or times",
        "logs: there is no column `prize`. did you mean `price`?",
    ]


def test_one_column_may_serve_two_features_of_one_type_only() -> None:
    """The stricter of two wishes for a column must not be lost."""
    features = {"a": {"kind": "dense", "column": "x"}, **single("hash")}
    schema = pa.schema({"x": pa.string(), "click": pa.int8(), "conversion": pa.int8()})
    with pytest.raises(DataError, match="features.a needs numbers"):
        encoder(features).check_schema(schema, "logs")
    schema = pa.schema({"x": pa.float64(), "click": pa.int8(), "conversion": pa.int8()})
    with pytest.raises(DataError, match="features.x needs integers, strings"):
        encoder(features).check_schema(schema, "logs")


def test_the_columns_to_read_are_named_once() -> None:
    features = {
        **bag(weights="w"),
        "n": {"kind": "dense", "column": "p"},
        "b": {"kind": "bucket", "column": "p", "boundaries": [1.0]},
    }
    assert encoder(features, weight="v").columns == ("p", "x", "w", "click", "conversion", "v")
