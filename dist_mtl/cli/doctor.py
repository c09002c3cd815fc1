"""Say what does not fit together here, and the command that fixes it: dist-mtl doctor [--json]. Needs no package."""

from __future__ import annotations

from dist_mtl.cli.arguments import Parser
from dist_mtl.tools import doctor


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print findings and problems as JSON")
    return doctor.run(as_json=parser.parse_args().json)
