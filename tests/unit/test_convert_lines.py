"""Raw files come as the same lines however they are cut or compressed; a conversion publishes all or nothing."""

import bz2
import gzip
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.data.files import manifest
from dist_mtl.errors import ConfigError, DataError, InternalError
from dist_mtl.tools.convert import lines, tabular
from dist_mtl.tools.convert.delimited import Layout, table_of
from dist_mtl.tools.convert.join import Flat, Lookup
from dist_mtl.tools.convert.parts import STAGED, Conversion
from dist_mtl.tools.convert.split import Shares
from dist_mtl.tools.convert.tally import Tally
from tests.support import raw_logs
from tests.support.samples import rows_of

ROOT = Path(__file__).parents[2]


def read(path: Path, header: bool = False) -> list[tuple[str, bytes]]:
    """(place, text) of every line of a file."""
    found = []
    for segment in lines.segments([path], header=header):
        for block in lines.blocks(segment):
            texts = block.data.split(b"\n")[:-1]
            found += [(str(block.place(i)), text) for i, text in enumerate(texts)]
    return found


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.binary(min_size=1, max_size=30).filter(lambda t: not set(t) & {10, 13}), max_size=40),
    segment=st.integers(1, 200),
    block=st.integers(1, 60),
    ended=st.booleans(),
    header=st.booleans(),
)
def test_every_line_once_with_its_number_whatever_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], segment: int, block: int, ended: bool, header: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    path.write_bytes(b"\n".join(texts) + b"\n" * (ended and bool(texts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "SEGMENT_BYTES", segment)
        patch.setattr(lines, "BLOCK_BYTES", block)
        found = read(path, header)
    first = 1 if header else 0
    assert [text for _, text in found] == texts[first:]
    assert [place for place, _ in found] == [f"{path}, line {i + 1}" for i in range(first, len(texts))]


def test_compressed_files_hold_the_same_lines(tmp_path: Path) -> None:
    text = b"".join(b"%d,%d\n" % (i, i * i) for i in range(3_000))
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(text))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/a.csv", text)
    plain = [line for _, line in read(tmp_path / "a.csv")]
    assert len(plain) == 3_000
    for name in ("a.csv.gz", "a.csv.bz2", "a.zip"):
        counted = []
        [segment] = lines.segments([tmp_path / name])
        data = b"".join(block.data for block in lines.blocks(segment, counted.append))
        size = (tmp_path / name).stat().st_size
        assert data == text and size - 200 <= sum(counted) <= size, name  # the end of a zip is its list of members


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    text = os.urandom(40_000).hex().encode() + b"\n"
    whole = {"a.csv.gz": gzip.compress(text), "a.csv.bz2": bz2.compress(text)}
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "1\n")
        archive.writestr("b", "1\n")
    for name, data in whole.items():
        for damaged in (data[: len(data) // 2], data[:1000] + bytes([data[1000] ^ 4]) + data[1001:]):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(DataError, match=rf"{name}: "):
                read(tmp_path / name)
    (tmp_path / "b.zip").write_bytes(b"no archive")
    for name, says in (("b.zip", "damaged"), ("two.zip", "holds 2 files"), ("none.csv", "no such file")):
        with pytest.raises(DataError, match=rf"{name}: .*{says}"):
            read(tmp_path / name)


def test_a_cut_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,2\n3,4\n5")
    [segment] = lines.segments([tmp_path / "a.csv"])
    [_, block] = lines.blocks(segment)
    with pytest.raises(DataError, match="line 3: Expected 2 columns, got 1.*ends in the middle of a line"):
        table_of(block, Layout({"a": pa.int32(), "b": pa.int32()}))


def test_what_has_no_lines_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cuts are sought, too, which is before a block is read."""
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(lines, "LONGEST_LINE", 3_000)
    (tmp_path / "a.csv").write_bytes(b"a line\n" * 200 + bytes(50_000))
    with pytest.raises(DataError, match="no line end in 3,000 bytes"):
        lines.segments([tmp_path / "a.csv"])
    (tmp_path / "b.csv").write_bytes(b"a line\n" * 200 + bytes(2_000) + b"\n")
    assert len(read(tmp_path / "b.csv")) == 201


# ---------------------------------------------------------------------------------------------------------- the engine
class Numbers:
    """A `Work`: lines of one number; odd ones go to `odd`."""

    def __init__(self, fail: int | None = None, die: bool = False) -> None:
        self.fail, self.die = fail, die

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: lines.Block, tally: Tally) -> dict[str, pa.Table]:
        if self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        table = table_of(block, Layout({"n": pa.int64()}))
        numbers = table["n"].to_numpy()
        tally.read += len(numbers)
        tally.note("divide by 1,000", numbers % 1000 == 0, block)
        if self.fail is not None and (numbers == self.fail).any():
            raise DataError(f"{block.place(int(np.argmax(numbers == self.fail)))}: the number that fails")
        return {"odd": table.filter(pa.array(numbers % 2 == 1)), "even": table.filter(pa.array(numbers % 2 == 0))}


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 20_000)  # the cuts are made here, so other processes need not know
    path = tmp_path / "numbers.csv"
    path.write_text("".join(f"{i}\n" for i in range(20_000)))
    return path


def convert(numbers: Path, out: Path, jobs: int, fail: int | None = None) -> tuple[dict, Conversion, list]:
    seen = []
    with Conversion(out, ("odd", "even"), jobs, lambda *progress: seen.append(progress)) as conversion:
        conversion.run(Numbers(fail), lines.segments([numbers]))
        return conversion.publish(), conversion, seen


def test_the_datasets_do_not_depend_on_the_number_of_processes(numbers: Path, tmp_path: Path) -> None:
    made = {}
    for jobs in (1, 2):
        made[jobs], conversion, seen = convert(numbers, tmp_path / f"{jobs}", jobs)
        assert rows_of(tmp_path / f"{jobs}/odd")["n"].to_pylist() == list(range(1, 20_000, 2))
        assert conversion.tally.read == 20_000 and conversion.tally.written == {"odd": 10_000, "even": 10_000}
        assert conversion.tally.told()[1] == f"20 divide by 1,000 (first: {numbers}, line 1)"
        assert seen[-1] == (numbers.stat().st_size, 20_000)
        assert sorted(p.name for p in (tmp_path / f"{jobs}").iterdir()) == ["even", "odd"]  # no scratch is left
    assert [m.digest for m in made[1].values()] == [m.digest for m in made[2].values()]
    assert len(made[1]["odd"].files) == len(lines.segments([numbers])) == 6
    assert manifest.read(tmp_path / "2/odd").digest == made[2]["odd"].digest


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_in_any_process_leaves_nothing_and_names_the_line(numbers: Path, tmp_path: Path, jobs: int) -> None:
    with pytest.raises(DataError, match=r"numbers.csv, line 15,001: the number that fails"):
        convert(numbers, tmp_path / "out", jobs, fail=15_000)
    assert not (tmp_path / "out").exists()


def test_a_process_that_is_killed_is_told_with_what_to_do(numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="killed, perhaps for want of memory.*fewer --jobs than 2"):
        with Conversion(tmp_path / "out", ("odd", "even"), jobs=2) as conversion:
            conversion.run(Numbers(die=True), lines.segments([numbers]))
    assert not (tmp_path / "out").exists()


def test_all_datasets_or_none(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "out/even").mkdir(parents=True)
    with pytest.raises(DataError, match="out/even: exists already"):
        convert(numbers, tmp_path / "out", 1)
    numbers.write_text("1\n3\n")
    with pytest.raises(DataError, match=r"new/even: the source has no rows for it\n2 rows read: 2 odd"):
        convert(numbers, tmp_path / "new", 1)
    assert not (tmp_path / "new").exists() and list((tmp_path / "out").iterdir()) == [tmp_path / "out/even"]


def test_a_killed_conversion_publishes_nothing(tmp_path: Path) -> None:
    """SIGKILL while files are written: OUT holds no dataset, and the next conversion begins with a clean slate."""
    raw_logs.write_csv(tmp_path / "a.csv", 400_000)
    command = [sys.executable, "-m", "dist_mtl", "convert", "csv", tmp_path / "a.csv", tmp_path / "out", "--jobs=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--click=click", "--conversion=conversion"], cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob(f"{STAGED}/train/*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait(30)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [STAGED]
    (tmp_path / "b.csv").write_text("x,click,conversion\n1,0,0\n")
    tabular.convert(tabular.Csv((str(tmp_path / "b.csv"),), "click", "conversion"), tabular.Split(), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_two_conversions_do_not_share_a_folder(tmp_path: Path) -> None:
    with Conversion(tmp_path / "out", ("a",)):
        with pytest.raises(DataError, match="another process writes there"):
            Conversion(tmp_path / "out", ("b",)).__enter__()
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------- split and join
def test_shares_hold_and_no_share_moves_what_another_side_has() -> None:
    hashes = np.arange(200_000, dtype=np.uint64)
    both, test_only = Shares(0.2, 0.1).sides(hashes), Shares(0.2).sides(hashes)
    shares = {name: float(mask.mean()) for name, mask in both.items()}
    print(shares)
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.004)
    assert (both["test"] == test_only["test"]).all()
    assert sum(mask.astype(int) for mask in both.values()).min() == 1
    for bad in ((0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)):
        with pytest.raises(ConfigError, match="share"):
            Shares(*bad)


def test_a_lookup_finds_the_first_of_equal_keys_and_no_other(tmp_path: Path) -> None:
    keys = np.array([7, 2**64 - 1, 7, 0, 3], np.uint64)
    lookup, again = Lookup.build(tmp_path, keys)
    assert again.tolist() == [2]
    assert lookup.find(np.array([3, 7, 8, 0, 2**64 - 1, 7], np.uint64)).tolist() == [4, 0, -1, 3, 1, 0]
    (tmp_path / "empty").mkdir()
    empty, _ = Lookup.build(tmp_path / "empty", keys[:0])
    assert empty.find(keys).tolist() == [-1] * 5
    flat = Flat(tmp_path / "flat", "<i4", 3)
    flat.append(np.arange(6).reshape(2, 3))
    flat.append(np.arange(3).reshape(1, 3))
    assert flat.mapped().tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
