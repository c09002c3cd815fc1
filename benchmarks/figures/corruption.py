"""The tables of docs/data.md on damaged files: one-bit flips and what becomes of them, and what the checking costs.

make corruption                          # about 5 minutes; ARGS="--headers 0 --rounds 0": the first table alone
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from dist_mtl.config import SampleLogs
from dist_mtl.data.files.reader import BATCH_ROWS
from dist_mtl.data.files.writer import Codec, Encoding, Files
from dist_mtl.data.synthetic.logs import generate
from tests.support import flips

CODECS: tuple[Codec, ...] = ("none", "snappy", "zstd")
WAYS = {
    "full": 'data.verify = "full"',
    "footer": 'data.verify = "footer"',
    "pages": "page checksums alone",
}
WORDS = {"start": "refused before step 1", "page": "refused at the page", "harmless": "same rows", "SILENT": "silent"}
LOGS = SampleLogs(train_rows=262_144, test_rows=1)


def main() -> int:
    """0 if no flip was silent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=400, help="of each codec (default %(default)s)")
    parser.add_argument("--headers", type=int, default=6_000, help="more, in page headers (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of timing (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    silent = 0
    with tempfile.TemporaryDirectory() as scratch:
        for codec in CODECS:
            sound = flips.write(Path(scratch) / codec, codec)
            silent += show(codec, sound, flips.campaign(sound, arguments.flips, arguments.seed))
            if arguments.headers:
                silent += show(codec, sound, flips.campaign(sound, arguments.headers, arguments.seed, "page header"))
        print(f"silent with a manifest that has CRC-32s: {silent}\n")
        if arguments.rounds:
            costs(Path(scratch) / "logs", arguments.rounds)
    return int(silent > 0)


def show(codec: str, sound: flips.Sound, found: dict[str, Counter]) -> int:
    """One table on stdout. Returns how many flips were silent with our manifest."""
    count = sum(found["full"].values())
    title = f"{codec}: {count:,} one-bit flips in a file of {len(sound.content):,} bytes"
    table = Table(title=title, title_justify="left")
    for column in ("", "flips in", *WORDS.values()):
        table.add_column(column, justify="right" if column in WORDS.values() else "left")
    for way, outcomes in found.items():
        regions = [r for r in flips.REGIONS if any(region == r for region, _ in outcomes)]
        for region in regions:
            table.add_row(WAYS[way], region, *(f"{outcomes[region, what]:,}" for what in WORDS))
        total = (sum(n for (_, w), n in outcomes.items() if w == what) for what in WORDS)
        if len(regions) > 1:
            table.add_row(WAYS[way], "all", *(f"{n:,}" for n in total))
        table.add_section()
    Console(width=140).print(table)
    return sum(n for way in ("full", "footer") for (_, what), n in found[way].items() if what == "SILENT")


def costs(folder: Path, rounds: int) -> None:
    """CPU time to decode 262,144 sample logs of 22 columns: interleaved, the best of each."""
    table = Table(title="CPU time to decode 262,144 rows, 22 columns: ms (of Arrow alone)", title_justify="left")
    for column in ("codec", "Arrow alone", "its page checksums", "ours, CRC-32 of chunks", "file, MB"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    rows = pa.concat_tables(generate(LOGS, LOGS.train_rows, "train"))
    for codec in CODECS:
        (folder / codec).mkdir(parents=True)
        files = Files(folder / codec, encoding=Encoding(codec))
        files.add(rows)
        [listed] = files.close()
        path = folder / codec / listed.files[0].path
        ways = {
            "alone": lambda p=path: by_arrow(p, checked=False),
            "pages": lambda p=path: by_arrow(p, checked=True),
            "ours": lambda f=folder / codec, m=listed: flips.read(f, m),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.process_time()
                way()
                best[name] = min(best[name], time.process_time() - started)
        cells = (f"{1e3 * one:.0f} ({one / best['alone']:.2f})" for one in best.values())
        table.add_row(codec, *cells, f"{path.stat().st_size / 1e6:.1f}")
    Console(width=140).print(table)


def by_arrow(path: Path, checked: bool) -> None:
    """What the reader does, without looking."""
    with pq.ParquetFile(path, page_checksum_verification=checked) as file:
        for group in range(file.num_row_groups):
            list(file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=pa.cpu_count() > 1))


if __name__ == "__main__":
    sys.exit(main())
