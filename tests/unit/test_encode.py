"""Arrow -> numpy: after `Encoder` every id is a row of its table, every number finite, every label 0 or 1."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.config.file import parse
from dist_mtl.data.batch import collate
from dist_mtl.data.features.encode import Encoder, Rows
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.hashing import hash_ids, hash_strings, key
from dist_mtl.data.order import EMPTY
from dist_mtl.errors import DataError

TABLE = {"t": {"rows": 10, "dim": 4}}


def encoder(features: dict[str, Any], **data: Any) -> Encoder:
    """An encoder of `features`, with table t of 10 rows for those that need one."""
    tables = {"t": {**TABLE["t"], **data.pop("table", {})}} if any(f.get("table") for f in features.values()) else {}
    if not any(f["kind"] != "dense" for f in features.values()):
        features = {**features, "any": {"kind": "bucket", "column": "x", "boundaries": [0.0]}}
    return Encoder(parse({"run": {"dir": "r"}, "data": {"train": "d", **data}, "tables": tables, "features": features}))


def encode(features: dict[str, Any], columns: dict[str, Any], **data: Any) -> Rows:
    """Encode `columns` (labels are 0 where they are not given)."""
    count = len(next(iter(columns.values())))
    columns = {"click": [0] * count, "conversion": [0] * count, **columns}
    return encoder(features, **data).encode(pa.table(columns), lambda row: f"row {row}")


def refused(features: dict[str, Any], columns: dict[str, Any], **data: Any) -> str:
    """The message of the DataError."""
    with pytest.raises(DataError) as caught:
        encode(features, columns, **data)
    return str(caught.value)


def single(policy: str) -> dict[str, Any]:
    return {"x": {"kind": "id", "table": "t", "policy": policy}}


def bag(**options: Any) -> dict[str, Any]:
    return {"x": {"kind": "bag", "table": "t", "policy": "reject", **options}}


def lists(rows: Rows, what: str = "values") -> list[list]:
    """The first bag as lists, the blank row last."""
    [found] = rows.bags
    values, ends = getattr(found, what).astype(float if what == "weights" else int), found.offsets
    return [values[a:b].tolist() for a, b in zip(ends[:-1], ends[1:], strict=True)]


HUGE = [-(2**63), -1, 0, 9, 10, 2**31, 2**63 - 1]


def test_hash_takes_any_id_and_a_null_is_no_id() -> None:
    ids = np.array(HUGE)
    rows = encode(single("hash"), {"x": pa.array([*HUGE, None])}).singles_NS[:, 0]
    assert rows[:-2].tolist() == hash_ids(ids, 10, key("table", "t")).tolist()
    assert (0 <= rows[:-2]).all() and (rows[:-2] < 10).all()
    assert rows[-2:].tolist() == [NO_ID, NO_ID]  # the null, and the row that padding points to


def test_clamp_moves_to_the_nearest_row_and_counts() -> None:
    rows = encode(single("clamp"), {"x": pa.array([*HUGE, None])})
    assert rows.singles_NS[:, 0].tolist() == [0, 0, 0, 9, 9, 9, 9, NO_ID, NO_ID]
    assert rows.clamped_N.tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 0]


def test_clamp_counts_every_id_of_a_bag() -> None:
    rows = encode(bag(policy="clamp"), {"x": [[-1, 3, 99], [], [4], [10, 10]]})
    assert lists(rows) == [[0, 3, 9], [], [4], [9, 9], []]
    assert rows.clamped_N.tolist() == [2, 0, 0, 2, 0]


@pytest.mark.parametrize("bad", [-(2**63), -1, 10, 2**31, 2**63 - 1])
def test_reject_names_the_row_and_the_id(bad: int) -> None:
    assert refused(single("reject"), {"x": [3, 9, bad, 0]}) == (
        f"row 2: features.x: id {bad} is outside table `t` of 10 rows (policy reject) (1 such in this read)"
    )
    assert refused(bag(), {"x": [[3], [], [9, bad]]}).startswith(f"row 2: features.x: id {bad} is outside table `t`")


def test_reject_takes_every_row_and_nulls() -> None:
    rows = encode(single("reject"), {"x": pa.array([0, None, 9])})
    assert rows.singles_NS[:, 0].tolist() == [0, NO_ID, 9, NO_ID]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint8(), pa.uint32(), pa.uint64()])
def test_integers_of_every_width(kind: pa.DataType) -> None:
    assert encode(single("reject"), {"x": pa.array([1, 9, None], kind)}).singles_NS[:, 0].tolist() == [
        1,
        9,
        NO_ID,
        NO_ID,
    ]


def test_a_uint64_beyond_int64_is_outside_every_table() -> None:
    for values in ([2**64 - 1], [3, 2**63]):
        for kind in (pa.uint64(), pa.dictionary(pa.int32(), pa.uint64())):
            array = pa.array(values, pa.uint64())
            message = refused(single("reject"), {"x": array if kind == array.type else array.dictionary_encode()})
            assert f"row {len(values) - 1}: features.x: id {values[-1]} is outside table" in message
        message = refused(bag(), {"x": pa.array([[1], values], pa.list_(pa.uint64()))})
        assert f"row 1: features.x: id {values[-1]} is outside table" in message
    hashed = encode(single("hash"), {"x": pa.array([2**64 - 1], pa.uint64())}).singles_NS[0, 0]
    assert 0 <= hashed < 10


def test_clamp_of_a_uint64_beyond_int64_is_the_last_row() -> None:
    assert encode(single("clamp"), {"x": pa.array([2**63, 2**64 - 1], pa.uint64())}).singles_NS[:2, 0].tolist() == [
        9,
        9,
    ]


STRINGS = ["", "a", "größe", "東京", "a" * 300, "\0", None, "b"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_hash_alike_whatever_their_encoding_and_slice(kind: pa.DataType) -> None:
    array = pa.array(STRINGS, pa.string())
    array = array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind)
    text = [(s or "").encode() for s in STRINGS]
    data, ends = np.frombuffer(b"".join(text), np.uint8), np.cumsum([0, *map(len, text)])
    expected = hash_ids(hash_strings(data, ends), 10, key("table", "t"))
    expected[STRINGS.index(None)] = NO_ID
    assert encode(single("hash"), {"x": array}).singles_NS[:-1, 0].tolist() == expected.tolist()
    for start, stop in [(1, 8), (3, 5), (0, 1), (2, 2)]:  # a slice shares buffers with what is outside of it
        part = array.slice(start, stop - start)
        assert encode(single("hash"), {"x": part}).singles_NS[:-1, 0].tolist() == expected[start:stop].tolist()
    chunks = pa.chunked_array([array.slice(0, 3), array.slice(3)])
    assert encode(single("hash"), {"x": chunks}).singles_NS[:-1, 0].tolist() == expected.tolist()


def test_bags_of_strings_and_their_slices() -> None:
    array = pa.array([["a", "b"], None, [], ["b"], ["c", "a", "b"]])
    whole = lists(encode(bag(policy="hash"), {"x": array}))
    a, b = whole[0]
    assert whole == [[a, b], [], [], [b], [whole[4][0], a, b], []]
    assert lists(encode(bag(policy="hash"), {"x": array.slice(2, 3)})) == [[], [b], whole[4], []]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int64(), 2)])
def test_lists_of_every_kind_with_nulls(kind: pa.DataType) -> None:
    array = pa.array([[1, 2], None, [3, 4], [5, 6]], kind)
    assert lists(encode(bag(), {"x": array})) == [[1, 2], [], [3, 4], [5, 6], []]
    assert lists(encode(bag(), {"x": array.slice(1, 2)})) == [[], [3, 4], []]


def test_a_null_list_that_hides_values_is_empty() -> None:
    """Arrow may keep values below a null; `.values` would show them."""
    hidden = pa.ListArray.from_arrays(pa.array([0, 2, 4]), pa.array([1, 2, 3, 4]), mask=pa.array([True, False]))
    assert lists(encode(bag(), {"x": hidden})) == [[], [3, 4], []]


def test_a_null_inside_a_list_is_refused() -> None:
    assert refused(bag(), {"x": [[1], [], [2, None]]}).startswith("row 2: features.x: a null inside the list")


@pytest.mark.parametrize(
    ("keep", "expected"), [("first", [[1, 2], [], [4], [5, 6]]), ("last", [[2, 3], [], [4], [7, 8]])]
)
def test_truncation_keeps_an_end_with_its_weights(keep: str, expected: list) -> None:
    columns = {"x": [[1, 2, 3], [], [4], [5, 6, 7, 8]], "w": [[0.1, 0.2, 0.3], [], [0.4], [0.5, 0.6, 0.7, 0.8]]}
    rows = encode(bag(max_length=2, keep=keep, weights="w"), columns)
    assert lists(rows) == [*expected, []]
    assert [np.round(w, 3).tolist() for w in lists(rows, "weights")] == [
        [x / 10 for x in ids] for ids in [*expected, []]
    ]


def test_weights_must_fit_their_ids() -> None:
    options = bag(weights="w")
    assert refused(options, {"x": [[1], [2, 3]], "w": [[1.0], [1.0]]}).startswith(
        "row 1: `w` is not as long as features.x"
    )
    for bad in (np.nan, np.inf, None):
        message = refused(options, {"x": [[1], [2, 3]], "w": pa.array([[1.0], [1.0, bad]], pa.list_(pa.float64()))})
        assert message.startswith("row 1: `w` is null or not finite")
    for longest in (None, 1):
        message = refused(bag(weights="w", max_length=longest), {"x": [[1], [2, 3]], "w": [[1.0], [1.0, -1e300]]})
        assert message.startswith("row 1: `w` is -1e300, beyond the range of float32")
    integers = encode(options, {"x": [[1, 2]], "w": [[2**24 + 1, 3]]})
    assert lists(integers, "weights")[0] == [2**24, 3]


def test_a_weighted_mean_is_a_weighted_sum() -> None:
    """FBGEMM's own weighted mean depends on the plan, and its CPU gradient is wrong: the encoder scales the weights."""
    columns = {"x": [[1, 2], [3], [], [4, 5]], "w": [[1.0, 3.0], [7.0], [], [0.0, 0.0]]}
    scaled = encode(bag(weights="w"), columns, table={"pooling": "mean"})
    assert lists(scaled, "weights") == [[0.25, 0.75], [1.0], [], [0.0, 0.0], []]
    other = {**bag(), "y": {"kind": "bag", "table": "s", "weights": "w", "policy": "reject"}}
    config = {
        "run": {"dir": "r"},
        "data": {"train": "d"},
        "tables": {"t": {"rows": 10, "pooling": "mean"}, "s": {"rows": 10}},
        "features": other,
    }
    table = pa.table({"x": [[1, 2, 3]], "y": [[1, 2]], "w": [[2.0, 3.0]], "click": [0], "conversion": [0]})
    plain, weighted = Encoder(parse(config)).encode(table, str).bags
    np.testing.assert_allclose(plain.weights, [1 / 3] * 3)  # without weights of its own, in a weighted collection
    assert weighted.weights.tolist() == [2, 3]


