"""Parquet files with encrypted or changed footers: `python -m tests.support.footers FOLDER COUNT SEED` reads them.

In a process of its own: what this looks for ends the process.
"""

import base64
import io
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from dist_mtl.data.files import manifest
from dist_mtl.data.files.reader import blocks_of
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError
from tests.support import samples

TABLE = pa.table(
    {
        "user": [1, 2, 3] * 50,
        "name": ["a", "b", None] * 50,
        "history": [[1, 2], [], None] * 50,
        "time": pa.array([1] * 150, pa.timestamp("us", "UTC")),
        "price": pa.array([1] * 150, pa.decimal128(10, 2)),
        "pair": pa.array([{"x": 1, "y": "a"}] * 150),
        "kind": pa.array(["a", "b", "c"] * 50).dictionary_encode(),
    }
)
OPTIONS = ({}, {"row_group_size": 20, "store_schema": False}, {"write_page_index": True, "compression": "none"})
# What the format reads as a length, a type or the end of a struct.
TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x15, 0x18, 0x19, 0x1C, 0x2C, 0x4C)


class Keys(pe.KmsClient):
    """Keys that are kept by nobody."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped)


def encrypted(table: pa.Table, *, footer: bool, columns: list[str]) -> bytes:
    """The table with these columns encrypted; `footer`: that, too."""
    factory = pe.CryptoFactory(Keys)
    config = pe.EncryptionConfiguration("footer", column_keys={"column": columns}, plaintext_footer=not footer)
    keys = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    return sink.getvalue()


def written(table: pa.Table, **options: object) -> bytes:
    """The table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def footer_of(content: bytes) -> bytes:
    """The footer alone."""
    return content[-8 - int.from_bytes(content[-8:-4], "little") : -8]


def with_footer(content: bytes, footer: bytes) -> bytes:
    """The same file with another footer, of the right length and with the right magic bytes."""
    return content[: -8 - len(footer_of(content))] + footer + len(footer).to_bytes(4, "little") + content[-4:]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bits flipped, bytes set, removed, inserted, repeated in the footer."""
    footer = bytearray(footer_of(content))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
        at, size = draw.randrange(len(footer)), draw.choice((1, 1, 2, 4, 10, 50))
        match draw.randrange(5):
            case 0:
                footer[at] ^= 1 << draw.randrange(8)
            case 1:
                footer[at] = draw.choice((*TELLING, draw.randrange(256)))
            case 2:
                del footer[at : at + size]
            case 3:
                footer[at:at] = bytes(draw.choice(TELLING) for _ in range(size))
            case 4:
                footer[at:at] = footer[(start := draw.randrange(len(footer))) : start + size]
        footer = footer or bytearray(1)
    return with_footer(content, bytes(footer))


def cases(count: int, seed: int) -> Iterator[bytes]:
    """Changed files of every kind."""
    draw = random.Random(seed)
    sound = [written(TABLE, **options) for options in OPTIONS]
    sound += [encrypted(TABLE, footer=footer, columns=["user"]) for footer in (False, True)]
    for _ in range(count):
        yield mutated(draw.choice(sound), draw)


def verdict(folder: Path, content: bytes) -> str:
    """List a file and read its rows. Raises whatever is no DataError."""
    (folder / "x.parquet").write_bytes(content)
    try:
        manifest.write(folder, manifest.build(folder))
    except DataError as error:
        return "encrypted" if "encrypted" in str(error) else "refused"
    try:
        listed = manifest.read(folder)
    except DataError as error:
        if "the dataset is empty" in str(error):
            return "listed, empty"
        raise
    for number, block in enumerate(blocks_of(listed)):
        try:
            samples.reader(folder, listed=listed).read([Span(number, 0, block.rows)])
        except DataError:
            return "listed, not read"
    return "read"


if __name__ == "__main__":
    place, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    place.mkdir()
    counted: Counter[str] = Counter()
    for case in cases(count, seed):
        counted[verdict(place, case)] += 1
    print(dict(counted))
