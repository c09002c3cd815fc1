"""The loader's memory over a long read: one process, one pass after the other over the same rows."""

import argparse
import resource
import sys
import time
from pathlib import Path

from benchmarks.speed.loading import wide
from dist_mtl.data.loader import Dataset

MARKS = 20  # lines of the table


def report(options: argparse.Namespace) -> str:
    """Read `options.read` rows (to whole steps), shuffled anew in each pass; the resident memory on the way."""
    name, config = wide(options.folder, options.logs)
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    batch, rows = dataset.order.global_batch, dataset.order.num_rows
    steps = -(-options.read // batch)
    lines = [
        f"{name}, {rows:,} rows over and over in windows of {config.data.shuffle_rows:,} rows, "
        f"{dataset.order.num_tracks} tracks",
        "",
        "| rows read | resident, MB | rows/s |",
        "|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    started, seen = time.monotonic(), []
    for step, _ in enumerate(dataset.batches(0, 1, 0, steps), start=1):
        if step % max(steps // MARKS, 1) == 0 or step == steps:
            seen.append(resident())
            speed = step * batch / (time.monotonic() - started)
            print(f"| {step * batch:,} | {seen[-1] / 1e6:,.0f} | {speed:,.0f} |", flush=True)
    half = len(seen) // 2
    first, last = max(seen[:half], default=0) / 1e6, max(seen[half:]) / 1e6
    return f"\nMost in the first half: {first:,.0f} MB, in the second: {last:,.0f} MB."


def resident() -> int:
    """Bytes of this process in memory now; where the system does not tell, the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
