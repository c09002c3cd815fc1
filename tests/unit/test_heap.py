"""Freed memory stays with the process: what is taken and freed again and again costs no page faults."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from dist_mtl.parallel.malloc import keep_freed_memory
kept = keep_freed_memory()
def take():
    for size in (1 << 21, 1 << 24):  # 2 and 16 MB
        np.empty(size, np.uint8)[:: 4096] = 1
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    take()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def measured(**environment: str) -> tuple[int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=clean | environment, capture_output=True, text=True)
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


def test_blocks_come_back_without_page_faults() -> None:
    kept, faults = measured()
    if not kept:
        pytest.skip("no glibc here")
    print(f"page faults of ten times 18 MB: {faults}")
    assert faults < 500  # 45,000 if each page was new, in pages of 4 KB


def test_a_choice_of_the_environment_stands() -> None:
    assert measured(MALLOC_TRIM_THRESHOLD_="131072")[0] == 0
