"""Make sample logs with planted truth: python launch/synthesize.py OUT [--rows 1e6] [--kind shop|benchmark] ...

Writes OUT/train and OUT/test, each a dataset with its manifest, and prints the ceiling: the AUC of the true
probabilities, which no model can be expected to beat.
"""

import argparse
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dist_mtl.cli import run
from dist_mtl.config import SampleLogs
from dist_mtl.data.manifest import Manifest
from dist_mtl.data.synthetic import BenchmarkLogs, Split, write_logs
from dist_mtl.errors import ConfigError


def main() -> None:
    arguments = parser().parse_args()
    spec = spec_of(arguments)
    sizes: dict[Split, int] = {"train": arguments.rows, "test": arguments.test_rows}
    made: dict[Split, Manifest] = {}
    with Progress(console=Console(stderr=True)) as bars:
        for split, rows in sizes.items():
            on_rows = partial(bars.advance, bars.add_task(split, total=rows))
            made[split] = write_logs(spec, Path(arguments.out) / split, rows, split, on_rows)
    print_ceiling(arguments.out, made)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder to make; OUT/train and OUT/test must not exist yet")
    parser.add_argument("--rows", type=count, default=1_000_000, help="train rows, e.g. 1e6 (default %(default)s)")
    parser.add_argument("--test-rows", type=count, default=200_000, help="test rows (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ctr", type=float, default=0.05, help="clicks per impression (default %(default)s)")
    parser.add_argument("--cvr", type=float, default=0.10, help="conversions per click (default %(default)s)")
    parser.add_argument("--kind", choices=("shop", "benchmark"), default="shop", help="realistic, or wide")
    shop = parser.add_argument_group("--kind shop")
    shop.add_argument("--users", type=count, default=20_000)
    shop.add_argument("--items", type=count, default=5_000)
    benchmark = parser.add_argument_group("--kind benchmark")
    benchmark.add_argument("--ids", type=int, default=26, help="id columns c0, c1, ... (default %(default)s)")
    benchmark.add_argument("--dense", type=int, default=13, help="dense columns d0, d1, ... (default %(default)s)")
    benchmark.add_argument("--rows-per-table", type=count, default=1_000_000, help="ids of each column")
    return parser


def count(text: str) -> int:
    """A positive whole number, also as 1e6."""
    number = float(text)
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(number)


def spec_of(arguments: argparse.Namespace) -> SampleLogs | BenchmarkLogs:
    """What the arguments ask for; ConfigError for values that can not be."""
    a = arguments
    if a.kind == "benchmark":
        return BenchmarkLogs(a.ids, a.rows_per_table, a.dense, a.seed, a.ctr, a.cvr)
    try:
        return SampleLogs(
            train_rows=a.rows,
            test_rows=a.test_rows,
            seed=a.seed,
            num_users=a.users,
            num_items=a.items,
            ctr=a.ctr,
            cvr=a.cvr,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def print_ceiling(out: str, made: dict[Split, Manifest]) -> None:
    """The table of ceilings on stdout."""
    table = Table(title=f"{out}: AUC of the true probabilities", title_justify="left", title_style="bold")
    for column in ("split", "rows", "CTR", "CVR", "CTCVR"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, manifest in made.items():
        table.add_row(split, f"{manifest.num_rows:,}", *(f"{manifest.ceiling[t]:.4f}" for t in ("ctr", "cvr", "ctcvr")))
    Console().print(table)


if __name__ == "__main__":
    run(main)
