"""Make a run's report, one HTML file to open or to send: python launch/report.py RUN [--out FILE]."""

from dist_mtl.cli import Parser, run
from dist_mtl.parallel.world import World
from dist_mtl.report.page import NAME, write


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("--out", metavar="FILE", help=f"where to write it (default RUN/{NAME})")
    arguments = parser.parse_args()
    print(write(arguments.run, arguments.out))


if __name__ == "__main__":
    run(main, World.alone)
