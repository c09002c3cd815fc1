"""Slices: the values of a column, found once, named, and kept few."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.config.file import parse
from dist_mtl.config.training import RunConfig
from dist_mtl.data.features.group_keys import keys_of
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DataError
from dist_mtl.metrics.slices import Slicing
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.world import World
from dist_mtl.scoring.evaluate import open_test


def slicing(folder: Path, values: pa.Array, feature: dict | None = None, most: int = 50) -> Slicing:
    """The slices of a column `x` with these values."""
    zeros = np.zeros(len(values), np.int8)
    table = pa.table({"x": values, "id": np.arange(len(values)), "click": zeros, "conversion": zeros})
    write_dataset(folder / "test", [table], row_group_rows=7)
    features = {"id": {"kind": "id", "table": "t"}} | ({"x": feature} if feature else {})
    config = parse(
        {
            "run": {"dir": str(folder / "run"), "device": "cpu"},
            "data": {"train": "d"},
            "tables": {"t": {"rows": 5}},
            "features": features,
            "metrics": {"slices": ["x"], "max_slices": most},
        }
    )
    alone = Runtime(World(), torch.device("cpu"), None, RunConfig(dir="unused"))  # one rank needs no group
    return open_test(str(folder / "test"), config, alone).slicings[0]


WORDS = pa.array((["b"] * 5 + ["a"] * 3 + [None] * 2 + ["größe"] * 2 + ["once"]) * 2 + ["twin"] * 2)


def test_words_are_named_and_null_is_a_value(tmp_path: Path) -> None:
    found = slicing(tmp_path, WORDS)
    assert set(found.names) == {"a", "b", "größe", "once", "twin", "null"}
    column = pa.chunked_array([["a", "once"], [None, "b", "never seen", "größe"]])
    assert [found.names[p] for p in found.places(column)][:4] == ["a", "once", "null", "b"]


def test_the_rarest_are_other(tmp_path: Path) -> None:
    found = slicing(tmp_path, WORDS, most=3)
    assert set(found.names) == {"a", "b", "other"} and found.names[-1] == "other"
    column = pa.chunked_array([pa.array(["a", "b", "once", "never seen", None])])
    assert [found.names[p] for p in found.places(column)] == ["a", "b", "other", "other", "other"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([10, 9, -3, 2**62] * 2), ["-3", "9", "10", str(2**62)]),
        (pa.array([True, False] * 4), ["False", "True"]),
        (pa.array(["x", "y"] * 4).dictionary_encode(), ["x", "y"]),
        (pa.array([0, 20_000] * 4, pa.int32()).cast(pa.date32()), ["1970-01-01", "2024-10-04"]),
        (pa.array([None] * 8, pa.int64()), ["null"]),
    ],
)
def test_every_type_that_has_keys(tmp_path: Path, values: pa.Array, names: list[str]) -> None:
    found = slicing(tmp_path, values)
    assert list(found.names) == names, "in the order of the numbers"
    places = found.places(pa.chunked_array([values]))
    assert [found.names[p] for p in places[:2]] == [str(v) if v is not None else "null" for v in values.to_pylist()[:2]]


def test_a_bucketised_feature_by_its_buckets(tmp_path: Path) -> None:
    values = pa.array([5.0, 20.0, 29.9, 30.0, 99.0, None])
    found = slicing(tmp_path, values, {"kind": "bucket", "boundaries": [20, 30.5]})
    assert found.names == ("< 20", "20 to 30.5", ">= 30.5", "null")
    places = found.places(pa.chunked_array([values]))
    assert [found.names[p] for p in places] == ["< 20", "20 to 30.5", "20 to 30.5", "20 to 30.5", ">= 30.5", "null"]


@pytest.mark.parametrize("values", [pa.array([0.5, 1.5]), pa.array([[1], [2]])])
def test_a_type_without_keys_is_refused(tmp_path: Path, values: pa.Array) -> None:
    with pytest.raises(DataError, match='metrics.slices `x`.*declare a feature of kind = "bucket"'):
        slicing(tmp_path, values)


def test_keys() -> None:
    keys, present = keys_of(pa.chunked_array([["a", None], ["a"]]))
    assert keys[0] == keys[2] and present.tolist() == [True, False, True]
    assert keys_of(pa.array([2**64 - 1, 5], pa.uint64()))[0].tolist() == [-1, 5]


def test_no_two_slices_have_one_name(tmp_path: Path) -> None:
    values = pa.array(["null", "other", None, "x", "'null'"] * 3 + ["rare"])
    found = slicing(tmp_path / "words", values, most=6)
    assert len(set(found.names)) == len(found.names) == 6
    places = found.places(pa.chunked_array([values]))
    assert sorted(np.bincount(places, minlength=6)) == [1, 3, 3, 3, 3, 3]
    near = {"kind": "bucket", "boundaries": [1234567, 1234568, 1234569]}
    names = slicing(tmp_path / "buckets", pa.array([0.0, 1234567, 1234568, 1234569]), near).names
    assert names == ("< 1234567.0", "1234567.0 to 1234568.0", "1234568.0 to 1234569.0", ">= 1234569.0")


def test_null_may_be_the_largest_value(tmp_path: Path) -> None:
    values = pa.array([None] * 6 + ["x", "x", "y", "y"])
    found = slicing(tmp_path, values, most=2)
    assert found.names == ("null", "other")
    assert np.bincount(found.places(pa.chunked_array([values]))).tolist() == [6, 4]
