"""Say what is in a dataset and what is wrong with it: dist-mtl describe DATA [CONFIG] [--html OUT.html]

Reads every row once, in bounded memory, on all cores. Against a CONFIG it also compares tables, lists and numbers with
what the features expect. Ends with a configuration to start from.
"""

from dist_mtl.cli.arguments import Parser, add_overrides, count
from dist_mtl.config.file import load
from dist_mtl.data.workers import cores
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.terminal.console import Console
from dist_mtl.tools.describe import html, terminal
from dist_mtl.tools.describe.description import Wish
from dist_mtl.tools.describe.findings import has_bad
from dist_mtl.tools.describe.suggested_config import save, suggestion


def main() -> None:
    arguments = parser().parse_args()
    if arguments.config is None and arguments.overrides:
        raise ConfigError("--set: there is no configuration to override; name one behind DATA")
    config = load(arguments.config, arguments.overrides) if arguments.config is not None else None
    labels = tuple(arguments.labels.split(",")) if arguments.labels else None
    if labels is not None and config is not None:
        raise ConfigError(f"--labels: {arguments.config} names them already; override it with --set=data.labels=...")
    if arguments.no_funnel and labels is None:
        raise ConfigError("--no-funnel: it is said of --labels, and there are none; a CONFIG has data.funnel")
    wish = Wish(arguments.data, config, labels, not arguments.no_funnel, arguments.day, arguments.ranks)
    description = terminal.described(wish)
    if arguments.suggest is not None:  # the files first: a terminal may be slow or gone
        save(suggestion(description), arguments.suggest)
    report = html.write(description, arguments.html) if arguments.html is not None else None
    terminal.show(description, Console())
    if report is not None:
        print(f"report in {report}")
    if arguments.strict and has_bad(description):
        raise DataError(f"{arguments.data}: see what is marked ✗ above; without --strict it is told only")


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="folder or URL with a manifest; behind ? a range of partitions, day=FIRST..LAST")
    parser.add_argument("config", nargs="?", help="TOML file to compare with")
    add_overrides(parser, "e.g. --set=data.violations=drop")
    parser.add_argument("--labels", help="names, e.g. click,conversion (default: those of CONFIG, else these two)")
    parser.add_argument("--no-funnel", action="store_true", help="no one of --labels implies another")
    parser.add_argument("--day", metavar="COL", help="the column that tells the day (default: by type and name)")
    parser.add_argument("--html", metavar="FILE", help="also write the report as one HTML file")
    parser.add_argument("--suggest", metavar="FILE", help="also write the suggested configuration")
    parser.add_argument("--strict", action="store_true", help="exit 65 if anything would stop or spoil the training")
    parser.add_argument("--ranks", type=count, default=cores(), help="processes (default: one a core, %(default)s)")
    return parser
