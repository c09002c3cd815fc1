"""Measure how a model scales: python -m benchmarks.scaling configs/scale.toml.

Starts ranks of its own on this machine, trains a few steps of every point of the scale file (ranks x batch x table
size), side by side, and writes DIR/scale.md, scale.csv, speed.png and split.png, measured beside what was planned.
See benchmarks/scaling/scale_file.py for the file.
"""

import argparse
import shlex
import sys
from pathlib import Path

from benchmarks.scaling.scale_file import read_scale
from dist_mtl.cli.arguments import Parser, run
from dist_mtl.parallel.world import World


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", help="a scale file, e.g. configs/scale.toml")
    arguments = parser.parse_args()
    scale = read_scale(arguments.scale)
    from benchmarks.scaling.measure import measure  # after the file: importing torch takes seconds
    from benchmarks.scaling.page import prepared, write_page
    from benchmarks.scaling.points import series_of
    from dist_mtl.tools.study.cell_results import code_of

    prepared(scale)  # before the hours of measuring
    command = shlex.join(("python", "-m", "benchmarks.scaling", *sys.argv[1:]))
    print(write_page(scale, measure(scale, series_of(scale)), command, code_of(Path(__file__).parents[2])))


if __name__ == "__main__":
    run(main, World.alone)
