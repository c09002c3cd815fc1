"""`python -m dist_mtl VERB`: the verbs that look at a machine and train nothing; those that train are in launch/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dist_mtl import doctor


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dist_mtl", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("doctor", help="say what does not fit together here, and the command that mends it")
    verb.add_argument("--json", action="store_true", help="print findings and problems as JSON")
    verb.set_defaults(run=lambda arguments: doctor.run(as_json=arguments.json))

    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
