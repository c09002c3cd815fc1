"""Compare methods on backbones over seeds, paired: python launch/study.py STUDY [--jobs N] [--set=a.b=1 ...].

Every backbone x method x seed is an ordinary training run in a process of its own, below the study's DIR/cells. With
[tune], each method's candidates are trained on held-out training rows first. Run it again and it continues: what is
finished is not run again. Writes DIR/study.md, DIR/study.html and DIR/study.json. See dist_mtl/study/study_file.py.
"""

import argparse
import os.path
import shlex
import signal
import sys
from pathlib import Path

from dist_mtl.cli import Parser, add_overrides, count, run
from dist_mtl.parallel.world import World
from dist_mtl.study.plan import open_study


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a study file, e.g. configs/study_movielens.toml")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="processes side by side (default 1)")
    parser.add_argument("--report", action="store_true", help="run nothing, tell of what is finished")
    add_overrides(parser, "of every cell")
    arguments = parser.parse_args()
    plan = open_study(arguments.study, tuple(arguments.overrides))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes of the cells end, too
    from dist_mtl.study.conclude import conclude  # after the plan: importing torch takes seconds
    from dist_mtl.study.run import look, work

    launch = Path(os.path.relpath(Path(__file__).parent))  # commands that others can copy
    worked = look(plan, launch) if arguments.report else work(plan, launch, arguments.jobs)
    conclude(plan, worked, shlex.join(("python", str(launch / "study.py"), *sys.argv[1:])))


if __name__ == "__main__":
    run(main, World.alone)
