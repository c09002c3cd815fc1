"""Fit a run's probabilities to a held-out dataset: dist-mtl recalibrate RUN DATA [--method isotonic].

DATA must be neither what was trained on nor what is tested on. The maps are stored with the commit; dist-mtl evaluate
and dist-mtl predict apply them from then on (--raw: not). Maps of an earlier fit are replaced as a whole: a task that
is not named in --tasks, or whose rows teach no map, has none afterwards.
"""

import argparse
import sys

from dist_mtl.cli.arguments import Parser
from dist_mtl.terminal.printable import printable


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("data", help="a held-out dataset folder")
    parser.add_argument("--method", choices=("platt", "isotonic"), default="platt", help="default: %(default)s")
    parser.add_argument("--tasks", default="", metavar="A,B", help="e.g. ctr,ctcvr (default: all)")
    parser.add_argument("--commit", default="best", metavar="WHICH", help="best (default), latest, or a step")
    arguments = parser.parse_args()
    from dist_mtl.parallel.world import World
    from dist_mtl.scoring.recalibrate import recalibrate_run
    from dist_mtl.scoring.table import print_table  # after the arguments: importing torch takes seconds

    tasks = tuple(name for name in arguments.tasks.split(",") if name)
    done = recalibrate_run(arguments.run, arguments.data, arguments.method, arguments.commit, tasks)
    if World.from_env().is_first:
        for warning in done.warnings:
            print(f"warning: {printable(warning)}", file=sys.stderr)
        print_table(done.before, f"before, on {arguments.data}")
        print_table(done.after, f"after, on the rows that it was fitted to: {done.path}")
