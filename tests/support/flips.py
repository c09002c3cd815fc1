"""One-bit flips in a Parquet file, and what becomes of them: refused, harmless, or silent."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.data.files import manifest
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.reader import blocks_of
from dist_mtl.data.files.writer import Codec, Encoding, Files
from dist_mtl.data.order import Span
from dist_mtl.errors import DamageError, DataError
from tests.support import samples

NAME = "part-00000.parquet"
ROWS, GROUP_ROWS = 400, 100
Outcome = Literal["start", "page", "harmless", "SILENT"]
WHAT: tuple[Outcome, ...] = ("start", "page", "harmless", "SILENT")
REGIONS = ("page header", "dictionary page", "data page", "footer", "magic")


@dataclass(frozen=True)
class Sound:
    """A dataset of one file before anything happens to it."""

    folder: Path
    listed: Manifest
    content: bytes
    rows: pa.Table
    regions: dict[str, np.ndarray]  # name -> places of its bytes

    @property
    def path(self) -> Path:
        return self.folder / NAME


def write(folder: Path, codec: Codec) -> Sound:
    """Every kind of column, with dictionaries, nulls and lists, by our writer."""
    folder.mkdir(parents=True)
    files = Files(folder, "part", ROWS, GROUP_ROWS, Encoding(codec))
    files.add(samples.logs(ROWS))
    listed = manifest.joined(folder, files.close())
    manifest.write(folder, listed)
    content = (folder / NAME).read_bytes()
    return Sound(folder, manifest.read(folder), content, read(folder, listed), regions(content))


def read(folder: Path, listed: Manifest) -> pa.Table:
    """Every row, as training reads them."""
    blocks = blocks_of(listed)
    return samples.reader(folder, listed=listed).read([Span(i, 0, b.rows) for i, b in enumerate(blocks)])


def places(sound: Sound, count: int, seed: int, only: str | None = None) -> Iterator[tuple[str, int, int]]:
    """(region, byte, bit): half of them anywhere in the file, half in equal parts in each region; or all in `only`."""
    draw = np.random.default_rng(seed)
    if only is not None:
        yield from ((only, int(draw.choice(sound.regions[only])), int(draw.integers(8))) for _ in range(count))
        return
    owner = np.full(len(sound.content), "", dtype=object)
    for name, inside in sound.regions.items():
        owner[inside] = name
    for place in draw.choice(len(owner), count // 2, replace=False):
        yield owner[place], int(place), int(draw.integers(8))
    there = [name for name in REGIONS if len(sound.regions[name])]
    for i in range(count - count // 2):
        name = there[i % len(there)]
        yield name, int(draw.choice(sound.regions[name])), int(draw.integers(8))


def flipped(sound: Sound, place: int, bit: int) -> bytes:
    """The file with one bit changed."""
    return sound.content[:place] + bytes([sound.content[place] ^ (1 << bit)]) + sound.content[place + 1 :]


def outcome(sound: Sound, listed: Manifest, full: bool) -> Outcome:
    """What happens to whoever trains on the file as it stands there now. Asserts that an error names the place."""
    try:
        manifest.check_file(sound.folder, listed, listed.files[0], full)
    except DataError as error:
        assert str(sound.path) in str(error), error
        return "start"
    try:
        rows = read(sound.folder, listed)
    except DamageError as error:
        assert f"{sound.path}, row group " in str(error), error
        return "page"
    return "harmless" if rows.equals(sound.rows) else "SILENT"


def campaign(sound: Sound, count: int, seed: int, only: str | None = None) -> dict[str, Counter[tuple[str, Outcome]]]:
    """Flip `count` bits, one at a time; by way of checking: how often each region came to each outcome.

    `pages`: with a manifest that has no CRC-32s, as one had before; page checksums alone then protect. Bits of the
    footer are left alone there: Arrow ends the process on some of them.
    """
    before = replace(sound.listed, files=tuple(replace(file, crc32="") for file in sound.listed.files))
    ways = {"full": (sound.listed, True), "footer": (sound.listed, False), "pages": (before, False)}
    found: dict[str, Counter[tuple[str, Outcome]]] = {way: Counter() for way in ways}
    try:
        for region, place, bit in places(sound, count, seed, only):
            sound.path.write_bytes(flipped(sound, place, bit))
            for way, (listed, full) in ways.items():
                if (way, region) != ("pages", "footer"):
                    found[way][region, outcome(sound, listed, full)] += 1
    finally:
        sound.path.write_bytes(sound.content)
    return found


def regions(content: bytes) -> dict[str, np.ndarray]:
    """The bytes of each region of a Parquet file: page headers are found by walking through the pages."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
    parsed = pq.read_metadata(pa.BufferReader(content))
    for g in range(parsed.num_row_groups):
        for c in range(parsed.num_columns):
            chunk = parsed.row_group(g).column(c)
            place = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            stop = place + chunk.total_compressed_size
            while place < stop:
                header = _Thrift(content, place)
                fields = header.struct()
                page = "dictionary page" if fields[1] == 2 else "data page"
                found["page header"].append(np.arange(place, header.at))
                found[page].append(np.arange(header.at, header.at + fields[3]))
                place = header.at + fields[3]
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    found["footer"].append(np.arange(footer, len(content) - 4))
    found["magic"].append(np.r_[0:4, len(content) - 4 : len(content)])
    return {name: np.concatenate(parts) if parts else np.zeros(0, int) for name, parts in found.items()}


class _Thrift:
    """Just enough of Thrift's compact protocol to find where a page header ends."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def struct(self) -> dict[int, int | None]:
        """Field number -> value of the whole numbers in it."""
        fields, number = {}, 0
        while byte := self._byte():
            number = number + (byte >> 4) if byte >> 4 else self._zigzag()
            fields[number] = self._value(byte & 15)
        return fields

    def _value(self, kind: int) -> int | None:
        match kind:
            case 1 | 2:  # a boolean is its kind
                return None
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 8:
                size = self._varint()
                self.at += size
                return None
            case 12:
                self.struct()
                return None
        raise AssertionError(f"type {kind} in a page header")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
