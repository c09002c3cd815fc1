"""Measure how a model scales: python launch/scale.py configs/scale.toml.

Starts ranks of its own on this machine, trains a few steps of every point of the scale file (ranks x batch x table
size), side by side, and writes DIR/scale.md, scale.csv, speed.png and split.png, measured beside what was planned.
See dist_mtl/scale/scale_file.py for the file.
"""

import argparse
import shlex
import sys
from pathlib import Path

from dist_mtl.cli import Parser, run
from dist_mtl.parallel.world import World
from dist_mtl.scale.scale_file import read_scale


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", help="a scale file, e.g. configs/scale.toml")
    arguments = parser.parse_args()
    scale = read_scale(arguments.scale)
    from dist_mtl.scale.measure import measure  # after the file: importing torch takes seconds
    from dist_mtl.scale.page import prepared, write_page
    from dist_mtl.scale.points import series_of
    from dist_mtl.study.found import code_of

    prepared(scale)  # before the hours of measuring
    command = shlex.join(("python", "launch/scale.py", *sys.argv[1:]))
    print(write_page(scale, measure(scale, series_of(scale)), command, code_of(Path(__file__).parents[1])))


if __name__ == "__main__":
    run(main, World.alone)
