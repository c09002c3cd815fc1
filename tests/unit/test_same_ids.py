"""An id is read as the run read it in training: another class of a column is refused, by name, whatever its type."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.column_class import RawColumn, class_of, columns_of, same_class
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import DataError
from dist_mtl.tools.describe.description import Wish, describe

ROWS = 12
NUMBERS = np.arange(ROWS) % 5
# Types of one class, each from the same values; what is null fits every class.
CLASSES = {
    "whole number": [pa.int8(), pa.int64(), pa.uint16(), pa.uint64()],
    "text": [pa.string(), pa.large_string(), pa.binary(), pa.binary(1), pa.dictionary(pa.int8(), pa.string())],
    "boolean": [pa.bool_()],
    "date or timestamp without a zone": [pa.date32(), pa.timestamp("ns"), pa.timestamp("ms")],
    "timestamp with a zone": [pa.timestamp("us", "UTC"), pa.timestamp("ms", "Europe/Berlin")],
    "time of day": [pa.time32("ms"), pa.time64("us")],
    "duration": [pa.duration("s"), pa.duration("ns")],
}
TYPES = [(kind, one) for kind, types in CLASSES.items() for one in types]
FEATURES = {
    "id": {"kind": "id", "column": "x", "table": "t"},
    "dynamic": {"kind": "id", "column": "x", "table": "t", "policy": "dynamic"},
    "cross": {"kind": "cross", "of": ["x", "y"], "table": "t"},
    "bag": {"kind": "bag", "column": "x", "table": "t"},
}


def column(kind: pa.DataType) -> pa.Array:
    numbers = pa.array(NUMBERS)
    if pa.types.is_dictionary(kind):
        return numbers.cast(kind.value_type).dictionary_encode().cast(kind)
    if kind == pa.binary(1):
        return numbers.cast(pa.string()).cast(pa.binary()).cast(kind)
    if kind in (pa.date32(), pa.time32("ms")):
        numbers = numbers.cast(pa.int32())
    via = pa.string() if kind == pa.binary() else numbers.type
    return numbers.cast(via).cast(kind)


def written(folder: Path, x: pa.Array, feature: str) -> str:
    if feature == "bag":
        x = pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), x)
    zeros = pa.array(np.zeros(ROWS, np.int8))
    write_dataset(folder, [pa.table({"x": x, "y": NUMBERS, "click": zeros, "conversion": zeros})])
    return str(folder)


def config(train: str, feature: dict, folder: Path, **others: dict) -> Config:
    table = {"rows": 256} | ({"dynamic": {}} if feature.get("policy") == "dynamic" else {})
    run, features = {"dir": str(folder / "run"), "device": "cpu"}, {"f": feature} | others
    data, batch = {"train": train}, {"global_batch": 4}
    return parse({"run": run, "data": data, "tables": {"t": table}, "features": features, "train": batch})


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(("kind", "trained"), TYPES[::2], ids=lambda x: str(x))
def test_another_class_is_refused_and_another_type_is_not(
    tmp_path: Path, kind: str, trained: pa.DataType, feature: str
) -> None:
    folder = written(tmp_path / "train", column(trained), feature)
    one = config(folder, FEATURES[feature], tmp_path)
    train = Dataset.open(folder, one, shuffle=False)
    for number, (other, here) in enumerate(TYPES):
        data = written(tmp_path / f"test-{number}", column(here), feature)
        if other == kind:
            Dataset.open_to_score(data, one, (), labelled=False, trained_on=train.trained_on)
            continue
        with pytest.raises(DataError, match="column `x` is .*, but it was .* in training") as raised:
            Dataset.open_to_score(data, one, (), labelled=False, trained_on=train.trained_on)
        types = [str(manifest.arrow_schema(place, manifest.read(place)).field("x").type) for place in (folder, data)]
        named = [kind, other, *types]
        assert all(name in str(raised.value) for name in named) and "Cast it to" in str(raised.value)


@pytest.mark.parametrize(("trained", "here"), [("int64", "string"), ("string", "int64"), ("bool", "int8")])
def test_a_description_tells_of_it(tmp_path: Path, trained: str, here: str) -> None:
    kinds = [pa.type_for_alias(name) for name in (trained, here)]
    folder, data = (written(tmp_path / f"{i}", column(kind), "id") for i, kind in enumerate(kinds))
    one = config(folder, FEATURES["id"], tmp_path)
    [line] = describe(Wish(data, one)).unfit
    assert "column `x`" in line and f"({here})" in line and f"({trained})" in line and folder in line
    assert describe(Wish(folder, one)).unfit == ()


def test_numbers_are_one_class_to_a_number(tmp_path: Path) -> None:
    """A price of 3, 3.0 or true is one price, and no id."""
    folders = [written(tmp_path / f"{kind}", column(kind), "id") for kind in (pa.int64(), pa.float32(), pa.bool_())]
    for feature in ({"kind": "dense", "column": "x"}, {"kind": "bucket", "column": "x", "boundaries": [2.0]}):
        one = config(folders[0], FEATURES["id"] | {"column": "y"}, tmp_path, number=feature)
        train = Dataset.open(folders[0], one, shuffle=False)
        for folder in folders:
            Dataset.open_to_score(folder, one, (), labelled=False, trained_on=train.trained_on)


def test_a_partition_has_the_class_of_all_its_values(tmp_path: Path) -> None:
    """hour=1 is a whole number, hour=1 beside hour=late is text."""
    places = {}
    for name, hours in (("train", ("1", "2")), ("test", ("1", "late"))):
        for hour in hours:
            written(tmp_path / "parts" / name / f"hour={hour}", column(pa.int64()), "id")
        for listed in (tmp_path / "parts" / name).rglob("*manifest.json"):
            listed.unlink()
        places[name] = tmp_path / "parts" / name
        manifest.write(places[name], manifest.build(places[name]))
    one = config(str(places["train"]), FEATURES["id"] | {"column": "hour"}, tmp_path)
    train = Dataset.open(str(places["train"]), one, shuffle=False)
    with pytest.raises(DataError, match=r"column `hour` is text \(string\), but it was whole number \(int64\)"):
        Dataset.open_to_score(str(places["test"]), one, (), labelled=False, trained_on=train.trained_on)


def test_classes() -> None:
    """Lists have the class of their elements, null fits all, and a kept type is one that Arrow can make again."""
    for kind, types in CLASSES.items():
        for one in types:
            assert (
                class_of(one) == kind and class_of(pa.list_(one)) == class_of(pa.large_list(one)) == f"list of {kind}"
            )
            again = RawColumn(kind, str(pa.list_(one))).arrow
            assert again is not None and class_of(again) == f"list of {kind}"
    assert (
        same_class("null", "text") and same_class("list of null", "list of text") and same_class("null", "list of text")
    )
    assert not same_class("list of text", "text") and not same_class("list of text", "list of whole number")
    hostile = [
        "",
        "x" * 100,
        "list<item: >",
        "decimal128(99999999999, 0)",
        "timestamp[us, tz=\x1b[31m]",
        "struct<a: int8>",
    ]
    assert [RawColumn("", text).arrow for text in hostile] == [None] * len(hostile)
    [(name, kept)] = columns_of(pa.schema([("x", pa.uint8())])).items()
    assert (name, str(kept), kept.arrow) == ("x", "whole number (uint8)", pa.uint8())
