"""Compare methods on backbones over seeds, paired: dist-mtl study STUDY [--jobs N] [--set=a.b=1 ...].

Every backbone x method x seed is an ordinary training run in a process of its own, below the study's DIR/cells. With
[tune], each method's candidates are trained on held-out training rows first. Run it again and it continues: what is
finished is not run again. Writes DIR/study.md, DIR/study.html and DIR/study.json. The file:
dist_mtl/tools/study/study_file.py.
"""

import argparse
import shlex
import signal
import sys

from dist_mtl.cli.arguments import Parser, add_overrides, count
from dist_mtl.tools.study.cells import open_study


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a study file, or one of the package by its name, e.g. study_movielens")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="processes side by side (default 1)")
    parser.add_argument("--report", action="store_true", help="run nothing, tell of what is finished")
    add_overrides(parser, "of every cell")
    arguments = parser.parse_args()
    plan = open_study(arguments.study, tuple(arguments.overrides))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes of the cells end, too
    from dist_mtl.tools.study.run import look, work
    from dist_mtl.tools.study.write import conclude  # after the plan: importing torch takes seconds

    worked = look(plan) if arguments.report else work(plan, arguments.jobs)
    conclude(plan, worked, shlex.join(("dist-mtl", "study", *sys.argv[1:])))
