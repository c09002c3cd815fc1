"""What is not on the list does not exist; what is on it is there, unchanged, or the run does not start."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.data.files import manifest
from dist_mtl.errors import DataError
from tests.support import samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples.write_logs(tmp_path / "train", 400, files=4, group_rows=30)
    return tmp_path / "train"


def check(folder: Path, full: bool = True) -> None:
    """Read the manifest and check every file, as a run does."""
    listed = manifest.read(folder)
    for file in listed.files:
        manifest.check_file(folder, listed, file, full)


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Apply `change` to the manifest's tree."""
    tree = json.loads((folder / "_manifest.json").read_text())
    change(tree)
    (folder / "_manifest.json").write_text(json.dumps(tree))


def refused(folder: Path, full: bool = True) -> str:
    """The message of the DataError."""
    with pytest.raises(DataError) as caught:
        check(folder, full)
    return str(caught.value)


def test_what_was_written_is_what_is_read(folder: Path) -> None:
    check(folder)
    listed = manifest.read(folder)
    assert listed == manifest.build(folder)
    assert [f.path for f in listed.files] == [f"part-0000{i}.parquet" for i in range(4)]
    assert listed.files[0].row_groups == (30, 30, 30, 10) and listed.num_rows == 400
    assert list(listed.schema)[:3] == ["row", "user", "item"]


def test_the_digest_follows_files_and_schema_only(folder: Path, tmp_path: Path) -> None:
    digest = manifest.read(folder).digest
    edit(folder, lambda m: m.update(ceiling={"ctr": 0.9}))
    assert manifest.read(folder).digest == digest
    samples.write_logs(tmp_path / "same", 400, files=4, group_rows=30)
    assert manifest.read(tmp_path / "same").digest == digest
    samples.write_logs(tmp_path / "other", 400, seed=1, files=4, group_rows=30)
    assert manifest.read(tmp_path / "other").digest != digest
    edit(folder, lambda m: m["files"].reverse())
    assert manifest.read(folder).digest != digest  # another order is another training


SECOND = "part-00001.parquet"


@pytest.mark.parametrize("full", [True, False])
def test_a_missing_file(folder: Path, full: bool) -> None:
    (folder / SECOND).unlink()
    assert f"{SECOND}: the manifest lists it, but it is missing; restore it" in refused(folder, full)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 1_000, -1])
def test_a_truncated_file(folder: Path, full: bool, keep: int) -> None:
    size = (folder / SECOND).stat().st_size
    os.truncate(folder / SECOND, keep % size)
    assert f"{SECOND}: changed since the manifest was written ({keep % size} bytes, listed {size})" in refused(
        folder, full
    )


def test_every_changed_bit_is_found(folder: Path) -> None:
    """One bit in each of 200 places over the whole file; the size stays."""
    path = folder / SECOND
    good = path.read_bytes()
    for place in range(0, len(good), len(good) // 200):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        assert f"{SECOND}: " in (told := refused(folder)) and ("sha256 differs" in told or place > len(good) - 8_000)
    path.write_bytes(good)
    check(folder)


def test_another_file_under_the_name(folder: Path) -> None:
    (folder / SECOND).write_bytes((folder / "part-00002.parquet").read_bytes())
    assert f"{SECOND}: changed since" in refused(folder)


def test_a_footer_that_lies(folder: Path) -> None:
    edit(folder, lambda m: m["files"][1].update(row_groups=[30, 30, 30, 11]))
    assert f"{SECOND}: its row groups or columns are not the listed ones" in refused(folder, full=False)


def test_a_file_with_other_columns(folder: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), folder / SECOND)
    listed = manifest.of_file(folder, SECOND).files[0]
    with pytest.raises(DataError, match="its row groups or columns are not the listed ones"):
        manifest.check_file(folder, manifest.read(folder), listed, full=True)
    with pytest.raises(DataError, match="its columns differ from those of .*part-00000.parquet: extra `a`, no `age`"):
        manifest.build(folder)


@pytest.mark.parametrize("path", ["../x.parquet", "/etc/passwd", "a/../../x", "a\0b", "x" * 5_000])
def test_a_path_outside(folder: Path, path: str) -> None:
    edit(folder, lambda m: m["files"][0].update(path=path))
    assert "; correct it, or list the folder again" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=2), "format version 2; this program knows 1. Upgrade dist_mtl"),
        (lambda m: m.update(version="one"), "not a manifest: version: "),
        (lambda m: m.pop("files"), "not a manifest: files: "),
        (lambda m: m.update(files=[]), "the dataset is empty (0 rows)"),
        (lambda m: [f.update(row_groups=[], crc32="") for f in m["files"]], "the dataset is empty (0 rows)"),
        (lambda m: m["files"][0].update(row_groups=[20] * 5), "no checksums of 5 row groups; list the folder again"),
        (lambda m: m["files"][0].update(crc32="AAAA"), "3 bytes are no checksums of 4 row groups; list the folder"),
        (lambda m: m["files"][0].update(crc32="%"), "part-00000.parquet: "),
        (lambda m: m["files"][0].update(row_groups=[-5, 10]), "claims a negative number of rows"),
        (lambda m: m["files"][0].update(bytes=None), "not a manifest: files.0.bytes: "),
        (lambda m: m["files"].append(m["files"][0]), "lists part-00000.parquet more than once"),
        (lambda m: m["files"].append({**m["files"][0], "path": "./part-00000.parquet"}), "more than once"),
    ],
)
def test_a_manifest_that_is_none(folder: Path, change: Callable, words: str) -> None:
    edit(folder, change)
    assert words in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"version": 1}'])
