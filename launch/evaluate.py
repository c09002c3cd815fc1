"""Evaluate a run's newest commit: python launch/evaluate.py RUN [--data FOLDER]. On any number of ranks."""

from dist_mtl.cli import Parser, run


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("--data", help="a dataset folder (default: the run's data.test)")
    arguments = parser.parse_args()
    from dist_mtl.evaluate import evaluate_run
    from dist_mtl.observe import print_table  # after the arguments: importing torch takes seconds
    from dist_mtl.parallel.world import World

    evaluation, title = evaluate_run(arguments.run, arguments.data)
    if World.from_env().is_first:
        print_table(evaluation, title)


if __name__ == "__main__":
    run(main)
