"""Make sample logs with planted truth: python launch/synthesize.py OUT [--rows 1e6] [--kind shop|benchmark] ...

Writes OUT/train and OUT/test, each a dataset with its manifest, and prints the ceiling: the AUC of the true
probabilities, which no model can be expected to beat.
"""

import argparse
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dist_mtl.cli import Parser, count, run
from dist_mtl.config import SampleLogs, Section
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


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder to make; OUT/train and OUT/test must not exist yet")
    parser.add_argument("--rows", type=count, default=1_000_000, help="train rows, e.g. 1e6 (default %(default)s)")
    parser.add_argument("--test-rows", type=count, default=200_000, help="test rows (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ctr", type=float, default=0.05, help="clicks per impression (default %(default)s)")
    parser.add_argument("--cvr", type=float, default=0.10, help="conversions per click (default %(default)s)")
    parser.add_argument("--kind", choices=("shop", "benchmark"), default="shop", help="realistic, or wide")
    # No default here: those of the two kinds stand in their classes, and an option of the other kind is an error.
    shop = parser.add_argument_group("--kind shop")
    shop.add_argument("--users", type=count, help=default_of(SampleLogs, "num_users"))
    shop.add_argument("--items", type=count, help=default_of(SampleLogs, "num_items"))
    benchmark = parser.add_argument_group("--kind benchmark")
    benchmark.add_argument("--ids", type=int, help=f"id columns c0, c1, ... {default_of(BenchmarkLogs, 'ids')}")
    benchmark.add_argument("--dense", type=int, help=f"dense columns d0, d1, ... {default_of(BenchmarkLogs, 'dense')}")
    benchmark.add_argument(
        "--rows-per-table", type=count, help=f"ids of each column {default_of(BenchmarkLogs, 'rows_per_table')}"
    )
    return parser


def default_of(kind: type[Section], field: str) -> str:
    """The words of help for a default."""
    return f"(default {kind.model_fields[field].default:,})"


def spec_of(arguments: argparse.Namespace) -> SampleLogs | BenchmarkLogs:
    """What the arguments ask for; ConfigError for values that can not be, and for options of the other kind."""
    a = arguments
    shop = {"num_users": ("--users", a.users), "num_items": ("--items", a.items)}
    wide = {
        "ids": ("--ids", a.ids),
        "dense": ("--dense", a.dense),
        "rows_per_table": ("--rows-per-table", a.rows_per_table),
    }
    mine, others, other = (shop, wide, "benchmark") if a.kind == "shop" else (wide, shop, "shop")
    for option, value in others.values():
        if value is not None:
            raise ConfigError(f"{option} belongs to --kind {other}, and this is --kind {a.kind}")
    values = {field: value for field, (_, value) in mine.items() if value is not None}
    values |= {"seed": a.seed, "ctr": a.ctr, "cvr": a.cvr}
    try:
        if a.kind == "benchmark":
            return BenchmarkLogs(**values)
        return SampleLogs(train_rows=a.rows, test_rows=a.test_rows, **values)
    except ValidationError as error:
        options = {field: option for field, (option, _) in mine.items()}
        told = [(str(item["loc"][0]), item) for item in error.errors()]
        lines = [f"{options.get(field, f'--{field}')} {item['input']}: {item['msg']}" for field, item in told]
        raise ConfigError("\n".join(lines)) from None


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