def test_bytes_that_are_no_manifest(folder: Path, content: bytes) -> None:
    (folder / "_manifest.json").write_bytes(content)
    assert "_manifest.json: not a manifest: " in refused(folder)


def test_no_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dist-mtl convert manifest"):
        manifest.read(tmp_path)
    with pytest.raises(DataError, match="dist-mtl convert manifest"):
        manifest.read(tmp_path / "nowhere")


def test_zero_rows(tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 0, files=1)
    with pytest.raises(DataError, match=r"the dataset is empty \(0 rows\)"):
        manifest.read(tmp_path / "train")


def test_a_folder_without_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.parquet file in it"):
        manifest.build(tmp_path)


def test_a_file_that_is_not_parquet(folder: Path) -> None:
    (folder / "z.parquet").write_text("hello")
    with pytest.raises(DataError, match="z.parquet: not a readable Parquet file"):
        manifest.build(folder)


def test_files_below_and_empty_ones(tmp_path: Path) -> None:
    """Sub-folders count, in the order of their paths; a file without rows is listed and trains nothing."""
    table = samples.logs(10)
    (tmp_path / "b").mkdir()
    pq.write_table(table, tmp_path / "b" / "x.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    pq.write_table(table, tmp_path / "a.parquet")
    listed = manifest.build(tmp_path)
    assert [(f.path, sum(f.row_groups)) for f in listed.files] == [
        ("a.parquet", 10),
        ("b/x.parquet", 10),
        ("c.parquet", 0),
    ]
    manifest.write(tmp_path, listed)
    check(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_manifest_from_before_there_were_checksums(folder: Path) -> None:
    """It is read, has the same digest (commits name it), and only the bytes of pages are protected while reading."""
    now = manifest.read(folder)
    edit(folder, lambda m: [m.pop("partitions"), *(f.pop("crc32") for f in m["files"])])
    before = manifest.read(folder)
    assert before.digest == now.digest and before.files[0].checksums is None and now.files[0].checksums is not None
    check(folder)


def test_append_reads_new_files_only(folder: Path) -> None:
    """What it trusts: a listed path and size. A kept entry is the old one, whatever the file holds now."""
    before = manifest.read(folder)
    good = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    (folder / "part-00003.parquet").unlink()
    pq.write_table(samples.logs(50), folder / "z.parquet")
    seen: list[int] = []
    listed, told = list_folder(str(folder), append=True)
    print(told)
    assert told == "3 kept as they were listed, 1 read, 1 gone"
    assert listed.files[:3] == before.files[:3] and listed.files[3].path == "z.parquet" and listed.num_rows == 350
    assert "sha256 differs" in refused(folder)
    manifest.build(folder, on_bytes=seen.append)
    assert sum(seen) == sum(file.stat().st_size for file in folder.glob("*.parquet"))
    listed, told = list_folder(str(folder))
    assert told == "all of them read" and listed.files[1].sha256 != before.files[1].sha256
    check(folder)


def test_append_reads_again_what_has_no_checksums(folder: Path) -> None:
    now = manifest.read(folder)
    edit(folder, lambda m: [f.pop("crc32") for f in m["files"][:3]])
    listed, told = list_folder(str(folder), append=True)
    assert told.startswith("1 kept as they were listed, 3 read") and listed == now


def test_checksums_cover_each_chunk(folder: Path) -> None:
    """Against a plain computation, over a file that others wrote: no page checksums, other codecs, big pieces."""
    table = samples.logs(3_000)
    pq.write_table(table, folder / "theirs.parquet", row_group_size=700, compression="gzip", use_dictionary=["item"])
    listed = manifest.of_file(folder, "theirs.parquet").files[0]
    content, parsed = (folder / "theirs.parquet").read_bytes(), pq.read_metadata(folder / "theirs.parquet")
    chunks, footer = listed.checksums
    for g in range(parsed.num_row_groups):
        for c in range(parsed.num_columns):
            chunk = parsed.row_group(g).column(c)
            start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o)
            assert chunks[g, c] == zlib.crc32(content[start : start + chunk.total_compressed_size])
    assert footer == zlib.crc32(content[-8 - int.from_bytes(content[-8:-4], "little") :])
    assert listed.sha256 == hashlib.sha256(content).hexdigest()
