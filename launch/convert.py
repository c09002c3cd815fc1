"""Make a dataset of other data.

One command for each kind of source:
    python launch/convert.py csv my.csv OUT --click clicked --conversion bought --bag tags:; --split-by user
    python launch/convert.py movielens ../shared/data/ml100k data/movielens
    python launch/convert.py manifest FOLDER        # of Parquet files that are there already, or that have changed
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dist_mtl.cli import Parser, run
from dist_mtl.data import manifest
from dist_mtl.data.convert import movielens, tabular
from dist_mtl.errors import ConfigError


def main() -> None:
    arguments = parser().parse_args()
    match arguments.source:
        case "movielens":
            options = arguments.seed, arguments.validation, arguments.kept
            made = movielens.convert(arguments.src, arguments.out, *options)
            for name, listed in made.items():
                tell(Path(arguments.out) / name, listed)
        case "csv":
            convert_csv(arguments)
        case "manifest":
            listed = manifest.build(arguments.folder)
            manifest.write(arguments.folder, listed)
            tell(Path(arguments.folder), listed)


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)

    films = sources.add_parser("movielens", help="MovieLens-100K")
    films.add_argument("src", help="folder with the derived csv.gz, or with ml-100k.inter, .item and .user")
    films.add_argument("out", help="folder to make")
    films.add_argument("--seed", type=int, default=7, help="of the non-clicks: which are sampled, which are kept")
    films.add_argument("--kept", type=float, default=1.0, help="share of the non-clicks that stays in train and fit")
    films.add_argument("--validation", action="store_true", help="also OUT/fit and OUT/validation, of OUT/train's rows")

    table = sources.add_parser("csv", help="CSV files with a click and a conversion column (also .gz, .bz2)")
    table.add_argument("src", nargs="+")
    table.add_argument("out", help="folder to make")
    table.add_argument("--click", required=True, metavar="COL")
    table.add_argument("--conversion", required=True, metavar="COL")
    table.add_argument("--delimiter", default=",", help="one character, or 'tab'")
    table.add_argument("--bag", action="append", default=[], metavar="COL:SEP", help="a list of ids, separated by SEP")
    table.add_argument("--id", action="append", default=[], metavar="COL", help="read this column as text, as an id")
    test = table.add_mutually_exclusive_group()
    test.add_argument("--split-by", metavar="COL", help="rows of one value (a user, a page) stay together")
    test.add_argument("--test", action="append", default=[], metavar="FILE", help="files with the test rows")
    table.add_argument("--test-share", type=float, help="share of the values of --split-by (default 0.2)")

    listing = sources.add_parser("manifest", help="list and checksum the Parquet files of a folder")
    listing.add_argument("folder")
    return parser


def convert_csv(arguments: argparse.Namespace) -> None:
    """The `csv` verb: convert, then print a configuration to start from."""
    bags = dict(bag.partition(":")[::2] for bag in arguments.bag)
    if lone := [column for column, separator in bags.items() if not separator]:
        raise ConfigError(f"--bag {lone[0]}: write the separator after a colon, e.g. --bag '{lone[0]}:|'")
    delimiter = "\t" if arguments.delimiter in ("tab", "\\t") else arguments.delimiter
    if len(delimiter) != 1:
        raise ConfigError(f"--delimiter {arguments.delimiter!r}: one character, or 'tab'")
    share = arguments.test_share
    if share is not None and arguments.split_by is None:
        raise ConfigError(f"--test-share {share}: name the column whose values are shared out, --split-by COL")
    source = tabular.Csv(
        tuple(arguments.src), arguments.click, arguments.conversion, delimiter, tuple(arguments.id), bags
    )
    split = tabular.Split(tuple(arguments.test), arguments.split_by, **({} if share is None else {"share": share}))
    columns = TextColumn("{task.description} {task.completed:,.0f} rows"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("read", total=None)
        made = tabular.convert(source, split, arguments.out, lambda rows: bars.advance(bar, rows))
    train, test = Path(arguments.out) / "train", Path(arguments.out) / "test"
    tell(train, made.train)
    if made.test is not None:
        tell(test, made.test)
    print()
    print(made.profile.config(str(train), str(test) if made.test is not None else None))


def tell(folder: Path, listed: manifest.Manifest) -> None:
    """One line about a dataset, on stdout."""
    print(f"{folder}: {listed.num_rows:,} rows in {len(listed.files)} file(s), digest {listed.digest[:16]}")


if __name__ == "__main__":
    run(main)
