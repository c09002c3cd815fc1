"""Make a dataset of other data.

One command for each kind of source:
    dist-mtl convert csv my.csv OUT --click clicked --conversion bought --bag tags:; --split-by user
    dist-mtl convert aliexpress NL data/aliexpress_nl         # raw user and item files, or train.csv, test.csv
    dist-mtl convert aliccp SRC data/aliccp --validation 0.05 # skeleton and common features
    dist-mtl convert criteo criteo_attribution_dataset.tsv.gz data/criteo_attribution --validation-days 2
    dist-mtl convert movielens ../shared/data/ml100k data/movielens
    dist-mtl convert manifest FOLDER        # of Parquet files that are there already, or that have changed

A file that is not compressed is read by all cores at once (--jobs), and the datasets are the same with any number. The
lines at the end say what became of every row.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dist_mtl.cli.arguments import Parser, count
from dist_mtl.data.files import manifest
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.workers import cores
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.terminal.console import progress_bars
from dist_mtl.terminal.printable import printable
from dist_mtl.tools.convert import aliccp, aliexpress, criteo, movielens, tabular
from dist_mtl.tools.convert.like import wished
from dist_mtl.tools.convert.lines import bytes_of
from dist_mtl.tools.convert.pattern import like_of
from dist_mtl.tools.convert.split import TRAIN
from dist_mtl.tools.convert.terminal import progress, tell, tell_all
from dist_mtl.tools.describe import terminal
from dist_mtl.tools.describe.description import Wish
from dist_mtl.tools.describe.suggested_config import save, suggestion

ENOUGH = 1_000_000  # bytes of CSV from which a tenth of the rows says when to stop: some 10,000 rows


def main() -> None:
    arguments = parser().parse_args()
    if arguments.source != "manifest":
        convert(arguments)
        return
    listed, done = list_folder(arguments.folder, arguments.append)
    tell(arguments.folder, listed)
    print(done)


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)
    add_public(sources)
    add_csv(sources)
    listing = sources.add_parser("manifest", help="list and checksum the Parquet files of a folder")
    listing.add_argument("folder", help="a path, or a URL such as s3://bucket/logs")
    listing.add_argument("--append", action="store_true", help="read new files only: trust listed paths and sizes")
    return parser


def convert(arguments: argparse.Namespace) -> None:
    """Do what the arguments of a verb of this file ask for, and tell it on stdout."""
    match arguments.source:
        case "movielens":
            convert_movielens(arguments)
        case "aliexpress":
            convert_aliexpress(arguments)
        case "aliccp":
            convert_aliccp(arguments)
        case "criteo":
            convert_criteo(arguments)
        case "csv":
            convert_csv(arguments)


def add_public(sources: "argparse._SubParsersAction[Parser]") -> None:
    """The verbs for public data."""
    films = sources.add_parser("movielens", help="MovieLens-100K")
    films.add_argument("src", help="folder with the derived csv.gz, or with ml-100k.inter, .item and .user")
    films.add_argument("out", help="folder to make")
    films.add_argument("--seed", type=int, default=7, help="of the non-clicks: which are sampled, which are kept")
    films.add_argument("--kept", type=float, default=1.0, help="share of the non-clicks that stays in train and fit")
    films.add_argument("--validation", action="store_true", help="also OUT/fit and OUT/validation, of OUT/train's rows")

    search = sources.add_parser("aliexpress", help="AliExpress searching system, one country")
    search.add_argument("src", help="folder with CC_user_train.csv ..., plain or zipped, or train.csv and test.csv")
    add_out(search)
    search.add_argument("--country", metavar="CC", help="nl, es, fr, us or ru, where SRC holds several")
    add_validation(search, "pages (search_id)")

    ccp = sources.add_parser("aliccp", help="Ali-CCP, Alibaba click and conversion prediction")
    ccp.add_argument("src", help="folder with sample_skeleton_train.csv, common_features_train.csv ... somewhere in it")
    add_out(ccp)
    add_validation(ccp, "users (field 101)")
    ccp.add_argument("--drop-violations", action="store_true", help="leave out rows that convert without a click")
    ccp.add_argument("--many", action="append", default=[], metavar="FIELD", help="a further field of many values")
    ccp.add_argument("--weighted", action="append", default=[], metavar="FIELD", help="a further field with a weight")

    ads = sources.add_parser("criteo", help="Criteo attribution modelling for bidding")
    ads.add_argument("src", help="criteo_attribution_dataset.tsv.gz, or unpacked")
    add_out(ads)
    days = criteo.Days()
    ads.add_argument("--test-from", type=int, default=days.test_from, metavar="DAY", help="(default %(default)s of 30)")
    ads.add_argument("--validation-days", type=int, default=days.validation, metavar="N", help="days before them")


def add_csv(sources: "argparse._SubParsersAction[Parser]") -> None:
    """The verb for anyone's data."""
    table = sources.add_parser("csv", help="CSV files with a click and a conversion column (also .gz, .bz2, .zip)")
    table.add_argument("src", nargs="+")
    add_out(table)
    table.add_argument("--click", metavar="COL[=TEXT]", help="0/1, or 1 where the column holds TEXT")
    table.add_argument("--conversion", metavar="COL[=TEXT]", help="the same; without both the rows are to be scored")
    table.add_argument("--unlabelled", action="store_true", help="leave the label columns out: rows to be scored")
    table.add_argument("--no-funnel", action="store_true", help="a conversion does not imply a click")
    table.add_argument("--like", metavar="DATA|RUN", help="the columns and types of a dataset, or of a run's training")
    table.add_argument("--delimiter", default=",", help="one character, or 'tab'")
    table.add_argument("--names", nargs="+", default=[], metavar="COL", help="the columns of files without a header")
    table.add_argument("--bag", action="append", default=[], metavar="COL:SEP", help="a list of ids, separated by SEP")
    table.add_argument("--id", action="append", default=[], metavar="COL", help="short for --type COL=string")
    typed = "int64, double, string, bool, date, timestamp, ... (default: what holds every value of the column)"
    table.add_argument("--type", action="append", default=[], metavar="COL=TYPE", help=typed)
    missing = "a text that means: no value; --null '' alone: only empty fields do"
    table.add_argument("--null", action="append", default=[], metavar="TOKEN", help=missing)
    table.add_argument("--split-by", metavar="COL", help="rows of one value (a user, a page) stay together")
    table.add_argument("--test", action="append", default=[], metavar="FILE", help="files with the test rows")
    share = "of the values of --split-by (default 0.2), else of the rows at random (default: no test rows)"
    table.add_argument("--test-share", type=float, metavar="SHARE", help=share)
    held_out = "of train's values of --split-by, else rows (default: with --suggest and 1 MB of CSV or more 0.1)"
    table.add_argument("--validation", type=float, metavar="SHARE", help=held_out)
    table.add_argument("--suggest", metavar="FILE", help="write a configuration to train by, as describe does")


