"""Everything that a run writes is below run.dir, and one run at a time writes there.

A run folder that others made can not lead a write elsewhere.

run.dir itself may be a link, to a larger disk say. (A hard link can not be told from a file; it needs a write on the
same file system by someone who may link the target.)
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dist_mtl.errors import ConfigError

# What a run and the scripts about a run write into its folder; .tmp: what is renamed to the name before it.
FILES = ("events.jsonl", "bad_steps.jsonl", "bad_steps.jsonl.tmp", "attempts.json", "attempts.json.tmp", "report.html")
FOLDERS = ("checkpoints", "tensorboard")

NOWHERE = ("/dev/null", "/dev/full")  # where events may be sent that nobody wants
GRACE = 5.0  # seconds that a killed run has to let go of its folder; the kernel takes its memory back first


def claim(file: IO, path: Path) -> None:
    """Hold an open file of a run until it is closed, or the process ends in whatever way.

    Raises ConfigError while another process holds it: where only torchrun's agent was killed its ranks train on (seen,
    torch 2.13), and a second run beside them would take away the commits that they make.
    """
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return  # /dev/null is everybody's
    deadline = time.monotonic() + GRACE
    while not _locked(file):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{path}: another process trains in this folder; wait for its end or end it (`fuser {path}` tells its "
                f"number), or choose another run.dir"
            )
        time.sleep(0.1)


def _locked(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nothing is known there, and a run must not need them
    return True


def check_outputs(run_dir: str | Path) -> None:
    """Raise ConfigError if a name that is written to below `run_dir` is a link out of it, a pipe or a device."""
    inside = os.path.realpath(run_dir)
    for path in _written(Path(run_dir)):
        try:
            kind = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        target = os.path.realpath(path)
        if stat.S_ISLNK(kind) and target not in NOWHERE and not Path(target).is_relative_to(inside):
            raise ConfigError(
                f"{path}: a link that leads out of the run's folder, where a run writes nothing; remove it (run.dir "
                f"itself may be a link), or choose another run.dir"
            )
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
            raise ConfigError(f"{path}: a pipe or a device, where a run writes a file; remove it, or change run.dir")


def _written(run_dir: Path) -> Iterator[Path]:
    yield from (run_dir / name for name in (*FILES, *FOLDERS))
    for name in FOLDERS:
        for folder, below, files in os.walk(run_dir / name):  # does not follow links
            yield from (Path(folder, one) for one in (*below, *files))
