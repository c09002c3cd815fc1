"""Check every byte of a run's checkpoints, and print a digest of their weights: dist-mtl verify RUN."""

from dist_mtl.cli.arguments import Parser


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    arguments = parser.parse_args()
    from dist_mtl.checkpoint.verify import tell  # after the arguments: importing torch takes seconds

    return tell(arguments.run)
