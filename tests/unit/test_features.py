"""Ids of every type, shared tables, lists, crosses: what becomes of them, and what is refused, with what to do."""

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.batch import collate
from dist_mtl.data.features.encode import Encoder, Rows
from dist_mtl.data.features.group_keys import keys_of
from dist_mtl.data.features.ids import NO_ID, cross
from dist_mtl.data.hashing import hash_ids, key
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.model.mtl import MultiTaskModel
from tests.unit.test_encode import bag, encode, encoder, lists, refused

DYNAMIC = {"rows": 200, "dynamic": {}}


def config(features: dict[str, Any], tables: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A configuration of these features; table t has 10 rows."""
    tree = {"run": {"dir": "r"}, "data": {"train": "d"}, "tables": {"t": {"rows": 10}} if tables is None else tables}
    return parse({**tree, "features": features, **sections})


def config_error(*arguments: Any, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*arguments, **sections)
    return str(caught.value)


def rows_of(made: Config, columns: dict[str, Any]) -> Rows:
    """Checked against the schema, and encoded."""
    count = len(next(iter(columns.values())))
    table = pa.table({name: pa.array([0] * count, pa.int8()) for name in ("click", "conversion")} | columns)
    one = Encoder(made)
    one.check_schema(table.schema, "logs")
    return one.encode(table, lambda row: f"row {row}")


def ids(column: pa.Array, policy: str = "hash", **table: Any) -> list[int]:
    """What a single-id feature makes of a column."""
    made = config({"x": {"kind": "id", "table": "t", "policy": policy}}, {"t": {"rows": 10, **table}})
    return rows_of(made, {"x": column}).singles_NS[:-1, 0].tolist()


# ------------------------------------------------------------------------------------------------------- types of ids
DAYS = [dt.date(2024, 2, 29), None, dt.date(1969, 12, 31), dt.date(9999, 12, 31)]
MOMENTS = [None if day is None else dt.datetime(day.year, day.month, day.day) for day in DAYS]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(DAYS, pa.date32()),
        pa.array(DAYS, pa.date64()),
        pa.array(MOMENTS, pa.timestamp("s")),
        pa.array(MOMENTS, pa.timestamp("ms")),
        pa.array(MOMENTS, pa.timestamp("us")),
        pa.array(MOMENTS, pa.timestamp("us")).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_day_is_one_id_as_a_date_and_as_a_timestamp_of_any_unit(column: pa.Array) -> None:
    """A dataset that was written anew in another unit must not look up other rows."""
    micros = [None if m is None else (m - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1) for m in MOMENTS]
    assert ids(column) == ids(pa.array(micros, pa.int64())) and ids(column)[1] == NO_ID
    assert keys_of(column)[0][0] == micros[0] and keys_of(column)[1].tolist() == [True, False, True, True]


def test_times_of_the_day_durations_and_nanoseconds() -> None:
    assert ids(pa.array([5, None], pa.time32("s"))) == ids(pa.array([5_000_000, None]))
    assert ids(pa.array([5_000, 1], pa.time64("ns"))) == ids(pa.array([5, 0]))
    assert ids(pa.array([3], pa.duration("ms"))) == ids(pa.array([3_000]))
    assert ids(pa.array([7_000, 7_999], pa.timestamp("ns", "Europe/Berlin"))) == ids(pa.array([7, 7]))


@pytest.mark.parametrize("policy", ["hash", "clamp", "reject"])
def test_booleans_are_0_and_1(policy: str) -> None:
    flags = pa.array([True, None, False])
    assert ids(flags, policy) == ids(pa.array([1, None, 0]), policy)
    made = rows_of(config({"x": {"kind": "bag", "table": "t", "policy": policy}}), {"x": [[True, False], []]})
    assert lists(made) == lists(
        rows_of(config({"x": {"kind": "bag", "table": "t", "policy": policy}}), {"x": [[1, 0], []]})
    )


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(3)])
def test_bytes_are_the_ids_that_their_text_has(kind: pa.DataType) -> None:
    texts = ["abc", None, "xyz"]
    column = pa.array([None if t is None else t.encode() for t in texts], kind)
    assert ids(column) == ids(pa.array(texts)) and ids(column.slice(1)) == ids(pa.array(texts[1:]))


@pytest.mark.parametrize("policy", ["clamp", "reject"])
def test_a_dictionary_of_integers_has_their_rows(policy: str) -> None:
    """A null has the first value's place in the dictionary; that value is none of its business."""
    column = pa.DictionaryArray.from_arrays(pa.array([None, 1, 1], pa.int8()), pa.array([99, 3]))
    assert ids(column, policy) == [NO_ID, 3, 3]
    assert ids(pa.array([], pa.int64()).dictionary_encode(), policy) == []
    assert ids(pa.array([None, None], pa.int64()).dictionary_encode(), policy) == [NO_ID] * 2


def test_row_groups_may_have_dictionaries_of_their_own() -> None:
    parts = [pa.array(texts).dictionary_encode() for texts in (["a", "b"], ["b", None, "c"])]
    assert ids(pa.chunked_array(parts)) == ids(pa.array(["a", "b", "b", None, "c"]))


def test_a_type_that_has_no_ids_is_told_with_what_to_do() -> None:
    schema = {"click": pa.int8(), "conversion": pa.int8()}
    features = {"x": {"kind": "id", "table": "t"}}
    for kind in (pa.float64(), pa.decimal128(20, 0)):
        with pytest.raises(DataError, match="cast it to int64 where the data are made, or use kind = 'bucket'"):
            encoder(features).check_schema(pa.schema({"x": kind, **schema}), "logs")
    with pytest.raises(DataError, match="with policy `clamp` needs integers or booleans"):
        encoder({"x": {**features["x"], "policy": "clamp"}}).check_schema(
            pa.schema({"x": pa.timestamp("s"), **schema}), "logs"
        )


# ------------------------------------------------------------------------------------------- dynamic and shared tables
def test_dynamic_ids_are_keys_of_63_bits() -> None:
    """They are a format, too: a commit's map of ids holds them."""
    values = [0, 1, -1, 2**31, 2**63 - 1, -(2**63), None]
    found = ids(pa.array(values), "dynamic", **DYNAMIC)
    assert found[:2] == [1208782673502844800, 9029877731148365773] and found[-1] == NO_ID
    assert len({*found}) == len(values) and min(found[:-1]) >= 0
    assert ids(pa.array([2**64 - 1], pa.uint64()), "dynamic", **DYNAMIC) == ids(pa.array([-1]), "dynamic", **DYNAMIC)
    many = np.array(ids(pa.array(np.arange(200_000)), "dynamic", **DYNAMIC))
    assert len(np.unique(many)) == len(many)
    bits = [(many >> bit & 1).mean() for bit in range(63)]
    print(f"keys of 0 ... 199,999: each of 63 bits is set in {min(bits):.3f} to {max(bits):.3f} of them")
    assert 0.49 < min(bits) and max(bits) < 0.51


@pytest.mark.parametrize("policy", ["hash", "clamp", "reject", "dynamic"])
def test_features_of_one_table_share_the_rows_of_their_ids(policy: str) -> None:
    options = {"table": "t", "policy": policy}
    features = {"a": {"kind": "id", **options}, "b": {"kind": "id", "column": "a", **options}}
    features |= {"list": {"kind": "bag", **options}, "other": {"kind": "id", "column": "a", "policy": policy}}
    tables = {
        name: (DYNAMIC if policy == "dynamic" else {"rows": 10}) | {"dim": d} for name, d in (("t", 4), ("other", 8))
    }
    made = config(features, tables)
    rows = rows_of(made, {"a": [3, 9, 0], "list": [[3], [9, 9], []]})
    singles = dict(zip(Encoder(made).singles, rows.singles_NS.T[:, :-1].tolist(), strict=True))
    assert singles["a"] == singles["b"]
    assert lists(rows) == [[singles["a"][0]], [singles["a"][1]] * 2, [], []]
    named = policy in ("hash", "dynamic")
    assert (singles["other"] != singles["a"]) == named  # a name means another row in another table
    model = MultiTaskModel(made, torch.device("meta"))
    assert model.embeddings.dims == (4, 4, 8, 4)  # a, b, other, list


# --------------------------------------------------------------------------------------------------------------- bags
def test_long_lists_with_weights_under_every_pooling() -> None:
    """10^4 ids a row, against numpy."""
    draw = np.random.default_rng(0)
    values, weights = draw.integers(0, 10, (2, 10_000)), draw.random((2, 10_000)).astype(np.float32)
    columns = {"x": values.tolist(), "w": pa.array(weights.tolist(), pa.list_(pa.float32()))}
    plain, mean = (encode(bag(weights="w"), columns, table={"pooling": pooling}) for pooling in ("sum", "mean"))
    assert plain.bags[0].values.tolist() == values.ravel().tolist()
    np.testing.assert_array_equal(plain.bags[0].weights, weights.ravel())
    ours = mean.bags[0].weights.reshape(2, -1)
    np.testing.assert_allclose(ours, weights / weights.sum(axis=1, dtype=np.float64)[:, None], rtol=1e-6)
    np.testing.assert_allclose(ours.sum(axis=1, dtype=np.float64), 1, rtol=1e-6)
    cut = encode(bag(weights="w", max_length=9_999), columns, table={"pooling": "mean"}).bags[0]
    assert np.diff(cut.offsets).tolist() == [9_999, 9_999, 0]
    assert cut.values.reshape(2, -1).tolist() == values[:, 1:].tolist()


def test_what_is_cut_off_is_not_looked_at() -> None:
    columns = {"x": pa.array([[None, 99, 1, 2], [3]]), "w": pa.array([[1.0, np.nan, 2.0, 4.0], [1.0]])}
    rows = encode(bag(weights="w", max_length=2), columns)
    assert lists(rows) == [[1, 2], [3], []] and lists(rows, "weights") == [[2, 4], [1], []]
    clamped = encode(bag(policy="clamp", max_length=2), {"x": [[99, 98, 1, 97]]})
    assert lists(clamped) == [[1, 9], []] and clamped.clamped_N.tolist() == [1, 0]
    assert refused(bag(max_length=2), {"x": [[0, 1], [2, 3, 99, 1]]}).startswith("row 1: features.x: id 99 is outside")


def test_a_mean_has_no_negative_weights() -> None:
    columns = {"x": [[1], [2, 3]], "w": [[1.0], [1.0, -0.5]]}
    assert lists(encode(bag(weights="w"), columns), "weights") == [[1], [1, -0.5], []]
    told = refused(bag(weights="w"), columns, table={"pooling": "mean"})
    assert told.startswith("row 1: `w` is negative, and a mean has no negative weights")


# ------------------------------------------------------------------------------------------------------------ crosses
CROSS = {
    "segment": {"kind": "id", "table": "t"},
    "age": {"kind": "bucket", "boundaries": [20.0, 40.0]},
    "pair": {"kind": "cross", "of": ["segment", "category", "age"], "table": "t"},
}
COLUMNS = {"segment": pa.array([1, 2, None, 1]), "category": ["a", "b", "a", None], "age": [30.0, 50.0, 10.0, 30.0]}


def test_a_cross_reads_features_and_columns_and_a_null_in_any_is_no_id() -> None:
    made = config(CROSS)
    assert Encoder(made).columns == ("segment", "age", "category", "click", "conversion")
    rows = rows_of(made, COLUMNS).singles_NS[:, 2]
    words, _ = keys_of(pa.array(["a", "b"]))
    expected = hash_ids(cross([np.array([1, 2]), words, np.array([1, 2])]), 10, key("table", "t"))
    assert rows.tolist() == [*expected.tolist(), NO_ID, NO_ID, NO_ID]


def test_a_cross_is_pinned_tells_the_order_and_spreads_evenly() -> None:
    """Its values are a format. All 90,000 pairs of 300 x 300 small ids differ, and fill 1,000 rows evenly."""
    assert cross([np.array([1, 2]), np.array([2, 1])]).tolist() == [-4838594755968170389, -2274933249722822011]
    a, b = (side.ravel() for side in np.meshgrid(np.arange(300), np.arange(300)))
    both = cross([a, b])
    assert len(np.unique(both)) == 90_000 and (both == cross([b, a])).mean() < 0.01  # the diagonal
    loads = np.bincount(hash_ids(both, 1_000, key("table", "t")), minlength=1_000)
    chi_square = ((loads - 90) ** 2 / 90).sum()
    print(f"90,000 pairs on 1,000 rows: chi-square {chi_square:.0f}, expected 999 +- 45")
    assert abs(chi_square - 999) < 5 * 45


def test_a_cross_trains_like_any_id() -> None:
    made = config(CROSS | {"other": {"kind": "cross", "of": ["category", "segment"], "table": "t"}})
    rows = rows_of(made, COLUMNS)
    batch = collate(Encoder(made), rows, np.arange(4), 1, 0)
    assert batch.ids.keys() == ["segment", "age", "pair", "other"]
    assert batch.ids.lengths().reshape(4, 4).tolist() == [[1, 1, 0, 1], [1] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (["price", "segment"], "`price`: a dense number has no ids; bucketise it"),
        (["tags", "segment"], "`tags`: a bag has many ids a row"),
        (["pair", "segment"], "`pair`: it is a cross itself; name the parts"),
        (["segment", "click"], "column `click` is a label"),
        (["segment", "segment"], "`of` has a name twice"),
        (["segment"], "at least 2"),
    ],
)
def test_a_cross_of_what_can_not_be_crossed(of: list[str], says: str) -> None:
    features = CROSS | {"price": {"kind": "dense"}, "tags": {"kind": "bag", "table": "t"}}
    assert says in config_error(features | {"x": {"kind": "cross", "of": of, "table": "t"}})


def test_a_cross_by_another_policy_column_or_as_a_slice() -> None:
    assert "'hash' or 'dynamic'" in config_error({**CROSS, "pair": {**CROSS["pair"], "policy": "reject"}})
    assert "features.pair.column is not a key" in config_error({**CROSS, "pair": {**CROSS["pair"], "column": "x"}})
    told = config_error(CROSS, metrics={"slices": ["pair"]})
    assert "metrics.slices: `pair` is a cross and no column; name `segment` or `category` or `age`" in told
    schema = pa.schema(
        {"segment": pa.int64(), "category": pa.list_(pa.int64()), "age": pa.float64(), "click": pa.int8()}
    )
    with pytest.raises(DataError) as caught:
        Encoder(config(CROSS)).check_schema(schema.append(pa.field("conversion", pa.int8())), "logs")
    assert str(caught.value).startswith(
        "logs: column `category` is list<item: int64>, but features.pair, a cross, needs"
    )
