"""Every kind of feature against a plain computation, row by row, in Python's own numbers."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.config.file import parse
from dist_mtl.data.features.encode import Encoder, Rows
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.hashing import GOLDEN, key

ROWS, WORD = 10, 2**64  # of the table t
INT64 = st.one_of(
    st.integers(-3, 13), st.sampled_from([2**31, 2**31 - 1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
TEXT = st.text(max_size=6)
NUMBER = st.one_of(st.none(), st.just(math.nan), st.floats(-1e30, 1e30), st.integers(-5, 5).map(float))
WEIGHT = st.floats(0, 100, width=32)
SETTINGS = settings(deadline=None, derandomize=True, max_examples=150)


# ------------------------------------------------------------------------------------------------- what is expected
def mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 % WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def text_id(text: str) -> int:
    """The 64-bit id of a string."""
    data = text.encode()
    total = sum(mix((b + GOLDEN) % WORD) * pow(GOLDEN, i, WORD) for i, b in enumerate(data))
    return mix((total + len(data)) % WORD)


def row_of(value: int | str, policy: str) -> int:
    """The row of table t, or the key under `dynamic`."""
    word = text_id(value) if isinstance(value, str) else value
    match policy:
        case "hash":
            return mix((word + key("table", "t")) % WORD) % ROWS
        case "dynamic":
            return mix((word + key("table", "t")) % WORD) % 2**63
        case _:
            return min(max(word, 0), ROWS - 1)


def crossed(values: list[int | str | None], policy: str) -> int:
    if None in values:
        return NO_ID
    word = 0
    for value in values:
        word = mix((word + (text_id(value) if isinstance(value, str) else value) + GOLDEN) % WORD)
    return row_of(word, policy)


def bag_of(ids: list, weights: list | None, options: dict[str, Any], pooling: str) -> tuple[list, list | None]:
    """Rows and weights of one list."""
    longest = options.get("max_length")
    if longest is not None:
        ends = slice(0, longest) if options.get("keep") == "first" else slice(max(len(ids) - longest, 0), None)
        ids, weights = ids[ends], None if weights is None else weights[ends]
    if weights is not None and pooling == "mean":
        weights = [w / sum(weights) if sum(weights) else 0.0 for w in weights]
    return [row_of(i, options["policy"]) for i in ids], weights


def bucket_of(x: float | None, boundaries: list[float]) -> int:
    return NO_ID if x is None or math.isnan(x) else sum(b <= x for b in boundaries)


def dense_of(x: float | None, options: dict[str, Any]) -> tuple[float, float]:
    """What the network sees, and the indicator."""
    if x is None or math.isnan(x):
        return options.get("fill", 0.0), 1.0
    low, high = options.get("clip", (-math.inf, math.inf))

    def f(x: float) -> float:
        return math.copysign(math.log1p(abs(x)), x) if options.get("log") else x

    x = f(min(max(x, low), high))
    if "minimum" in options:
        low, high = f(options["minimum"]), f(options["maximum"])
        return (x - low) / (high - low), 0.0
    return (x - options.get("mean", 0)) / options.get("std", 1), 0.0


# ------------------------------------------------------------------------------------------------------ what is there
def encode(features: dict[str, Any], columns: dict[str, pa.Array], **table: Any) -> Rows:
    """Encode `columns`, cut into chunks at a third: a window comes from several row groups."""
    count = len(next(iter(columns.values())))
    dynamic = any(f.get("policy") == "dynamic" for f in features.values())
    known = {"t": {"rows": 200, "dynamic": {}, **table} if dynamic else {"rows": ROWS, **table}, "u": {"rows": ROWS}}
    tables = {name: known[name] for f in features.values() if (name := f.get("table"))}
    if not tables:
        features = {**features, "other": {"kind": "bucket", "column": "x", "boundaries": [0.0]}}
    tree = {"run": {"dir": "r"}, "data": {"train": "d"}, "tables": tables, "features": features}
    labels = {"click": pa.array([0] * count, pa.int8()), "conversion": pa.array([0] * count, pa.int8())}
    table = pa.table({**labels, **columns})
    parts = pa.concat_tables([table.slice(0, count // 3), table.slice(count // 3)])
    encoder = Encoder(parse(tree))
    encoder.check_schema(parts.schema, "logs")
    return encoder.encode(parts, lambda row: f"row {row}")


@SETTINGS
@given(
    st.one_of(
        st.tuples(st.lists(st.none() | INT64), st.sampled_from(["hash", "clamp", "dynamic"]), st.just(pa.int64())),
        st.tuples(st.lists(st.none() | TEXT), st.sampled_from(["hash", "dynamic"]), st.just(pa.string())),
    ),
    st.booleans(),
)
def test_ids(case: tuple[list, str, pa.DataType], dictionary: bool) -> None:
    values, policy, kind = case
    column = pa.array(values, kind)
    rows = encode({"x": {"kind": "id", "table": "t", "policy": policy}}, {"x": dictionary_of(column, dictionary)})
    expected = [NO_ID if v is None else row_of(v, policy) for v in values]
    assert rows.singles_NS[:, 0].tolist() == [*expected, NO_ID]
    moved = [policy == "clamp" and v is not None and not 0 <= v < ROWS for v in values]
    assert rows.clamped_N.tolist() == [*map(int, moved), 0]


def dictionary_of(array: pa.Array, wanted: bool) -> pa.Array:
    return array.dictionary_encode() if wanted else array


@st.composite
def bags(draw: st.DrawFn) -> tuple[list, list | None, dict[str, Any], str, pa.DataType]:
    """Lists of ids (None: a null list), their weights, options, pooling, the ids' type."""
    policy = draw(st.sampled_from(["hash", "clamp", "dynamic"]))
    texts = policy != "clamp" and draw(st.booleans())
    ids = draw(st.lists(st.none() | st.lists(TEXT if texts else INT64, max_size=6), max_size=8))
    options: dict[str, Any] = {"policy": policy}
    if draw(st.booleans()):
        options |= {"max_length": draw(st.integers(1, 4)), "keep": draw(st.sampled_from(["first", "last"]))}
    weights = None
    if draw(st.booleans()):
        weights = [None if one is None else [draw(WEIGHT) for _ in one] for one in ids]
        options["weights"] = "w"
    return ids, weights, options, draw(st.sampled_from(["sum", "mean"])), pa.string() if texts else pa.int64()