def add_out(verb: Parser) -> None:
    """OUT and --jobs."""
    verb.add_argument("out", help="folder to make; its datasets must not exist yet")
    verb.add_argument("--jobs", type=count, default=cores(), help="processes (default: one a core, %(default)s)")


def add_validation(verb: Parser, what: str) -> None:
    """--validation."""
    verb.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE", help=f"of train's {what}, into OUT/validation"
    )


def convert_movielens(arguments: argparse.Namespace) -> None:
    """The `movielens` verb."""
    made = movielens.convert(arguments.src, arguments.out, arguments.seed, arguments.validation, arguments.kept)
    tell_all(arguments.out, made)


def convert_aliexpress(arguments: argparse.Namespace) -> None:
    """The `aliexpress` verb."""
    source = aliexpress.find(arguments.src, arguments.country)
    with progress(source.paths) as on_progress:
        made, tally = aliexpress.convert(source, arguments.out, arguments.validation, arguments.jobs, on_progress)
    tell_all(arguments.out, made, tally)


def convert_aliccp(arguments: argparse.Namespace) -> None:
    """The `aliccp` verb."""
    source = aliccp.find(arguments.src)
    schema = aliccp.Schema((*aliccp.MANY, *arguments.many), (*aliccp.WEIGHTED, *arguments.weighted))
    with progress(source.paths) as on_progress:
        made, tally = aliccp.convert(
            source, arguments.out, arguments.validation, arguments.drop_violations, schema, arguments.jobs, on_progress
        )
    tell_all(arguments.out, made, tally)


def convert_criteo(arguments: argparse.Namespace) -> None:
    """The `criteo` verb."""
    days = criteo.Days(arguments.test_from, arguments.validation_days)
    with progress([arguments.src]) as on_progress:
        made, tally = criteo.convert(arguments.src, arguments.out, days, arguments.jobs, on_progress)
    tell_all(arguments.out, made, tally)


def convert_csv(arguments: argparse.Namespace) -> None:
    """The `csv` verb: convert, then suggest a configuration to start from."""
    source, split = csv_of(arguments), split_of(arguments)
    if arguments.suggest is not None and (source.unlabelled or not source.labels):
        raise ConfigError("--suggest: rows without labels cannot be trained on; name --click and --conversion")
    if arguments.suggest is not None and os.path.lexists(arguments.suggest):  # before hours of work
        raise ConfigError(f"{arguments.suggest}: it is there already; choose with --suggest a file that is not")
    with progress([*source.paths, *split.test_paths] * 2) as on_progress:  # they are read twice
        made = tabular.convert(source, split, arguments.out, arguments.jobs, on_progress)
    train, refused = str(Path(arguments.out) / TRAIN), None
    if made.labels and (source.like is None or arguments.suggest is not None):
        try:
            following = suggest(train, arguments.suggest, arguments.jobs)
        except DataError as error:  # the datasets are there all the same
            following, refused = "no configuration was written", error
    else:
        run = source.like.name if source.like is not None and source.like.is_run else "RUN"
        following = f"next: dist-mtl predict {shlex.quote(run)} {shlex.quote(train)} SCORES"
    tell_all(arguments.out, made.datasets, made.tally)
    for remark in made.remarks:
        print(f"note: {printable(remark)}")
    print(following)
    if refused is not None:
        raise refused


