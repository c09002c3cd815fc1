"""Files of one dataset whose types differ: read as one, in a type that holds all values, or refused at the listing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files import manifest, schema
from dist_mtl.data.files.in_type import in_type
from dist_mtl.data.files.joined_type import joined_type
from dist_mtl.data.loader import Dataset
from dist_mtl.data.marks import labels_of, marked
from dist_mtl.errors import DataError
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.findings import findings

ROWS = 6


def written(folder: Path, *columns: pa.Array | pa.Table, **options: Any) -> str:
    """A file for each column `x`, and their list."""
    folder.mkdir(parents=True)
    for number, x in enumerate(columns):
        table = x if isinstance(x, pa.Table) else pa.table({"x": x})
        labels = pa.array(np.arange(table.num_rows) % 2).cast(pa.int8())
        for name in ("click", "conversion", "k"):
            table = table.append_column(name, labels)
        pq.write_table(table, folder / f"{number}.parquet", **options)
    manifest.write(folder, manifest.build(folder))
    return str(folder)


def config(folder: str, **feature: Any) -> Config:
    table = {"rows": 256} | ({"dynamic": {}} if feature.get("policy") == "dynamic" else {})
    own = {} if feature["kind"] in ("dense", "bucket") else {"table": "t"}
    policy = {"policy": feature["policy"]} if "policy" in feature else {}
    return parse(
        {
            "run": {"dir": f"{folder}-run", "device": "cpu"},
            "data": {"train": folder},
            "tables": {"t": table},
            "features": {"k": {"kind": "id", "table": "t"} | policy, "x": feature | own},
            "train": {"global_batch": 4},
        }
    )


def encoded(folder: str, **feature: Any) -> list[list]:
    """What training makes of every row, in the order of the files; what scoring makes of it is the same."""
    one = config(folder, **feature)
    sets = Dataset.open_to_score(folder, one, (), True), Dataset.open(folder, one, shuffle=False)
    of = []
    for dataset in sets:
        dataset.verify(0, 1, full=True)
        table = dataset.reader(dataset.columns).read([s for s in dataset.order.segment(0, 0, 0, 1).spans])
        rows = dataset.encoder.encode(table, str)
        bags = [(bag.values.tolist(), bag.offsets.tolist()) for bag in rows.bags]
        of.append([rows.singles_NS.tolist(), bags, rows.dense_ND.tolist(), rows.labels_NT.tolist()])
    assert of[0] == of[1]
    return of[0]


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


CODED = pa.dictionary(pa.int8(), pa.string())
# Two types and the one that holds both.
JOINED = [
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int8(), pa.int64()),
    (pa.uint8(), pa.uint64(), pa.uint64()),
    (pa.float16(), pa.float64(), pa.float64()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.decimal128(10, 2), pa.decimal128(10, 4), pa.decimal128(12, 4)),
    (pa.decimal32(5, 2), pa.decimal128(38, 0), pa.decimal256(40, 2)),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.string(), pa.string_view(), pa.large_string()),
    (pa.string(), pa.binary(), pa.binary()),
    (pa.binary(3), pa.binary(4), pa.binary()),
    (CODED, pa.string(), pa.string()),
    (CODED, pa.dictionary(pa.int16(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
    (pa.null(), pa.int64(), pa.int64()),
    (pa.null(), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.date32(), pa.timestamp("ms"), pa.timestamp("ms")),
    (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns")),
    (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "UTC")),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (pa.duration("s"), pa.duration("ns"), pa.duration("ns")),
    (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.large_list(pa.int64())),
    (pa.list_(pa.int32()), pa.list_(pa.int32(), 2), pa.list_(pa.int32())),
    (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64())])),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int64())),
    (pa.uuid(), pa.binary(16), pa.binary(16)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "both"), JOINED, ids=str)
def test_a_type_that_holds_both(a: pa.DataType, b: pa.DataType, both: pa.DataType) -> None:
    assert joined_type(a, b) == joined_type(b, a) == both and joined_type(a, both) == both
    for kind in (a, b):
        in_type(pa.nulls(3, kind), both).validate(full=True)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (pa.uint64(), pa.int8(), "`x` is int8, not uint64, and no type holds both"),
        (pa.float32(), pa.decimal128(5, 1), "`x` is decimal128(5, 1), not float, and no type holds both"),
        (pa.int64(), pa.float64(), "`x` is real number (double), not whole number (int64)"),
        (pa.int64(), pa.string(), "`x` is text (string), not whole number (int64)"),
        (pa.int64(), pa.bool_(), "`x` is boolean (bool), not whole number (int64)"),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), "not date or timestamp without a zone (timestamp[us])"),
        (pa.date32(), pa.duration("s"), "`x` is duration (duration[s])"),
        (pa.list_(pa.int64()), pa.int64(), "not list of whole number (list<element: int64>)"),
        (pa.list_(pa.int64()), pa.list_(pa.string()), "`x` is list of text (list<element: string>)"),
    ],
    ids=str,
)
def test_what_no_type_holds_is_refused_at_the_listing(
    tmp_path: Path, a: pa.DataType, b: pa.DataType, told: str
) -> None:
    with pytest.raises(DataError) as raised:
        written(tmp_path / "logs", pa.nulls(ROWS, a), pa.nulls(ROWS, b))
    assert told in str(raised.value) and "1.parquet: its columns differ from those of" in str(raised.value)


IDS = [1, 3, None, 0, 7, 1]
WORDS = ["a", "b", None, "", "größe", "a"]


@pytest.mark.parametrize("policy", ["hash", "dynamic", "clamp", "reject"])
@pytest.mark.parametrize(
    "kinds", [(pa.int32(), pa.int64()), (pa.uint8(), pa.int8()), (pa.null(), pa.uint16())], ids=str
)
def test_whole_numbers_of_two_widths_are_one_id(tmp_path: Path, kinds: tuple, policy: str) -> None:
    values = [IDS if kind != pa.null() else [None] * ROWS for kind in kinds]
    mixed = written(tmp_path / "mixed", *(array(v, kind) for v, kind in zip(values, kinds, strict=True)))
    plain = written(tmp_path / "plain", *(array(v, pa.int64()) for v in values))
    assert encoded(mixed, kind="id", policy=policy) == encoded(plain, kind="id", policy=policy)


TEXTS = [
    (pa.string(), pa.large_string()),
    (pa.string(), pa.string_view()),
    (pa.string(), pa.dictionary(pa.int8(), pa.string())),
    (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int16(), pa.string())),
    (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())),
]


@pytest.mark.parametrize("policy", ["hash", "dynamic"])
@pytest.mark.parametrize("kinds", TEXTS, ids=str)
def test_text_of_two_types_is_one_id_also_in_lists(tmp_path: Path, kinds: tuple, policy: str) -> None:
    mixed = written(tmp_path / "mixed", *(array(WORDS, kind) for kind in kinds))
    plain = written(tmp_path / "plain", *(array(WORDS, pa.string()) for _ in kinds))
    assert encoded(mixed, kind="id", policy=policy) == encoded(plain, kind="id", policy=policy)
    words = [word for word in WORDS if word is not None]
    ends = pa.array([0, 2, 2, len(words)], pa.int32())
    lists = [pa.ListArray.from_arrays(ends, array(words, kind)) for kind in (*kinds, pa.string())]
    mixed = written(tmp_path / "mixed-lists", *lists[:2])
    plain = written(tmp_path / "plain-lists", lists[2], lists[2])
    assert encoded(mixed, kind="bag", policy=policy) == encoded(plain, kind="bag", policy=policy)
    assert describe(Wish(mixed)).columns["x"].distinct.count == describe(Wish(plain)).columns["x"].distinct.count == 4


def test_categories_of_pandas_that_differ_by_file_and_row_group(tmp_path: Path) -> None:
    """200 and 150 categories, each in int8 or int16 codes: together more than int8 counts; more rows than a batch."""
    words = [[f"{letter}{i % count}" for i in range(20_000)] for letter, count in (("a", 100), ("b", 150), ("c", 100))]
    tables = [pa.Table.from_pandas(pd.DataFrame({"x": pd.Categorical(one)})) for one in words]
    kinds = {str(table.schema.field("x").type) for table in tables}
    mixed = written(tmp_path / "mixed", *tables, row_group_size=18_000)
    plain = written(tmp_path / "plain", *(pa.table({"x": one}) for one in words), row_group_size=18_000)
    assert len(kinds) == 2 and encoded(mixed, kind="id") == encoded(plain, kind="id")
    assert describe(Wish(mixed)).columns["x"].values.distinct.count == 350


def _not_null(kind: pa.DataType, inside: bool) -> pa.Schema:
    kind = pa.list_(pa.field("item", kind, nullable=not inside))
    return pa.schema([pa.field("x", kind, nullable=inside)])


@pytest.mark.parametrize("inside", [False, True])
def test_not_null_in_a_file(tmp_path: Path, inside: bool) -> None:
    lists = [[1, 2], [], [3]]
    strict = pa.table(
        {"x": pa.array(lists, _not_null(pa.int64(), inside).field("x").type)}, _not_null(pa.int64(), inside)
    )
    loose = pa.table({"x": pa.array(lists, pa.large_list(pa.int64()))})
    same = pa.table({"x": pa.array(lists, pa.list_(pa.int64()))})
    for others in (loose, same):
        mixed = written(tmp_path / f"mixed-{others is same}", strict, others)
        plain = written(tmp_path / f"plain-{others is same}", same, same)
        assert encoded(mixed, kind="bag") == encoded(plain, kind="bag")
        assert describe(Wish(mixed)).unfit == ()


def test_numbers_of_two_widths_and_another_order_of_columns(tmp_path: Path) -> None:
    values = [1.5, None, -2.25, 0.0, 4.0, 1.5]
    tables = [pa.table({"x": pa.array(values, kind), "y": range(ROWS)}) for kind in (pa.float16(), pa.float64())]
    mixed = written(tmp_path / "mixed", tables[0], tables[1].select(["y", "x"]))
    plain = written(tmp_path / "plain", tables[1], tables[1])
    for feature in ({"kind": "dense", "null": "indicator"}, {"kind": "bucket", "boundaries": [0.0, 1.5]}):
        assert encoded(mixed, **feature) == encoded(plain, **feature)
    found, expected = (describe(Wish(folder)).columns["x"] for folder in (mixed, plain))
    assert (found.lowest, found.highest, found.nulls) == (expected.lowest, expected.highest, expected.nulls)


def test_a_date_and_a_time_of_any_unit_are_one_id(tmp_path: Path) -> None:
    days = [datetime(2024, 1, 1), datetime(1969, 12, 31), None]
    kinds = [pa.date32(), pa.timestamp("ms"), pa.timestamp("ns")]
    mixed = written(tmp_path / "mixed", *(pa.array(days, kind) for kind in kinds))
    plain = written(tmp_path / "plain", *(pa.array(days, pa.timestamp("us")) for _ in kinds))
    assert encoded(mixed, kind="id") == encoded(plain, kind="id")
    late = [datetime(3000, 1, 1)] * 3
    far = written(tmp_path / "far", pa.array(days, pa.timestamp("ns")), pa.array(late, pa.timestamp("us")))
    with pytest.raises(
        DataError, match=r"1.parquet, row group 0: column `x` is timestamp\[us\] here and is read as time"
    ):
        encoded(far, kind="id")


def test_half_numbers_and_a_name_that_stands_twice(tmp_path: Path) -> None:
    x, half = pa.array(range(ROWS)), pa.array([1.5] * ROWS, pa.float16())
    twice = pa.Table.from_arrays([x, half, half], ["x", "time", "time"])
    folder = written(tmp_path / "logs", twice)
    assert encoded(folder, kind="id") and describe(Wish(folder, config(folder, kind="id"))).repeated == ("time",)
    one = config(folder, kind="dense", column="time")
    for opened in (lambda: Dataset.open(folder, one, True), lambda: Dataset.open_to_score(folder, one, (), False)):
        with pytest.raises(DataError, match="there are 2 columns `time`"):
            opened()
    with pytest.raises(DataError, match="there are 2 columns `time` to carry along"):
        Dataset.open_to_score(folder, config(folder, kind="id"), ("time",), False)
    told = [one for one in findings(describe(Wish(folder, one))) if "`time`" in one.text]
    assert {one.tone for one in told} == {"bad", "look"}
    halves = written(tmp_path / "halves", pa.table({"x": x, "time": half}))
    assert describe(Wish(halves)).columns["time"].highest == 1.5
    with pytest.raises(DataError, match="`time` is the name of several in one of them"):
        written(tmp_path / "other", twice, pa.table({"x": x, "time": half}))


def test_the_digest_of_uniform_files_is_what_it_was(tmp_path: Path) -> None:
    listed = manifest.read(written(tmp_path / "logs", pa.array(IDS), pa.array(IDS)))
    told = ("path", "bytes", "sha256", "row_groups")
    files = [{name: getattr(file, name) for name in told} for file in listed.files]
    tree = {"version": 1, "schema": listed.schema, "files": files}
    assert listed.digest == hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def test_a_later_day_of_a_wider_type_changes_no_digest_of_the_days_before(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(IDS, pa.int32()), "click": [0] * ROWS, "conversion": [0] * ROWS})
    digests = []
    for day, kind in ((1, pa.int32()), (2, pa.int64())):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(table.set_column(0, "x", pa.array(IDS, kind)), tmp_path / f"day={day}" / "x.parquet")
        known = manifest.read(tmp_path) if day == 2 else None
        manifest.write(tmp_path, manifest.build(tmp_path, known=known))
        digests.append(manifest.read(f"{tmp_path}?day=1..1").digest)
    assert digests[0] == digests[1] and manifest.read(tmp_path).schema["x"] == "int64"
    assert manifest.build(tmp_path) == manifest.read(tmp_path)  # appended or listed at once


def test_a_file_of_another_listed_type_is_found(tmp_path: Path) -> None:
    """Each file is compared with its own types, not with the one that holds them all."""
    folder = Path(written(tmp_path / "logs", pa.array(IDS, pa.int32()), pa.array(IDS, pa.int64())))
    listed = manifest.read(folder)
    assert [file.types for file in listed.files] == [{"x": "int32"}, {}]
    manifest.check_files(folder, listed, listed.files, full=True)
    lying = replace(listed, files=(replace(listed.files[0], types={}), listed.files[1]))
    with pytest.raises(DataError, match="its row groups or columns are not the listed ones"):
        manifest.check_files(folder, lying, lying.files, full=False)
    path = folder / "_manifest.json"
    path.write_text(path.read_text().replace('"x": "int32"', '"nothing": "int32"'))
    with pytest.raises(DataError, match="has types of columns that the schema lacks"):
        manifest.read(folder)


def test_marks_of_labels_outlast_the_one_schema_and_nothing_else_does() -> None:
    narrow = pa.schema([pa.field("x", pa.int8()), marked(pa.field("liked", pa.int8()), 0, False)])
    wide = pa.schema([pa.field("liked", pa.int32()), pa.field("x", pa.int64(), metadata={"PARQUET:field_id": "1"})])
    assert labels_of(schema.joined([narrow, wide], ["a", "b"])) == (["liked"], False)
    assert schema.joined([narrow, wide], ["a", "b"]).field("liked").type == pa.int32()
    assert not schema.readable(wide).field("x").metadata
