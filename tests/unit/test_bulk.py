"""Sample logs by many processes: the same bytes for any number of them, whatever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import SampleLogs
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.bulk import Order, encoding_of, make_logs, make_splits
from dist_mtl.data.synthetic.logs import generate, write_logs
from dist_mtl.data.synthetic.request import OPTIONS, spec_of
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
WIDE = BenchmarkLogs(ids=3, rows_per_table=500, dense=2, histories=1, history_length=3, rows_per_day=40_000)
SHOP = SampleLogs(train_rows=1, test_rows=1)


def order(spec: SampleLogs | BenchmarkLogs, rows: int = 100_000, **more: object) -> Order:
    return Order(spec, "train", rows, encoding=encoding_of(spec, "lz4"), file_rows=30_000, **more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> manifest.Manifest:
    return make_logs(order(WIDE), tmp_path_factory.mktemp("alone") / "logs")


def rows_of(folder: Path, listed: manifest.Manifest) -> pa.Table:
    return pa.concat_tables(pq.ParquetFile(folder / file.path).read() for file in listed.files)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_bytes_do_not_depend_on_the_ranks(alone: manifest.Manifest, ranks: int, tmp_path: Path) -> None:
    told: list[int] = []
    made = make_logs(order(WIDE), tmp_path / "logs", ranks, told.append)
    assert made == alone and sum(told) == 100_000 and [sum(f.row_groups) for f in made.files] == [30_000] * 3 + [10_000]
    assert manifest.read(tmp_path / "logs") == alone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"]
    assert rows_of(tmp_path / "logs", made).equals(pa.concat_tables(generate(WIDE, 100_000, "train")))


def test_they_are_what_one_process_writes(tmp_path: Path) -> None:
    bulk = make_logs(order(SHOP, 70_000), tmp_path / "bulk")
    plain = write_logs(SHOP, tmp_path / "plain", 70_000, "train")
    assert bulk.ceiling == plain.ceiling and bulk.schema == plain.schema
    assert rows_of(tmp_path / "bulk", bulk).equals(rows_of(tmp_path / "plain", plain))


def test_a_folder_a_day(tmp_path: Path) -> None:
    made = make_logs(order(WIDE, first_row=20_000, by_day=True), tmp_path / "logs")
    found = {}
    for file in made.files:
        day, _ = file.path.split("/")
        found[day] = found.get(day, 0) + sum(file.row_groups)
    assert found == {"day=2025-01-01": 20_000, "day=2025-01-02": 40_000, "day=2025-01-03": 40_000}
    expected = pa.concat_tables(generate(WIDE, 100_000, "train", first_row=20_000)).drop_columns(["day"])
    assert rows_of(tmp_path / "logs", made).equals(expected)
    with pytest.raises(ConfigError, match="add --rows-per-day"):
        order(SHOP, by_day=True)


def test_a_killed_run_goes_on(alone: manifest.Manifest, tmp_path: Path) -> None:
    """Its complete files are not made again, and what was being written is."""
    staged = tmp_path / ".making-logs"

    class Killed(BaseException):
        pass

    def after_two(rows: int) -> None:
        if len(list(staged.glob("*.parquet"))) == 2:
            raise Killed

    with pytest.raises(Killed):
        make_logs(order(WIDE), tmp_path / "logs", on_rows=after_two)
    assert not (tmp_path / "logs").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in staged.glob("*.parquet")}
    (staged / ".part-00002.parquet").mkdir()
    (staged / ".part-00002.parquet/part-00000.parquet").write_bytes(b"half a file")
    with pytest.raises(DataError, match="unfinished files of other options"):
        make_logs(order(WIDE, 90_000), tmp_path / "logs")
    assert make_logs(order(WIDE), tmp_path / "logs", ranks=2) == alone
    again = {name: (tmp_path / "logs" / name).stat().st_mtime_ns for name in kept}
    assert len(kept) == 2 and again == kept


def test_a_killed_process_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL of one worker, then of the whole run, of the real script; the third run finishes."""
    command = [
        sys.executable,
        "-m",
        "dist_mtl",
        "synthesize",
        str(tmp_path / "out"),
        "--kind",
        "benchmark",
        "--ranks",
        "2",
    ]
    command += ["--ids", "2", "--dense", "0", "--rows-per-table", "100", "--rows", "2.2e6", "--test-rows", "3e3"]
    run = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    staged = tmp_path / "out/.making-train"
    deadline = time.monotonic() + 60
    while not list(staged.glob(".part-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = [int(pid) for pid in children.read_text().split()]
    victims = [pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(victims[0], signal.SIGKILL)
    _, said = run.communicate(timeout=60)
    print(said.strip().splitlines()[-1])
    assert run.returncode == 70 and "run the same command again" in said and not (tmp_path / "out/train").exists()
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert manifest.read(tmp_path / "out/train").num_rows == 2_200_000
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["test", "train"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def second(rows: int) -> None:
        with pytest.raises(DataError, match="another process writes there"):
            make_logs(order(WIDE), tmp_path / "logs")

    make_logs(order(WIDE), tmp_path / "logs", on_rows=second)
    with pytest.raises(DataError, match="never overwritten"):
        make_logs(order(WIDE), tmp_path / "logs")


def test_what_could_not_be_published_is_still_known_for_what_it_is(tmp_path: Path) -> None:
    """The name is taken while the files are made: they wait, and no run of other options takes them for its own."""
    foreign = tmp_path / "logs/notes.txt"

    def taken(rows: int) -> None:
        foreign.parent.mkdir(exist_ok=True)
        foreign.write_text("mine")

    with pytest.raises(DataError, match="not empty; make room, then run the same command again"):
        make_logs(order(WIDE, 30_000), tmp_path / "logs", on_rows=taken)
    foreign.unlink()
    foreign.parent.rmdir()
    with pytest.raises(DataError, match="unfinished files of other options"):
        make_logs(order(WIDE.model_copy(update={"seed": 8}), 30_000), tmp_path / "logs")
    assert make_logs(order(WIDE, 30_000), tmp_path / "logs").num_rows == 30_000


def test_a_run_that_was_killed_between_its_splits_goes_on(tmp_path: Path) -> None:
    orders = {"train": order(WIDE, 30_000), "test": Order(WIDE, "test", 20_000, first_row=30_000)}
    train = make_logs(orders["train"], tmp_path / "train")
    stamp = (tmp_path / "train" / manifest.NAME).stat().st_mtime_ns
    with pytest.raises(DataError, match="train: exists already"):
        make_splits(orders | {"train": order(WIDE, 29_999)}, tmp_path, 1, lambda split, rows: None)
    told: list[tuple[str, int]] = []
    made = make_splits(orders, tmp_path, 1, lambda *progress: told.append(progress))
    assert made["train"] == train and (tmp_path / "train" / manifest.NAME).stat().st_mtime_ns == stamp
    assert made["test"].num_rows == 20_000 and told == [("train", 30_000), ("test", 20_000)]
    with pytest.raises(DataError, match="train: exists already"):
        make_splits(orders, tmp_path, 1, lambda split, rows: None)


def test_the_length_of_no_history_is_refused() -> None:
    given = {option.field: None for option in OPTIONS} | {"history_length": 10.0}
    with pytest.raises(ConfigError, match="there is no history to be as long; set histories"):
        spec_of("benchmark", given, {})
    assert spec_of("benchmark", given | {"histories": 2.0}, {}).history_length == 10


def test_an_unwritable_folder_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        make_logs(order(WIDE), tmp_path / "file/logs")


def test_the_codec_changes_the_bytes_and_not_the_rows(tmp_path: Path) -> None:
    sizes = {}
    for codec in ("zstd", "snappy", "lz4", "none"):
        asked = Order(WIDE, "train", 20_000, encoding=encoding_of(WIDE, codec))
        made = make_logs(asked, tmp_path / codec)
        sizes[codec] = made.files[0].bytes
        kind = pq.read_metadata(tmp_path / codec / made.files[0].path).row_group(0).column(0).compression
        assert kind == {"zstd": "ZSTD", "snappy": "SNAPPY", "lz4": "LZ4", "none": "UNCOMPRESSED"}[codec]
        assert rows_of(tmp_path / codec, made).equals(pa.concat_tables(generate(WIDE, 20_000, "train")))
    print(sizes)
    assert sizes["zstd"] < sizes["lz4"] < sizes["none"]
