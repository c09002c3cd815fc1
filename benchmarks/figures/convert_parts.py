"""Two choices of the Ali-CCP converter, each against the plain way: python -m benchmarks.figures.convert_parts

Processor time of one core, the least of three turns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.data.files.writer import ROW_GROUP_ROWS
from dist_mtl.tools.convert import aliccp
from dist_mtl.tools.convert.lines import segments
from dist_mtl.tools.convert.parts import encoding_of
from tests.support import raw_logs
from tests.support.samples import rows_of


def seconds_of(action: Callable[[], object], repeats: int = 3) -> float:
    """The least processor time of an action."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        spent.append(time.process_time() - start)
    return min(spent)


def by_blocks(path: Path) -> None:
    """The common features, as the converter reads them."""
    for segment in segments([path]):
        for _ in aliccp._commons_of(aliccp.Schema(), segment, lambda num_bytes, rows: None):
            pass


def by_tokens(path: Path) -> list[dict[str, list[tuple[int, float]]]]:
    """The same by a loop over the tokens."""
    rows = []
    for line in path.read_text().split("\n")[:-1]:
        row: dict[str, list[tuple[int, float]]] = {}
        for token in line.split(",")[2].split("\x01"):
            field, rest = token.split("\x02")
            number, value = rest.split("\x03")
            row.setdefault(field, []).append((int(number), float(value)))
        rows.append(row)
    return rows


def write(table: pa.Table, path: Path, dictionary: bool | list[str], codec: str) -> None:
    """The rows in row groups of the size that datasets have."""
    options = {"compression": codec, "use_dictionary": dictionary, "write_page_checksum": True}
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for first in range(0, table.num_rows, ROW_GROUP_ROWS):
            writer.write_table(table.slice(first, ROW_GROUP_ROWS), ROW_GROUP_ROWS)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raw, file = Path(scratch) / "raw", Path(scratch) / "a.parquet"
        raw_logs.write_aliccp(raw, rows=3 * ROW_GROUP_ROWS, commons=3 * ROW_GROUP_ROWS // 58)
        common = raw / "common_features_train.csv"
        megabytes = common.stat().st_size / 1e6
        for name, read in (("by blocks", by_blocks), ("a loop over tokens", by_tokens)):
            print(f"feature lists, {name}: {megabytes / seconds_of(lambda read=read: read(common)):.0f} MB/s")
        aliccp.convert(aliccp.find(raw), Path(scratch) / "out")
        table = rows_of(Path(scratch) / "out/train")
        ours = list(encoding_of(table.schema).dictionary)
        for name, dictionary, codec in (
            ("a dictionary for all, zstd", True, "zstd"),
            ("a dictionary for all, snappy", True, "snappy"),
            ("none for lists and fractions, zstd", ours, "zstd"),
        ):
            writing = seconds_of(lambda d=dictionary, c=codec: write(table, file, d, c))
            reading = seconds_of(lambda: pq.read_table(file, use_threads=False))
            print(
                f"{table.num_rows:,} rows, {name}: written {table.num_rows / writing:,.0f} rows/s, "
                f"read {table.num_rows / reading:,.0f} rows/s, {file.stat().st_size / 1e6:.1f} MB"
            )


if __name__ == "__main__":
    main()
