"""Make a run's report, one HTML file to open or to send: dist-mtl report RUN [--out FILE]."""

from dist_mtl.cli.arguments import Parser
from dist_mtl.tools.report.page import NAME, write


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("--out", metavar="FILE", help=f"where to write it (default RUN/{NAME})")
    arguments = parser.parse_args()
    print(write(arguments.run, arguments.out))
