"""`python -m dist_mtl VERB`: the verbs that look at a machine and train nothing; those that train are in launch/."""

from __future__ import annotations

from dist_mtl.cli import Parser, run  # first: it holds the descriptors of the standard streams
from dist_mtl.parallel.world import World

from dist_mtl import doctor  # isort: skip


def main() -> int:
    """Run one verb and return its exit code."""
    parser = Parser(prog="python -m dist_mtl", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("doctor", help="say what does not fit together here, and the command that mends it")
    verb.add_argument("--json", action="store_true", help="print findings and problems as JSON")
    verb.set_defaults(run=lambda arguments: doctor.run(as_json=arguments.json))

    verb = verbs.add_parser("verify", help="check every byte of a run's commits, and print a digest of their weights")
    verb.add_argument("folder", metavar="RUN", help="folder of a run")
    verb.set_defaults(run=lambda arguments: verify(arguments.folder))

    arguments = parser.parse_args()
    return arguments.run(arguments)


def verify(run: str) -> int:
    """The verb `verify`; `doctor` must work where torch does not."""
    World.alone()
    from dist_mtl.verify import tell

    return tell(run)


if __name__ == "__main__":
    run(main, World)  # not World.alone: the doctor looks at what a launcher has left
