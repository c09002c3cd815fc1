"""A dataset is published complete, by one rename, with a checksum on every page; what is read is what was written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.data.files import manifest
from dist_mtl.data.files.disk import alone
from dist_mtl.data.files.reader import OPEN_FILES, blocks_of
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError
from dist_mtl.scoring.predict import _staging
from tests.support import samples


def numbered(count: int, first: int = 0) -> pa.Table:
    return pa.table({"row": np.arange(first, first + count)})


def read_back(folder: Path) -> list[int]:
    """Every row in the manifest's order."""
    blocks = blocks_of(manifest.read(folder))
    return samples.reader(folder, "row").read([Span(i, 0, b.rows) for i, b in enumerate(blocks)])["row"].to_pylist()


@pytest.mark.parametrize("sizes", [[1], [10], [7, 0, 3], [1] * 25, [100], [33, 33, 34], [3, 97]])
def test_rows_in_order_whatever_the_tables_sizes(tmp_path: Path, sizes: list[int]) -> None:
    tables, total = [], 0
    for size in sizes:
        tables.append(numbered(size, total))
        total += size
    listed = write_dataset(tmp_path / "d", tables, file_rows=30, row_group_rows=10)
    assert read_back(tmp_path / "d") == list(range(total))
    assert [sum(f.row_groups) for f in listed.files] == [30] * (total // 30) + ([total % 30] if total % 30 else [])
    assert all(rows == 10 for f in listed.files for rows in f.row_groups[:-1])
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755


def test_every_page_has_a_checksum(tmp_path: Path) -> None:
    """200 single-bit flips over the pages: a read either raises or gives the same rows, never others."""
    samples.write_logs(tmp_path / "d", 300, files=1)
    path = tmp_path / "d" / "part-00000.parquet"
    good, listed = path.read_bytes(), manifest.read(tmp_path / "d")
    expected = samples.logs(300)
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    raised = 0
    for place in np.linspace(4, footer - 1, 200).astype(int):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        reader = samples.reader(tmp_path / "d", listed=listed)
        try:
            assert reader.read([Span(i, 0, 100) for i in range(3)]).equals(expected), f"silent damage at byte {place}"
        except DataError as error:
            raised += 1
            assert "part-00000.parquet, row group" in str(error)
    print(f"200 flips: {raised} refused, {200 - raised} without effect")
    assert raised > 150


def test_a_dataset_is_never_overwritten(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", [numbered(5)])
    with pytest.raises(DataError, match="exists already"):
        write_dataset(tmp_path / "d", [numbered(6)])
    assert read_back(tmp_path / "d") == [0, 1, 2, 3, 4]


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def source():  # noqa: ANN202
        yield numbered(100)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_dataset(tmp_path / "d", source(), file_rows=30, row_group_rows=10)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to write"):
        write_dataset(tmp_path / "d", [])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_publishes_nothing(tmp_path: Path) -> None:
    code = (
        "import itertools, sys, pyarrow as pa; from dist_mtl.data.files.writer import write_dataset\n"
        "write_dataset(sys.argv[1], (pa.table({'row': range(1000)}) for _ in itertools.count()), file_rows=5000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")])
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob(".staged-*/part-*"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert not (tmp_path / "d").exists()
    write_dataset(tmp_path / "d", [numbered(3)])  # what is left beside it is in nobody's way
    assert read_back(tmp_path / "d") == [0, 1, 2]


def test_a_reader_holds_few_files_and_locates_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", [numbered(200)], file_rows=5, row_group_rows=2)
    blocks = blocks_of(manifest.read(tmp_path / "d"))
    reader = samples.reader(tmp_path / "d", "row")
    spans = [Span(i, 0, b.rows) for i, b in reversed(list(enumerate(blocks)))]
    rows = reader.read(spans)["row"].to_pylist()
    assert sorted(rows) == list(range(200)) and len(reader._open) <= OPEN_FILES
    for place in (0, 7, 100, 199):
        assert (
            reader.locate(spans, place)
            == f"{tmp_path / 'd'}/part-{rows[place] // 5:05d}.parquet, row {rows[place] % 5}"
        )


def test_a_file_that_was_exchanged_since_the_manifest_was_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", [numbered(10)])
    reader = samples.reader(tmp_path / "d", "row")
    pq.write_table(numbered(9), tmp_path / "d" / "part-00000.parquet")
    with pytest.raises(DataError, match="part-00000.parquet: changed since the manifest was written"):
        reader.read([Span(0, 0, 10)])


def test_two_predictions_into_one_folder(tmp_path: Path) -> None:
    """The second ends; the first keeps its files. What a killed one left goes, and so does what a failed one made."""
    staged, out = tmp_path / ".staged-out", tmp_path / "out"
    staged.mkdir()
    (staged / "of a killed one").write_text("")
    with _staging(staged, out):
        assert not list(staged.iterdir())
        (staged / "mine").write_text("")
        with pytest.raises(DataError, match="another process writes there; wait, or choose another"):
            with _staging(staged, out):
                pass
        assert [path.name for path in staged.iterdir()] == ["mine"]
        staged.rename(out)
    with pytest.raises(DataError, match="predictions are never overwritten"):
        with _staging(staged, out):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    with pytest.raises(KeyError):
        with _staging(staged, tmp_path / "other"):
            raise KeyError
    assert not staged.exists()


def test_a_folder_published_while_another_waited_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is the folder's, whatever its name is by then."""
    locked = os.open

    def opened_late(path: Path, flags: int) -> int:
        descriptor = locked(path, flags)
        path.rename(tmp_path / "out")
        return descriptor

    monkeypatch.setattr(os, "open", opened_late)
    with pytest.raises(DataError, match="another process has just ended there"), alone(tmp_path / ".staged"):
        pass
