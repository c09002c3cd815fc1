"""Speed against the bare stack and a peer, interleaved: python -m benchmarks.speed [--rows N] [--rechub PYTHON].

Prints rows/s of each contender and the ratios that docs/benchmarks.md reports. `--rechub` is the Python of an
environment with torch-rechub installed; without it that contender is left out. `--methods [CONFIG]` measures instead
what alignment, ranking and balancing cost a step beside the plain model (`make method-costs`).
"""

import argparse

from dist_mtl.cli.arguments import Parser, count, run
from dist_mtl.parallel.world import World


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=count, default=1_000_000, help="rows of each of the 26 tables (default 1,000,000)"
    )
    parser.add_argument("--ranks", type=count, default=1, help="ranks (default 1)")
    parser.add_argument("--threads", type=count, default=1, help="threads of each rank (default 1)")
    parser.add_argument("--rounds", type=count, default=7, help="rounds; a ratio is the median over them (default 7)")
    parser.add_argument("--steps", type=count, default=20, help="steps a round and contender (default 20)")
    parser.add_argument("--logs", type=count, default=1_048_576, help="rows of the benchmark logs (default 1,048,576)")
    parser.add_argument("--folder", default="data/bench", help="where the logs are kept (default data/bench)")
    parser.add_argument("--rechub", metavar="PYTHON", help="the Python of an environment with torch-rechub 0.9")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these contenders, or methods")
    told = "only measure what the methods cost, in the model of this file or the benchmark's"
    modes = parser.add_mutually_exclusive_group()  # each measures one thing alone
    modes.add_argument("--methods", nargs="?", const="", metavar="CONFIG", help=told)
    parser.add_argument("--batch", type=count, help="global batch of --methods (default 8192)")
    parser.add_argument("--passes", type=count, help="how often --methods starts afresh (default 3)")
    modes.add_argument("--loader", action="store_true", help="only the loader, on one core, beside pyarrow and torch")
    modes.add_argument("--shuffle", action="store_true", help="only the quality of the shuffle; needs no data")
    modes.add_argument("--read", type=count, metavar="ROWS", help="only the loader's memory over so many rows")
    modes.add_argument("--profile", action="store_true", help="only profile our step: where the time goes")
    arguments = parser.parse_args()
    if arguments.methods is None and (arguments.batch or arguments.passes):
        parser.error("--batch and --passes belong to --methods")

    from benchmarks.speed.methods import report_methods  # after the arguments: importing torch takes seconds
    from benchmarks.speed.report import entries_of, logs_of, report
    from benchmarks.speed.step_profile import profile

    if arguments.loader or arguments.shuffle or arguments.read:
        from benchmarks.speed import loading, reading, shuffling

        mode = loading if arguments.loader else reading if arguments.read else shuffling
        print(mode.report(arguments))
        return
    if arguments.methods is not None:
        print(report_methods(arguments))
        return
    if arguments.profile:
        shape, folder = logs_of(arguments)
        print(profile(shape, folder, arguments.threads))
        return
    entries = entries_of(arguments.ranks, arguments.threads, arguments.rechub is not None, arguments.only)
    print(report(entries, arguments))


if __name__ == "__main__":
    run(main, World.alone)
