"""Settings for every test, made before torch is imported, and inherited by every process that a test starts."""

import os
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])

# One thread a process: sums in one order, and the ranks of a case share few cores.
os.environ["OMP_NUM_THREADS"] = "1"
# The fork server and real subprocesses import dist_mtl from here, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
