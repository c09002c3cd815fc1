"""How many cases a fault test runs: few in `make test`, the published number in `make faults` (FAULTS=long)."""

import os

LONG = os.environ.get("FAULTS") == "long"


def cases(short: int, long: int) -> int:
    """The number of cases of this lane."""
    return long if LONG else short
