"""Damage is refused, or it changes no row: one-bit flips in short form (`make corruption` has 400 a codec)."""

import itertools
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.data.files import manifest
from dist_mtl.data.order import Span
from dist_mtl.errors import DamageError, DataError
from tests.support import flips, samples


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
def test_one_bit_flips(tmp_path: Path, codec: str) -> None:
    """60 of them over pages, page headers, dictionaries, footer, magic: none is silent, whatever `verify` says."""
    sound = flips.write(tmp_path / codec, codec)
    found = flips.campaign(sound, 60, seed=1)
    for way in ("full", "footer"):
        told = {what: sum(n for (_, w), n in found[way].items() if w == what) for what in flips.WHAT}
        print(f"{codec}, verify = {way}: {told}")
        assert told["SILENT"] == 0 and sum(told.values()) == 60
    assert {region for region, _ in found["footer"]} == set(flips.REGIONS)
    assert {what for _, what in found["full"]} == {"start"}
    by_region = {(region, what) for region, what in found["footer"] if region not in ("magic",)}
    assert by_region == {(r, "page") for r in ("page header", "dictionary page", "data page")} | {("footer", "start")}


def test_flips_that_page_checksums_do_not_see(tmp_path: Path) -> None:
    """Why a manifest has checksums of its own: Parquet's leave out the headers of pages."""
    sound = flips.write(tmp_path / "none", "none")
    before = replace(sound.listed, files=tuple(replace(file, crc32="") for file in sound.listed.files))
    parsed = pq.read_metadata(sound.path)
    leaf = [parsed.schema.column(i).path for i in range(parsed.num_columns)].index("history_weight.list.element")
    start, good = parsed.row_group(1).column(leaf).data_page_offset, sound.rows.column("history_weight").slice(100, 100)
    header = [place for place in sound.regions["page header"].tolist() if 0 <= place - start < 40]

    def read(listed: manifest.Manifest) -> pa.ChunkedArray | None:
        try:
            return samples.reader(sound.folder, "history_weight", listed=listed).read([Span(1, 0, 100)]).column(0)
        except DamageError:
            return None

    silent = 0
    for place, bit in itertools.product(header, range(8)):
        sound.path.write_bytes(flips.flipped(sound, place, bit))
        there = read(before)
        assert read(sound.listed) is None
        silent += there is not None and not there.equals(good)
    print(f"{silent} of {8 * len(header)} flips in a page header pass Parquet's checksums, and give other rows")
    assert silent > 0, "Arrow has closed the gap: our own checksums may go"


def exchange(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


@pytest.mark.parametrize("full", [True, False])
def test_exchanged_files_of_one_size(tmp_path: Path, full: bool) -> None:
    """Equal in size, rows, row groups and schema: without a codec, and with numbers alone, nothing else differs."""
    for name, first in (("a", 0), ("b", 1_000)):
        numbers = pa.table({"row": range(first, first + 100)})
        pq.write_table(numbers, tmp_path / f"{name}.parquet", compression="none", use_dictionary=False)
    listed = manifest.build(tmp_path)
    assert listed.files[0].bytes == listed.files[1].bytes
    exchange(tmp_path / "a.parquet", tmp_path / "b.parquet")
    with pytest.raises(DataError, match="a.parquet: changed since the manifest was written"):
        manifest.check_files(tmp_path, listed, listed.files, full)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """The reader has it open already: the end of the file is met within a chunk."""
    samples.write_logs(tmp_path / "d", 400, files=1, group_rows=100)
    reader = samples.reader(tmp_path / "d", "row", "user", "tag")
    reader.read([Span(0, 0, 100)])
    with (tmp_path / "d" / flips.NAME).open("r+b") as file:
        file.truncate(3_000)
    with pytest.raises(DamageError, match="row group 2: damaged or unreadable .it ends within column `row`"):
        reader.read([Span(2, 0, 100)])


def test_files_of_others_are_checked_as_well(tmp_path: Path) -> None:
    """Without page checksums, with gzip, nested and dictionary columns: the manifest's CRC-32s do it."""
    table = samples.logs(3_000).append_column("nested", pa.array([{"a": i, "b": [i]} for i in range(3_000)]))
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / flips.NAME, row_group_size=1_000, compression="gzip")
    listed = manifest.build(tmp_path / "d")
    assert flips.read(tmp_path / "d", listed).equals(table)
    some = samples.reader(tmp_path / "d", "nested", "tag", listed=listed).read([Span(1, 10, 20)])
    assert some.equals(table.slice(1_010, 10).select(["nested", "tag"]))
    content = bytearray((tmp_path / "d" / flips.NAME).read_bytes())
    parsed = pq.read_metadata(tmp_path / "d" / flips.NAME)
    leaf = [parsed.schema.column(i).path for i in range(parsed.num_columns)].index("nested.b.list.element")
    reader = samples.reader(tmp_path / "d", "nested", listed=listed)
    other = samples.reader(tmp_path / "d", "row", "tag", listed=listed)  # what is not read is not looked at
    content[parsed.row_group(1).column(leaf).data_page_offset + 30] ^= 1
    (tmp_path / "d" / flips.NAME).write_bytes(content)
    reader.read([Span(0, 0, 1_000), Span(2, 0, 1_000)])
    with pytest.raises(DamageError, match="row group 1: .*CRC-32 of column `nested.b.list.element` differs"):
        reader.read([Span(1, 0, 1_000)])
    assert other.read([Span(1, 0, 1_000)]).num_rows == 1_000