def test_bucket_edges() -> None:
    """Bucket k holds boundaries[k-1] <= x < boundaries[k]; null and NaN have no bucket."""
    numbers = [-np.inf, -1, 0, 0.999, 1, 1.5, 2.5, 2.500001, np.inf, None, np.nan]
    rows = encode({"x": {"kind": "bucket", "boundaries": [0, 1, 2.5]}}, {"x": pa.array(numbers, pa.float64())})
    assert rows.singles_NS[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, NO_ID, NO_ID, NO_ID]


def test_dense_numbers() -> None:
    feature = {"kind": "dense", "mean": 1.0, "std": 2.0, "fill": -7.0}
    numbers = {"x": pa.array([3, -1, 1, None, np.nan], pa.float64())}
    assert encode({"x": feature}, numbers).dense_ND[:, 0].tolist() == [1, -1, 0, -7, -7, 0]
    logs = encode({"x": {"kind": "dense", "log": True}}, {"x": [0.0, np.e - 1, -(np.e - 1)]}).dense_ND[:-1, 0]
    np.testing.assert_allclose(logs, [0, 1, -1], atol=1e-7)
    assert encode({"x": {"kind": "dense"}}, {"x": pa.array([2, None], pa.int32())}).dense_ND[:, 0].tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, np.inf], "inf, no number"),
        ([0.0, -np.inf], "-inf, no number"),
        (pa.array([0, np.inf], pa.float32()), "inf, no number"),
        ([0.0, 1e300], "1e300, beyond the range of float32"),
        ([0.0, -1.5e39], "-1.5e39, beyond the range of float32"),
        (pa.array([Decimal(0), Decimal(10) ** 60], pa.decimal256(70)), f"1{'0' * 60}, beyond the range of float32"),
    ],
)
def test_a_number_that_float32_can_not_hold_is_refused_as_it_stands(values: Any, words: str) -> None:
    assert refused({"x": {"kind": "dense"}}, {"x": values}).startswith(f"row 1: features.x is {words}")


