"""The quality of the shuffle at sizes of the real world, as a table. No data: the order is a pure function."""

import argparse
import time

from dist_mtl.data.order import Order
from dist_mtl.data.shuffle_quality import NEAR, Mixing, full_shuffle, mixing

BATCH = 4_096
# Rows of the dataset, of its row groups (ours; of a file of Spark or pandas by default), of the shuffle window.
CASES = (
    (10**8, 16_384, 262_144),
    (10**9, 16_384, 262_144),
    (10**10, 16_384, 262_144),
    (10**9, 16_384, 1_048_576),
    (10**9, 131_072, 262_144),
    (10**9, 131_072, 2_097_152),
    (10**9, 1_048_576, 262_144),
    (10**9, 1_048_576, 4_194_304),
)


def report(options: argparse.Namespace) -> str:
    """Ours and a full shuffle of the same rows, and what the order itself takes."""
    lines = [
        f"Steps of {BATCH:,} rows. `row groups`: that a step takes rows from. `largest`: share of a step from one of "
        f"them. `alike`: chance that two rows of a step are from one. `near`: rows of a step within {NEAR} rows of a "
        f"given one in the file. `apart`: mean steps between two neighbours of a file.",
        "",
        "| rows | row group | window | shuffle | row groups | largest | alike | near | apart | a window's order |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rows, group, window in CASES:
        order = Order((group,) * (rows // group), BATCH, window, seed=1)
        milliseconds = _milliseconds(order)
        about = f"| {rows:.0e} | {group:,} | {window:,} |".replace("e+0", "e").replace("e+", "e")
        tracks = f"{order.num_tracks} track{'s' * (order.num_tracks > 1)}"
        lines.append(f"{about} ours, {tracks} | {_told(mixing(order))} | {milliseconds:.0f} ms |")
        lines.append(f"{about} full | {_told(full_shuffle(order))} | |")
    return "\n".join(lines)


def _told(found: Mixing) -> str:
    return f"{found.groups:,.0f} | {found.largest:.2%} | {found.alike:.4%} | {found.near:.3g} | {found.apart:,.0f}"


def _milliseconds(order: Order) -> float:
    """To compute one window of one rank, once the epoch's row groups are in their order."""
    order.segment(0, 0, 0, 1)
    started = time.perf_counter()
    for window in range(1, 4):
        order.segment(0, window, 0, 1)
    return (time.perf_counter() - started) / 3 * 1e3
