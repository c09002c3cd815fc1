"""Make sample logs with planted truth: dist-mtl synthesize OUT [--rows 1e9 --ranks 16] [--kind shop|benchmark]

Writes OUT/train and OUT/test, each a dataset with its manifest, and prints the ceiling: the AUC of the true
probabilities, which no model can be expected to beat. The rows do not depend on --ranks; a run that was killed goes on.
"""

import argparse
from pathlib import Path
from typing import get_args

from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from dist_mtl.cli.arguments import Parser, count
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.writer import Codec
from dist_mtl.data.synthetic.bulk import Order, encoding_of, make_splits
from dist_mtl.data.synthetic.logs import Split, first_row
from dist_mtl.data.synthetic.request import KINDS, OPTIONS, spec_of
from dist_mtl.data.workers import cores
from dist_mtl.terminal.console import Console, Table, progress_bars, usual_columns


def main() -> None:
    arguments = parser().parse_args()
    orders = orders_of(arguments)
    columns = *usual_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    with progress_bars(*columns) as bars:
        tasks = {split: bars.add_task(split, total=order.num_rows) for split, order in orders.items()}
        made = make_splits(
            orders, Path(arguments.out), arguments.ranks, lambda split, rows: bars.advance(tasks[split], rows)
        )
    print_ceiling(arguments.out, made)


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", help="folder to make; OUT/train and OUT/test must not exist yet")
    parser.add_argument("--rows", type=count, default=1_000_000, help="train rows, e.g. 1e6 (default %(default)s)")
    parser.add_argument("--test-rows", type=count, default=200_000, help="test rows (default %(default)s)")
    parser.add_argument("--ranks", type=count, default=cores(), help="processes (default: one a core, %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ctr", type=float, default=0.05, help="clicks per impression (default %(default)s)")
    parser.add_argument("--cvr", type=float, default=0.10, help="conversions per click (default %(default)s)")
    parser.add_argument("--kind", choices=list(KINDS), default="shop", help="realistic, or wide")
    parser.add_argument("--codec", choices=get_args(Codec), default="zstd", help="lz4 and none are faster and larger")
    parser.add_argument("--by-day", action="store_true", help="a folder a day, day=2025-01-01, ...; no column `day`")
    parser.add_argument("--delayed", action="store_true", help="a column conversion_time: half come within a day")
    groups = {kind: parser.add_argument_group(f"--kind {kind}") for kind in KINDS}
    for option in OPTIONS:
        group = parser if option.kind is None else groups[option.kind]
        group.add_argument(option.name, dest=option.field, type=float, metavar="N", help=option.help)
    return parser


def orders_of(a: argparse.Namespace) -> dict[Split, Order]:
    """What the arguments ask for, split by split."""
    further = {"seed": a.seed, "ctr": a.ctr, "cvr": a.cvr, "delayed": a.delayed}
    further |= {"train_rows": a.rows, "test_rows": a.test_rows}
    spec = spec_of(a.kind, {option.field: getattr(a, option.field) for option in OPTIONS}, further)
    sizes: dict[Split, int] = {"train": a.rows, "test": a.test_rows}
    return {
        split: Order(spec, split, rows, first_row(spec, split, a.rows), a.by_day, encoding_of(spec, a.codec))
        for split, rows in sizes.items()
    }


def print_ceiling(out: str, made: dict[Split, Manifest]) -> None:
    """The table of ceilings on stdout."""
    table = Table(f"{out}: AUC of the true probabilities")
    for column in ("split", "rows", "CTR", "CVR", "CTCVR"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, manifest in made.items():
        table.add_row(split, f"{manifest.num_rows:,}", *(f"{manifest.ceiling[t]:.4f}" for t in ("ctr", "cvr", "ctcvr")))
    Console().print(table)
