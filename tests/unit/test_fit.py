"""What features ask of the training rows: found in one pass, the same whoever reads what, and part of the config."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import BucketFeature, Config, DenseFeature
from dist_mtl.config.file import parse
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.fit import find, inherited, merged, sketch, unfitted, with_found
from dist_mtl.data.features.quantile_sketch import Sketch
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import partitioned
from dist_mtl.errors import DataError, InternalError
from tests.support import samples

ASKING = (
    "features.age={kind='bucket', quantiles=6, dim=8}",
    "features.price={kind='dense', log=true, scale='standard', null='indicator'}",
    "features.importance={kind='dense', scale='minmax'}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 1_000, group_rows=70)
    return folder


def found_in(folder: Path, config: Config, parts: int) -> dict[str, tuple[float, ...]]:
    """What `parts` readers find."""
    dataset = Dataset.open(str(folder / "train"), config, shuffle=True)
    columns = {name: config.columns_of(name)[0] for name in unfitted(config)}
    shares = [sketch(dataset, columns.values(), part, parts) for part in range(parts)]
    whole = {column: merged(share[column] for share in shares) for column in columns.values()}
    return {name: find(name, config.features[name], whole[column])[0] for name, column in columns.items()}


def test_what_is_found_is_numpys_and_the_same_for_any_number_of_readers(folder: Path) -> None:
    config = samples.config(folder, *ASKING)
    assert unfitted(config) == ["age", "price", "importance"]
    found = found_in(folder, config, 1)
    assert all(found_in(folder, config, parts) == found for parts in (2, 3, 15, 40))
    rows = samples.rows_of(folder / "train")
    ages = np.sort(rows.column("age").drop_null().to_numpy())
    assert found["age"] == tuple(ages[np.arange(1, 6) * len(ages) // 6])
    logs = np.log1p(rows.column("price").drop_null().to_numpy())
    np.testing.assert_allclose(found["price"], (logs.mean(), logs.std()), rtol=1e-12)
    assert found["importance"] == (0.0, 1.5)
    filled = with_found(config, found)
    assert unfitted(filled) == [] and filled.features["user"] is config.features["user"]
    assert filled.all_tables["age"].rows == 6
    assert parse(json.loads(json.dumps(filled.model_dump(mode="json")))) == filled  # as a commit keeps it


def test_buckets_of_quantiles_hold_equal_shares(folder: Path) -> None:
    config = samples.config(folder, *ASKING)
    filled = with_found(config, found_in(folder, config, 1))
    encoder = Encoder(filled)
    rows = encoder.encode(samples.rows_of(folder / "train"), str)
    buckets = rows.singles_NS[:-1, encoder.singles.index("age")]
    shares = np.bincount(buckets[buckets >= 0]) / (buckets >= 0).sum()
    print(f"6 quantiles of 70 ages: shares {shares.round(3)}")
    assert len(shares) == 6 and np.abs(shares - 1 / 6).max() < 0.02
    value, scaled = encoder.dense.index("price"), encoder.dense.index("importance")
    there = rows.dense_ND[:-1, -1] == 0  # the indicator, after all numbers
    assert abs(rows.dense_ND[:-1, value][there].mean()) < 1e-5
    assert abs(rows.dense_ND[:-1, value][there].std() - 1) < 1e-5
    assert rows.dense_ND[:-1, scaled].min() == 0 and rows.dense_ND[:-1, scaled].max() == 1


def test_of_a_stream_the_first_partition_is_looked_at(folder: Path) -> None:
    """The others are tested before they are trained: nothing of theirs may be known by then."""
    config = samples.config(folder, *ASKING)
    dataset = Dataset.open(str(folder / "train"), config, shuffle=True)
    days = [3 if block < 4 else 2 if block < 9 else 7 for block in range(len(dataset.blocks))]
    stream = replace(dataset, order=partitioned(dataset.order, days))
    whole = merged(sketch(stream, ["age"], part, 2)["age"] for part in range(2))
    first = samples.rows_of(folder / "train").column("age").to_numpy()
    starts = np.cumsum([0, *(block.rows for block in dataset.blocks)])
    plain = Sketch()
    plain.add(first[starts[4] : starts[9]])
    assert whole.total == plain.total < len(first) / 2
    assert np.array_equal(whole.keys, plain.keys) and np.array_equal(whole.counts, plain.counts)


def test_rows_are_not_encoded_before_the_boundaries_are_known(folder: Path) -> None:
    encoder = Encoder(samples.config(folder, *ASKING))
    with pytest.raises(InternalError, match="features.age"):
        encoder.encode(samples.logs(5), str)


def test_what_was_found_stays_with_features_that_ask_for_the_same(folder: Path) -> None:
    config = samples.config(folder, *ASKING)
    found = found_in(folder, config, 1)
    earlier = with_found(config, found)
    assert inherited(config, earlier) == found
    other = samples.config(folder, *ASKING, "features.age.quantiles=7", "features.price.log=false")
    assert inherited(other, earlier) == {"importance": found["importance"]}
    given = samples.config(folder, *ASKING, "features.age={kind='bucket', boundaries=[3.0]}")
    assert inherited(config, given) == {} and inherited(given, earlier).keys() == {"price", "importance"}


def of(*values: float) -> Sketch:
    one = Sketch()
    one.add(np.array(values))
    return one


def bucket(**options: Any) -> BucketFeature:
    return BucketFeature(kind="bucket", **options)


def dense(**options: Any) -> DenseFeature:
    return DenseFeature(kind="dense", **options)


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (bucket(quantiles=4), [np.nan], (0.0,)),
        (dense(scale="standard"), [np.nan], (0.0, 1.0)),
        (dense(scale="minmax"), [np.inf], (0.0, 1.0)),
        (bucket(quantiles=4), [5.0, 5.0], (5.0,)),
        (dense(scale="standard"), [5.0, 5.0, 5.0], (5.0, 1.0)),
        (dense(scale="minmax"), [5.0, 5.0], (5.0, 10.0)),
        (dense(scale="standard", clip=(0.0, 2.0)), [3.0, 4.0, 5.0], (2.0, 1.0)),
        (dense(scale="standard", log=True), [0.0, 0.0], (0.0, 1.0)),
    ],
)
def test_a_column_that_tells_nothing_is_a_warning(feature: Any, values: list[float], expected: tuple) -> None:
    found, warning = find("x", feature, of(*values))
    print(warning)
    assert found == expected and warning.startswith("features.x: ") and "tells nothing; remove it" in warning
    type(feature).model_validate(feature.model_dump() | {"fitted": found})


def test_scales_are_of_what_is_clipped() -> None:
    assert find("x", dense(scale="minmax", clip=(0.0, 10.0)), of(-99.0, 5.0, 99.0)) == ((0.0, 10.0), None)
    (mean, std), _ = find("x", dense(scale="standard", clip=(0.0, 10.0), log=True), of(-99.0, 5.0, 99.0))
    logs = np.log1p([0.0, 5.0, 10.0])
    np.testing.assert_allclose((mean, std), (logs.mean(), logs.std()), rtol=1e-12)


def test_what_float64_can_not_square_is_refused() -> None:
    with pytest.raises(DataError, match="features.x: .*set `clip`"):
        find("x", dense(scale="standard"), of(1e300, -1e300))


def test_a_damaged_row_group_is_named(folder: Path, tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 300, group_rows=50)
    config = samples.config(tmp_path, *ASKING)
    dataset = Dataset.open(str(tmp_path / "train"), config, shuffle=True)
    path = sorted((tmp_path / "train").glob("*.parquet"))[0]
    group = pq.ParquetFile(path).metadata.row_group(1)
    chunk = next(c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == "price")
    data = bytearray(path.read_bytes())
    data[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="row group 1"):
        sketch(dataset, ["age", "price"], 0, 1)


def test_integers_decimals_and_booleans_are_numbers(tmp_path: Path) -> None:
    rows = samples.logs(60)
    rows = rows.set_column(rows.column_names.index("age"), "age", pa.array(range(60)).cast(pa.decimal128(30, 2)))
    rows = rows.set_column(rows.column_names.index("importance"), "importance", pa.array([True, False] * 30))
    write_dataset(tmp_path / "train", [rows])
    config = samples.config(tmp_path, *ASKING)
    found = found_in(tmp_path, config, 1)
    assert found["age"] == (10, 20, 30, 40, 50) and found["importance"] == (0, 1)


@pytest.mark.parametrize("log", [False, True])
def test_one_extreme_that_sets_the_scale_is_named(log: bool) -> None:
    """The others are left within 4e-28 of each other, or as they were where `log` is set."""
    draw, one = np.random.default_rng(0), Sketch()
    one.add(np.append(draw.lognormal(2, 1, 3_999), 1e30))
    _, told = find("price", DenseFeature(kind="dense", scale="standard", log=log), one)
    wanted = "features.price: numbers from 0."
    assert told.startswith(wanted) and "of the variance by one row alone" in told if not log else told is not None
    ordinary = Sketch()
    ordinary.add(draw.lognormal(2, 1, 4_000))
    assert find("price", DenseFeature(kind="dense", scale="standard", log=log), ordinary)[1] is None
