"""Hive partitions: what a path says is a column of its rows, and a range of it is a dataset of its own."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files import manifest
from dist_mtl.data.files.reader import blocks_of
from dist_mtl.data.hashing import hash_ids, hash_strings, key
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Span
from dist_mtl.errors import ConfigError, DataError
from tests.support import samples

DAYS = [f"2024-01-{day:02d}" for day in (1, 2, 3, 9, 10)]
ROWS = 40  # of a file; day d has two files, of hours 2 and 10


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """day=2024-01-01/hour=2/x.parquet and so on; `row` counts through them in the order of day and hour."""
    folder = tmp_path_factory.mktemp("hive") / "logs"
    table = samples.logs(ROWS * 2 * len(DAYS))
    for i, day in enumerate(DAYS):
        for j, hour in enumerate((2, 10)):
            path = folder / f"day={day}" / f"hour={hour}" / "x.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(table.slice((2 * i + j) * ROWS, ROWS), path, row_group_size=16)
    manifest.write(folder, manifest.build(folder))
    return folder


def config(logs: Path, *overrides: str) -> Config:
    """A run on the logs, in their order."""
    options = (f"data.train='{logs}'", f"run.dir='{logs.parent / 'run'}'", "data.shuffle=false", "train.global_batch=8")
    return samples.config(logs.parent, *options, *overrides)


def rows(place: str, one: Config) -> np.ndarray:
    """The numbers of all rows, in the order of the files."""
    dataset = Dataset.open_to_score(place, one, ("row",), labelled=True)
    return np.concatenate([batch.carried.table["row"].to_numpy() for batch in dataset.batches(0, 1)])


def test_files_stand_in_the_order_of_their_partitions(logs: Path) -> None:
    """Numbers by their value: hour 2 comes before hour 10, although "hour=10" < "hour=2"."""
    listed = manifest.read(logs)
    assert listed.partitions == {"day": "string", "hour": "int64"}
    assert [f.path for f in listed.files] == [f"day={d}/hour={h}/x.parquet" for d in DAYS for h in (2, 10)]
    assert np.array_equal(rows(str(logs), config(logs)), np.arange(400))


@pytest.mark.parametrize(
    ("text", "days", "hours"),
    [
        ("{day=['2024-01-02', '2024-01-09']}", [1, 2, 3], [0, 1]),
        ("{day=[2024-01-02, 2024-01-09]}", [1, 2, 3], [0, 1]),  # TOML's own dates
        ("{day=['2024-01-04', '2024-12-31']}", [3, 4], [0, 1]),  # bounds need not be there
        ("{hour=[3, 11]}", [0, 1, 2, 3, 4], [1]),  # as numbers
        ("{hour=['3', '11']}", [0, 1, 2, 3, 4], [1]),
        ("{day=['2024-01-03', '2024-01-09'], hour=[2, 2]}", [2, 3], [0]),
    ],
)
def test_a_range_takes_its_files(logs: Path, text: str, days: list[int], hours: list[int]) -> None:
    one = config(logs, f"data.partitions={text}")
    expected = [np.arange(ROWS) + (2 * d + h) * ROWS for d in days for h in hours]
    assert np.array_equal(rows(one.data.train, one), np.concatenate(expected))
    assert manifest.read(one.data.train).num_rows == ROWS * len(expected)
    trained = [batch.dense_BD[:, 0] * 4096 for batch in Dataset.open(one.data.train, one, True).batches(0, 1)]
    assert np.array_equal(np.sort(np.concatenate(trained)), np.concatenate(expected))
    assert parse(one.model_dump(mode="json")) == one  # as a commit keeps it


def test_the_digest_is_that_of_the_files_in_range(logs: Path, tmp_path: Path) -> None:
    """So a run does not care whether later days came to the folder, and does care for its own."""
    first = manifest.read(f"{logs}?day=2024-01-01..2024-01-02")
    assert first.digest not in (manifest.read(logs).digest, manifest.read(f"{logs}?day=2024-01-01..2024-01-03").digest)
    for day in DAYS[:2]:
        for hour in (2, 10):
            path = tmp_path / f"day={day}" / f"hour={hour}"
            path.mkdir(parents=True)
            (path / "x.parquet").write_bytes((logs / f"day={day}" / f"hour={hour}" / "x.parquet").read_bytes())
    assert manifest.build(tmp_path).digest == first.digest


def test_keys_are_columns(logs: Path) -> None:
    """As features, labels apart; carried along; in every row of every file, also where the file alone is read."""
    tree = samples.tree(logs.parent)
    tree["data"]["train"] = str(logs)
    tree["tables"] |= {"day": {"rows": 1000}}
    tree["features"] |= {
        "day": {"kind": "id"},
        "hour": {"kind": "dense"},
        "part": {"kind": "bucket", "column": "hour", "boundaries": [6]},
    }
    one = parse(tree, ("data.shuffle=false", "train.global_batch=8"))
    dataset = Dataset.open_to_score(str(logs), one, ("day", "hour", "row"), labelled=True)
    assert dataset.schema.field("day").type == pa.string() and dataset.schema.field("hour").type == pa.int64()
    place = dataset.encoder.dense.index("hour")
    for batch in dataset.batches(0, 1):
        carried = batch.carried.table.to_pydict()
        assert carried["day"] == [DAYS[row // 80] for row in carried["row"]]
        assert carried["hour"] == [(2, 10)[row // 40 % 2] for row in carried["row"]]
        assert batch.dense_BD[:, place].tolist() == carried["hour"]
        hashed = hash_ids(np.array([hash_of(day) for day in carried["day"]]), 1000, key("table", "day"))
        assert batch.ids["day"].values().tolist() == hashed.tolist()
        assert batch.ids["part"].values().tolist() == [int(hour >= 6) for hour in carried["hour"]]
    reader = dataset.reader(("hour",))
    assert reader.read(dataset.order.segment(0, 0, 0, 1).spans)["hour"].null_count == 0 and not reader._open


def hash_of(text: str) -> int:
    data = np.frombuffer(text.encode(), np.uint8)
    return int(hash_strings(data, np.array([0, len(data)]))[0])


def write(folder: Path, paths: list[str], table: pa.Table | None = None) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(samples.logs(10) if table is None else table, folder / path)


def test_a_type_is_that_of_all_files_whichever_are_chosen(tmp_path: Path) -> None:
    """Else an id would be hashed as a number in one range, and as text in another."""
    write(tmp_path, [f"shop={shop}/x.parquet" for shop in ("1", "2", "x")])
    manifest.write(tmp_path, manifest.build(tmp_path))
    assert manifest.read(f"{tmp_path}?shop=1..2").partitions == {"shop": "string"}


def test_null_is_in_no_range_and_a_null_in_its_rows(tmp_path: Path) -> None:
    write(tmp_path, ["day=3/x.parquet", "day=__HIVE_DEFAULT_PARTITION__/x.parquet"])
    listed = manifest.build(tmp_path)
    manifest.write(tmp_path, listed)
    assert listed.partitions == {"day": "int64"} and [f.partition["day"] for f in listed.files] == [None, "3"]
    assert len(manifest.read(f"{tmp_path}?day=0..9").files) == 1
    spans = [Span(i, 0, 10) for i in range(2)]
    assert samples.reader(tmp_path, "day", "row").read(spans)["day"].to_pylist() == [None] * 10 + [3] * 10


def test_names_are_unquoted(tmp_path: Path) -> None:
    write(tmp_path, ["what%20is=a%2Fb/x.parquet"])
    assert manifest.build(tmp_path).files[0].partition == {"what is": "a/b"}


def test_a_column_of_the_file_stays_its_own(tmp_path: Path) -> None:
    """A path can still be chosen by; the rows keep what their file says."""
    write(tmp_path, ["row=77/x.parquet"])
    manifest.write(tmp_path, manifest.build(tmp_path))
    listed = manifest.read(f"{tmp_path}?row=77..77")
    assert listed.columns == listed.schema and blocks_of(listed)[0].constants == {}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["day=1/x.parquet", "x.parquet"], "the partition `day` is in the paths of some files and not of others"),
        (["day=1/x.parquet", "hour=1/x.parquet"], "the partition `day` is in the paths of some files"),
        (["day=1/day=2/x.parquet"], "names a partition twice"),
    ],
)
def test_paths_that_do_not_agree(tmp_path: Path, paths: list[str], words: str) -> None:
    write(tmp_path, paths)
    with pytest.raises(DataError, match=words):
        manifest.build(tmp_path)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ("day=2024-01-04..2024-01-08", "with `day` from 2024-01-04 to 2024-01-08; there are 5 values: 2024-01-01 to"),
        ("hour=3..9", "no file with `hour` from 3 to 9; there are 2 values: 2, 10"),
        ("dya=1..2", "no partition `dya`; did you mean `day`?"),
        ("day=2024-01..2024-02", "`day` = 2024-01: its values are dates, write YYYY-MM-DD; there are 5 values"),
        ("day=2024-1-1..2024-1-5", "`day` = 2024-1-1: its values are dates, write YYYY-MM-DD"),
        ("hour=10..two", "`hour` = two: its values are whole numbers"),
    ],
)  # fmt: skip
def test_a_range_that_takes_nothing_names_what_is_there(logs: Path, ranges: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        manifest.read(f"{logs}?{ranges}")
    print(caught.value)
    assert words in str(caught.value)


def test_no_partitions_to_choose_from(tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 20)
    with pytest.raises(DataError, match="have no partition `day`; no path has a KEY=VALUE in it"):
        manifest.read(f"{tmp_path / 'train'}?day=1..2")


def test_a_manifest_is_of_a_whole_folder(logs: Path) -> None:
    with pytest.raises(DataError, match="a manifest lists a whole folder"):
        manifest.build(f"{logs}?hour=2..2")


def test_ceilings_go_with_their_rows(logs: Path, tmp_path: Path) -> None:
    write(tmp_path, ["day=1/x.parquet", "day=2/x.parquet"])
    manifest.write(tmp_path, manifest.build(tmp_path, {"ctr": 0.9}))
    assert manifest.read(f"{tmp_path}?day=1..2").ceiling == {"ctr": 0.9}
    assert manifest.read(f"{tmp_path}?day=1..1").ceiling == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.partitions={day=['b', 'a']}",), "day from b to a is no range"),
        (("data.partitions={day=['a']}",), "data.partitions.day.1 is missing"),
        (("data.partitions={day='a'}",), "data.partitions.day: Input should be a valid array"),
        (("data.partitions={day=['a', '']}",), "day needs a name, a first and a last value"),
        (("data.test_partitions={day=['a', 'b']}",), "test_partitions: there is no data.test to take partitions of"),
        (("data.train='x?day=a..b'", "data.partitions={day=['a', 'c']}"), "has another range of `day` already"),
        (("data.train='x?day=1..7'", "data.test='x?day=7..8'"), "`x?day=7..8` is data.train or a part of it"),
        (("data.train='x'", "data.validation='x?day=7..8'"), "is data.train or a part of it"),
        (("data.sample={train_rows=9, test_rows=9}", "data.partitions={day=[1, 2]}"), "are made in a local folder"),
        (("data.sample={train_rows=9, test_rows=9}", "data.train='s3://b/x'"), "are made in a local folder"),
        (("data.quarantine=2",), "data.verify = 'full' refuses a damaged file before step 1"),
        (("data.quarantine=2", "data.stream={by='day'}"), "a stream tests each partition before it trains it"),
        (("data.quarantine=-1",), "data.quarantine: Input should be greater than or equal to 0"),
    ],
)
def test_configurations_that_can_not_be(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samples.config("/d", *overrides)
    print(caught.value)
    assert words in str(caught.value)


def test_train_and_test_may_be_days_of_one_folder() -> None:
    one = samples.config(
        "/d",
        "data.train='x'",
        "data.test='x'",
        "data.partitions={day=[2024-01-01, 2024-01-07]}",
        "data.test_partitions={day=[2024-01-08, 2024-01-08]}",
    )
    assert (one.data.train, one.data.test) == ("x?day=2024-01-01..2024-01-07", "x?day=2024-01-08..2024-01-08")
