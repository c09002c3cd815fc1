"""Evaluate a run: dist-mtl evaluate RUN [--data FOLDER] [--set=metrics.slices=[\"day\"]].

On any number of ranks.
"""

from dist_mtl.cli.arguments import Parser, add_overrides


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("--data", help="a dataset folder (default: the run's data.test)")
    parser.add_argument("--commit", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--raw", action="store_true", help="neither correct for sampling nor recalibrate")
    parser.add_argument("--json", metavar="FILE", help="write everything to a file as well")
    add_overrides(parser, "of metrics.* only")
    arguments = parser.parse_args()
    from dist_mtl.observability.events import write_json  # after the arguments: importing torch takes seconds
    from dist_mtl.parallel.world import World
    from dist_mtl.scoring.evaluate import evaluate_run
    from dist_mtl.scoring.table import print_table

    options = {"data": arguments.data, "which": arguments.commit, "raw": arguments.raw}
    evaluation, title = evaluate_run(arguments.run, overrides=arguments.overrides, **options)
    if World.from_env().is_first:
        if arguments.json:
            write_json(arguments.json, evaluation, arguments.run)
        print_table(evaluation, title)