def suggest(train: str, path: str | None, jobs: int) -> str:
    """Write the configuration that `describe --suggest` would, or without a file none. Returns what to do next."""
    if path is None:
        return f"next: dist-mtl describe {shlex.quote(train)} --suggest mine.toml"
    save(suggestion(terminal.described(Wish(train, ranks=jobs))), path)
    return f"configuration in {path}; next: dist-mtl train {shlex.quote(path)}"


def csv_of(arguments: argparse.Namespace) -> tabular.Csv:
    """What the options say of the files. Raises ConfigError."""
    bags = dict(bag.partition(":")[::2] for bag in arguments.bag)
    if len(bags) < len(arguments.bag):
        raise ConfigError(f"--bag: one of {', '.join(arguments.bag)} stands there twice; a column has one separator")
    if lone := [column for column, separator in bags.items() if not separator]:
        raise ConfigError(f"--bag {lone[0]}: write the separator after a colon, e.g. --bag '{lone[0]}:|'")
    delimiter = "\t" if arguments.delimiter in ("tab", "\\t") else arguments.delimiter
    if len(delimiter) != 1:
        raise ConfigError(f"--delimiter {arguments.delimiter!r}: one character, or 'tab'")
    labels = [option.partition("=") if option is not None else (None, "", "") for option in
              (arguments.click, arguments.conversion)]  # fmt: skip
    return tabular.Csv(
        tuple(arguments.src),
        *(column for column, _, _ in labels),
        delimiter=delimiter,
        ids=tuple(arguments.id),
        bags=bags,
        names=tuple(arguments.names),
        positive={column: text for column, equals, text in labels if equals},
        funnel=not arguments.no_funnel,
        types=types_of(arguments.type),
        nulls=tuple(arguments.null),
        like=None if arguments.like is None else like_of(arguments.like),
        unlabelled=arguments.unlabelled,
    )


def types_of(options: Sequence[str]) -> dict[str, pa.DataType]:
    """Column -> type. Raises ConfigError."""
    types: dict[str, pa.DataType] = {}
    for column, kind in map(wished, options):
        if types.setdefault(column, kind) != kind:
            raise ConfigError(f"--type: `{column}` is to be {types[column]} and {kind}; keep one of the two")
    return types


def split_of(arguments: argparse.Namespace) -> tabular.Split:
    """Where the test and validation rows come from. Raises ConfigError."""
    share, by = arguments.test_share, arguments.split_by
    for option, value in (("--test-share", share), ("--validation", arguments.validation or None)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{option} {value}: a share between 0 and 1")
    if arguments.test and share is not None:
        raise ConfigError("--test-share: the test rows are those of --test; remove one of the two")
    if arguments.test and by is not None and not arguments.validation:
        raise ConfigError("--split-by: the test rows are those of --test; add --validation SHARE, or remove it")
    return tabular.Split(tuple(arguments.test), by, share, validation_of(arguments))


def validation_of(arguments: argparse.Namespace) -> float:
    """The share of train's rows to validate on: what is said, else some if a configuration is to stop early by them."""
    if arguments.validation is not None:
        return arguments.validation
    return 0.1 if arguments.suggest is not None and bytes_of(arguments.src) >= ENOUGH else 0.0


def list_folder(place: str, append: bool = False) -> tuple[Manifest, str]:
    """Read and hash every Parquet file below a folder, and write its manifest. Returns it, and what was done in words.

    The words count what the listing passed over, with the first name for each reason (see `contents`).

    `append`: files that the manifest of before lists with the size that they have now keep their entry, and are not
    read: it trusts that nobody changed them in place. (A later run with data.verify = "full" would find out.) Raises
    DataError as `manifest.build` does, or for a folder that can not be written to.
    """
    folder = Folder.of(place)
    known = manifest.read(folder) if append else None
    contents = folder.contents()
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with progress_bars(*columns) as bars:
        bar = bars.add_task("", total=sum(contents.sizes.values()))
        listed = manifest.build(folder, on_bytes=lambda count: bars.advance(bar, count), known=known, contents=contents)
    manifest.write(folder, listed)
    passed = f"; passed over: {contents.words()}" if contents.passed else ""
    if known is None:
        return listed, f"all of them read{passed}"
    kept = set(known.files) & set(listed.files)
    gone = len({file.path for file in known.files} - {file.path for file in listed.files})
    read = len(listed.files) - len(kept)
    return listed, f"{len(kept):,} kept as they were listed, {read:,} read, {gone:,} gone{passed}"