def test_a_scale_that_float32_can_not_hold_names_the_number_before_it() -> None:
    for value, kind, words in ((1e25, pa.float32(), "1e25"), (2**63, pa.uint64(), str(2**63)), (7, pa.int8(), "7")):
        message = refused({"x": {"kind": "dense", "std": 1e-38}}, {"x": pa.array([0, value], kind)})
        assert message.startswith(f"row 1: features.x is {words}, beyond the range of float32 once it is scaled; set")


def test_the_blank_row_is_what_padding_sees() -> None:
    features = {
        **bag(weights="w"),
        "age": {"kind": "bucket", "boundaries": [1.0]},
        "price": {"kind": "dense", "fill": 3.0},
    }
    columns = {"x": [[1, 2], [3]], "w": [[0.5, 0.25], [1.0]], "age": [0.0, 2.0], "price": [5.0, 6.0], "click": [1, 1]}
    made = encoder(features)
    rows = made.encode(pa.table({**columns, "conversion": [1, 0]}), str)
    batch = collate(made, rows, np.array([1, EMPTY, 0, EMPTY]), step=3, first_slot=8)
    assert batch.slots_B.tolist() == [8, 9, 10, 11] and batch.step == 3
    assert batch.ids.keys() == ["age", "x"]
    assert batch.ids.lengths().tolist() == [1, 0, 1, 0, 1, 0, 2, 0]
    assert batch.ids.values().tolist() == [1, 0, 3, 1, 2]
    assert batch.ids.weights().tolist() == [1, 1, 1, 0.5, 0.25]
    assert batch.weight_B.tolist() == [1, 0, 1, 0]
    assert batch.labels_BT.tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
    assert batch.dense_BD.tolist() == [[6], [0], [5], [0]]


def test_an_empty_table_encodes_to_the_blank_row() -> None:
    schema = {
        "x": pa.array([], pa.list_(pa.int64())),
        "click": pa.array([], pa.int8()),
        "conversion": pa.array([], pa.int8()),
    }
    rows = encoder(bag()).encode(pa.table(schema), str)
    assert rows.weight_N.tolist() == [0] and lists(rows) == [[]]