@SETTINGS
@given(bags())
def test_bags(case: tuple[list, list | None, dict[str, Any], str, pa.DataType]) -> None:
    ids, weights, options, pooling, kind = case
    columns = {"x": pa.array(ids, pa.list_(kind))}
    if weights is not None:
        columns["w"] = pa.array(weights, pa.list_(pa.float32()))
    rows = encode({"x": {"kind": "bag", "table": "t", **options}}, columns, pooling=pooling)
    [bag] = rows.bags
    beside = [None] * len(ids) if weights is None else [w or [] for w in weights]
    expected = [bag_of(i or [], w, options, pooling) for i, w in zip(ids, beside, strict=True)]
    assert np.diff(bag.offsets).tolist() == [*(len(one) for one, _ in expected), 0]
    assert bag.values.tolist() == [row for one, _ in expected for row in one]
    assert (bag.weights is None) == (weights is None)
    if weights is not None:
        np.testing.assert_allclose(bag.weights, [w for _, ones in expected for w in ones], rtol=1e-6)


@SETTINGS
@given(
    st.lists(st.tuples(st.none() | INT64, st.none() | TEXT, NUMBER)),
    st.permutations(["user", "word", "bucket"]),
    st.integers(2, 3),
    st.sampled_from(["hash", "dynamic"]),
)
def test_crosses(values: list[tuple], order: list[str], arity: int, policy: str) -> None:
    """Of a feature with a column of another name, of a column that is no feature, and of a bucket."""
    of = order[:arity]
    features = {
        "user": {"kind": "id", "column": "uid", "table": "u", "policy": "clamp"},  # a cross has the ids as they stand
        "bucket": {"kind": "bucket", "column": "n", "boundaries": [0.0, 2.0]},
        "x": {"kind": "cross", "of": of, "table": "t", "policy": policy},
    }
    uid, word, number = (list(column) for column in zip(*values, strict=True)) if values else ([], [], [])
    columns = {
        "uid": pa.array(uid, pa.int64()),
        "word": pa.array(word, pa.string()),
        "n": pa.array(number, pa.float64()),
    }
    rows = encode(features, columns)
    buckets = [bucket_of(x, [0.0, 2.0]) for x in number]
    parts = {"user": uid, "word": word, "bucket": [None if b == NO_ID else b for b in buckets]}
    expected = [crossed([parts[name][n] for name in of], policy) for n in range(len(values))]
    assert rows.singles_NS[:, 2].tolist() == [*expected, NO_ID]


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    """The options of a dense feature."""
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["clip"] = sorted(draw(st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=2, unique=True)))
    if draw(st.booleans()):
        options["log"] = True
    match draw(st.sampled_from(["none", "moments", "ends"])):
        case "moments":
            options |= {"mean": draw(st.floats(-5, 5)), "std": draw(st.floats(0.1, 5))}
        case "ends":
            low = draw(st.floats(-5, 5))
            options |= {"minimum": low, "maximum": low + draw(st.floats(0.5, 9))}
    if draw(st.booleans()):
        options["null"] = draw(st.sampled_from(["fill", "indicator"]))
    return options | ({"fill": draw(st.floats(-2, 2))} if draw(st.booleans()) else {})


@SETTINGS
@given(st.lists(NUMBER, min_size=1), scalings())
def test_dense_numbers(values: list[float | None], options: dict[str, Any]) -> None:
    rows = encode({"x": {"kind": "dense", **options}}, {"x": pa.array(values, pa.float64())})
    expected = [dense_of(x, options) for x in values]
    width = 2 if options.get("null") == "indicator" else 1
    assert rows.dense_ND.shape == (len(values) + 1, width) and rows.dense_ND[-1].tolist() == [0] * width
    np.testing.assert_allclose(rows.dense_ND[:-1, 0], [x for x, _ in expected], rtol=1e-5, atol=1e-6)
    if width == 2:
        assert rows.dense_ND[:-1, 1].tolist() == [gone for _, gone in expected]


@SETTINGS
@given(
    st.lists(NUMBER | st.sampled_from([math.inf, -math.inf])),
    st.lists(st.floats(-5, 5), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_buckets(values: list[float | None], boundaries: list[float]) -> None:
    rows = encode({"x": {"kind": "bucket", "boundaries": boundaries}}, {"x": pa.array(values, pa.float64())})
    assert rows.singles_NS[:, 0].tolist() == [*(bucket_of(x, boundaries) for x in values), NO_ID]
