"""R8: a dataset can neither name what lies outside its folder, nor run code, nor take all memory, nor hang a reader."""

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.data.files import manifest, reader
from dist_mtl.data.files.reader import Reader
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Span
from dist_mtl.errors import DamageError, DataError
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
PART = "part-00000.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two files."""
    samples.write_logs(tmp_path / "train", 300)
    return tmp_path / "train"


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the tree of a manifest."""
    path = folder / manifest.NAME
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def refused(folder: Path) -> str:
    """The message of the DataError, of reading the manifest or of verifying what it lists, as training does."""
    with pytest.raises(DataError) as caught:
        listed = manifest.read(folder)
        manifest.check_files(folder, listed, listed.files, full=True)
    assert caught.value.exit_code == 65
    return str(caught.value)


def first_path(folder: Path, name: str) -> None:
    change(folder, lambda tree: tree["files"][0].update(path=name))


# -------------------------------------------------------------------------------------------------- paths of a manifest
@pytest.mark.parametrize(
    "name",
    [
        "../other/part.parquet",
        "a/../../part.parquet",
        "/etc/passwd",
        "//etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/part.parquet",
        "x\0.parquet",
        "x\n.parquet",
        "x\x1b[2J.parquet",
        "",
        ".",
        "a" * 5_000,
        "é" * 3_000,
        "a/" * 3_000 + "x",
    ],
)
def test_a_path_that_is_not_below_the_folder_is_refused_unopened(folder: Path, name: str) -> None:
    first_path(folder, name)
    said = refused(folder)
    assert "; correct it, or list the folder again" in said and said.isprintable() and len(said) < 600


def test_a_file_twice_under_two_spellings_is_refused(folder: Path) -> None:
    for spelling in (PART, f"./{PART}", f".//{PART}"):
        change(folder, lambda tree, name=spelling: tree["files"][1].update(tree["files"][0] | {"path": name}))
        assert "more than once" in refused(folder)


@pytest.mark.parametrize("kind", ["file", "folder", "manifest"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """With the right bytes behind it: it is the place that is refused."""
    away = tmp_path / "away"
    away.mkdir()
    if kind == "folder":
        os.rename(folder / PART, away / PART)
        (folder / "sub").symlink_to(away)
        first_path(folder, f"sub/{PART}")
    else:
        name = PART if kind == "file" else manifest.NAME
        os.rename(folder / name, away / name)
        (folder / name).symlink_to(away / name)
    assert "a link that leads out of the dataset's folder" in refused(folder)


def test_a_link_within_the_folder_and_a_linked_folder_are_fine(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / PART, folder / "bytes")
    (folder / PART).symlink_to("bytes")
    (tmp_path / "linked").symlink_to(folder)
    listed = manifest.read(tmp_path / "linked")
    manifest.check_files(tmp_path / "linked", listed, listed.files, full=True)
    assert listed.num_rows == 300


@pytest.mark.parametrize("name", [PART, manifest.NAME])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    match kind:
        case "pipe":
            os.mkfifo(folder / name)
        case "device":
            (folder / name).symlink_to("/dev/zero")
        case "folder":
            (folder / name).mkdir()
    started = time.monotonic()
    assert "no regular file" in refused(folder)
    assert time.monotonic() - started < 5


def test_a_folder_with_a_link_out_of_it_is_not_listed(folder: Path, tmp_path: Path) -> None:
    """Told where the list is made, not only where it is read."""
    os.rename(folder / PART, tmp_path / PART)
    (folder / PART).symlink_to(tmp_path / PART)
    with pytest.raises(DataError, match="a link that leads out"):
        manifest.build(folder)


# ------------------------------------------------------------------------------------------------- claims of a manifest
@pytest.mark.parametrize("version", [999, 2, 0, -1, 10**30])
def test_another_version_is_refused(folder: Path, version: int) -> None:
    change(folder, lambda tree: tree.update(version=version))
    assert "format version" in refused(folder) or "not a manifest" in refused(folder)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rows", [[10**9], [10**9] * 5, [10**12], [2**63], [10**30], [-1], [10] * 200_000])
def test_claims_of_rows_that_are_not_there_cost_neither_memory_nor_time(folder: Path, which: int, rows: list) -> None:
    """The footers say otherwise, before anything as large as a claim is made; the whole way that training goes."""
    change(folder, lambda tree: tree["files"][which].update(row_groups=rows, crc32=""))
    config = samples.config(folder.parent)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError) as caught:
        Dataset.open(config.data.train, config, shuffle=True).verify(0, 1, full=True)  # assemble.open_dataset
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{len(rows)} claims of {rows[0]}: {grown:.0f} MB, {time.process_time() - started:.2f} s: {caught.value}"[:200]
    )
    assert grown < 600 and time.process_time() - started < 20


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b'{"version": ' + b"9" * 5_000 + b"}"],
)
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / manifest.NAME).write_bytes(content)
    assert "not a manifest" in refused(folder)


def test_a_manifest_without_end_is_not_read(folder: Path) -> None:
    with (folder / manifest.NAME).open("ab") as file:
        file.truncate(2**40)  # sparse
    assert "of which there may be" in refused(folder)


# -------------------------------------------------------------------------------------------------- Parquet
def write(folder: Path, table: pa.Table, **options: Any) -> Reader:
    """A dataset of one file, and its reader."""
    folder.mkdir()
    pq.write_table(table, folder / "x.parquet", **options)
    listed = manifest.build(folder)
    manifest.write(folder, listed)
    return samples.reader(folder)


def read_all(source: Reader) -> pa.Table:
    return source.read([Span(0, 0, source.blocks[0].rows)])


def test_a_bomb_is_told_by_its_footer_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """96 MB of zeros in a few kB, where 64 MB are allowed (4.3 GB take 20 s to make)."""
    monkeypatch.setattr(reader, "MAX_UNPACKED", 64 << 20)
    columns = {f"x{k}": pa.array(["\0" * (8 << 20)] * 3) for k in range(4)}
    source = write(tmp_path / "d", pa.table(columns), compression="zstd", use_dictionary=False, write_statistics=False)
    size, before = (tmp_path / "d" / "x.parquet").stat().st_size, pa.total_allocated_bytes()
    with pytest.raises(DataError, match="GB or more once unpacked; .* smaller row groups") as caught:
        read_all(source)
    print(f"{size:,} bytes on disk: {caught.value}")
    assert not isinstance(caught.value, DamageError), "quarantine would skip it"
    assert size < 100_000 and pa.total_allocated_bytes() - before < 1 << 20


def test_a_bomb_of_one_value_many_times_is_told_while_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run lengths: the footer counts the value once; here 80 MB of rows in a file of 40 kB."""
    monkeypatch.setattr(reader, "MAX_UNPACKED", 8 << 20)
    source = write(tmp_path / "d", pa.table({"x": pa.array(np.zeros(10_000_000, np.int64))}), row_group_size=10**9)
    assert (tmp_path / "d" / "x.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="once unpacked"):
        read_all(source)


def test_other_columns_of_a_wide_file_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_UNPACKED", 1 << 20)
    large = pa.array(np.random.default_rng(0).random(1 << 18))
    source = write(tmp_path / "d", pa.table({"large": large, "click": pa.array(np.zeros(1 << 18, np.int8))}))
    assert samples.reader(source.folder, "click").read([Span(0, 0, 10)]).num_rows == 10
    with pytest.raises(DataError, match="once unpacked"):
        read_all(source)


def test_nesting_without_end_is_told_and_ends_no_process(tmp_path: Path) -> None:
    """In a process of its own: a stack that overflows would end this one."""
    code = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "from dist_mtl.data.files import manifest\nfrom dist_mtl.errors import DataError\n"
        "sys.setrecursionlimit(10**6)\nkind = pa.int64()\n"
        "for _ in range(int(sys.argv[2])):\n    kind = pa.list_(kind)\n"
        "pq.ParquetWriter(sys.argv[1] + '/x.parquet', pa.schema([('x', kind)]), store_schema=False).close()\n"
        "try:\n    manifest.build(sys.argv[1])\nexcept DataError as error:\n    print(error)\n"
    )
    for depth in (60, 1_000, 5_000):
        done = subprocess.run([sys.executable, "-c", code, tmp_path, str(depth)], capture_output=True, text=True)
        assert done.returncode == 0 and "too deeply nested" in done.stdout, done.stderr[-500:]


class Canary:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_pandas_metadata_and_extension_types_run_nothing(tmp_path: Path) -> None:
    """What pyarrow once loaded (CVE-2023-47248): a pickled type; and an index that pandas would build."""
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    pickle.loads(payload)
    assert canary.exists()  # the canary sings
    canary.unlink()
    pandas = {"index_columns": [{"kind": "range", "start": 0, "stop": 10**12, "step": 1}], "columns": [], "creator": {}}
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    kinds = (pa.field("x", pa.int64(), metadata=extension), pa.field("click", pa.int8()))
    schema = pa.schema(kinds, metadata={"pandas": json.dumps(pandas)})
    source = write(tmp_path / "d", pa.table([[1, 2, 3], [0, 1, 0]], schema=schema))
    assert pq.read_schema(tmp_path / "d" / "x.parquet").metadata.keys() >= {b"pandas"}
    found = read_all(source)
    assert found.column("x").to_pylist() == [1, 2, 3] and found.column("x").type == pa.int64()
    assert manifest.arrow_schema(source.folder, manifest.read(source.folder)).field("x").type == pa.int64()
    assert not canary.exists()
