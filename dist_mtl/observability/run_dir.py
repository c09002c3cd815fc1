"""Everything that a verb writes or deletes is below the folder that it was given, and one run at a time writes there.

A folder that others made cannot lead a write elsewhere: `check` refuses, before anything is written, a name of ours
that is a link out of the folder, a pipe or a device. Every verb that opens a run does it, whether it reads or writes.
The folder itself may be a link, to a larger disk say. (A hard link cannot be distinguished from a file; it needs a
write on the same file system by someone who may link the target.)
"""

import fcntl
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

from dist_mtl.errors import ConfigError

STAGED = ".tmp"  # what is written under this ending and then renamed
WHOLE = ("bad_steps.jsonl", "attempts.json", "report.html", "cell.json")  # files that are staged so
LOGS = ("lock", "train.out", "train.err", "compare.out", "compare.err", "compared-with-*.json")  # of a cell of a study
# What a run and the verbs about a run write into its folder.
FILES = ("events.jsonl", *WHOLE, *(f"{name}{STAGED}" for name in WHOLE), *LOGS)
FOLDERS = ("checkpoints", "tensorboard", "predictions")

MAX_PATH, MAX_NAME = 4096, 255  # bytes of a path and of a name in it, as the kernel has it
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


class HeldFolder:
    """A folder by its descriptor: whether its path still leads to it, and where it is now, for it may be renamed."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._file = Path(path), os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def has_moved(self) -> bool:
        """Whether the path leads to no folder, or to another one. A system call; a disk that does not answer is no."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def now(self) -> Path | None:
        """Its path of this moment; None if it was removed, or the system does not tell (only Linux does)."""
        if not self.has_moved():
            return self._path
        try:
            found = os.readlink(f"/proc/self/fd/{self._file}")
            return Path(found) if os.path.samestat(os.stat(found), os.fstat(self._file)) else None
        except OSError:
            return None

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


def path_problem(text: str) -> str | None:
    """Why no file or folder may be named so; None if it may. A name that is not UTF-8 fits into no JSON or TOML."""
    if not text.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        return f"{text[:80]!r} is no path: it is empty, or has a control character; correct it"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{text[:80]!a} is no path: it is not UTF-8; rename it"
    return f"a path of {size:,} bytes; the system takes {MAX_PATH:,}" if size > MAX_PATH else None


def check_path(path: str | Path) -> None:
    """Raise ConfigError for a text from the command line, or a caller, that is no path of this machine."""
    if problem := path_problem(str(path)):
        raise ConfigError(problem)
    if (longest := max(len(os.fsencode(name)) for name in str(path).split("/"))) > MAX_NAME:
        raise ConfigError(f"{str(path)[:80]}...: a name of {longest:,} bytes; the system takes {MAX_NAME}")


def check_outputs(run_dir: str | Path) -> None:
    """Check the folder of a run, and all that a verb may write into it. Raises ConfigError as `check`."""
    check_path(run_dir)
    check(run_dir, FILES, FOLDERS)


def check(folder: str | Path, files: Sequence[str] = (), folders: Sequence[str] = ()) -> None:
    """Raise ConfigError if a name of these, or one below such a folder, is a link out of `folder`, a pipe or a device,
    or a folder in the place of a file. A name may be a pattern; most are not there, and that is fine."""
    inside = os.path.realpath(folder)
    for pattern in files:
        for path in _named(Path(folder), pattern):
            _check(path, inside, "file")
    for pattern in folders:
        for path in _named(Path(folder), pattern):
            _check(path, inside, "folder")
            for place, below, others in os.walk(path):  # does not follow links
                for name in (*below, *others):
                    _check(Path(place, name), inside, "either")


def check_named(path: str | Path, *folders: str | Path) -> None:
    """Check a path that the user has named, also whether it is below one of these folders. Raises ConfigError."""
    check_path(path)
    whole = Path(os.path.abspath(path))
    for folder in folders:
        if whole.is_relative_to(os.path.abspath(folder)):
            _check(whole, os.path.realpath(folder), "file")


def write_file(path: Path, content: bytes | str) -> None:
    """Write a whole file: a reader sees the one before or the new one. A link in its place is replaced, never followed.
    Raises OSError."""
    staged = path.with_name(f"{path.name}{STAGED}")
    staged.unlink(missing_ok=True)  # of a killed attempt
    with staged.open("xb") as file:  # exclusive: this cannot follow a link either
        file.write(content.encode() if isinstance(content, str) else content)
    staged.replace(path)


def _named(folder: Path, pattern: str) -> list[Path]:
    """What there is of that name; a dangling link, too."""
    if "*" in pattern:
        return sorted(folder.glob(pattern))
    path = folder / pattern
    return [path] if os.path.lexists(path) else []


def _check(path: Path, inside: str, wanted: Literal["file", "folder", "either"]) -> None:
    target = os.path.realpath(path)
    if target in NOWHERE and wanted == "file":
        return
    if not Path(target).is_relative_to(inside):
        raise ConfigError(
            f"{path}: a link that leads out of the folder {inside}, where alone is written; remove it (the folder "
            f"itself may be a link), or choose another folder"
        )
    try:
        kind = os.stat(target).st_mode
    except FileNotFoundError:
        return  # it went meanwhile, or a link to a name within that is not there yet
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; remove it, or choose another folder") from None
    there = "file" if stat.S_ISREG(kind) else "folder" if stat.S_ISDIR(kind) else "pipe or a device"
    if there != wanted and (wanted != "either" or there not in ("file", "folder")):
        expected = "file" if wanted == "either" else wanted
        raise ConfigError(f"{path}: a {there}, where a {expected} is written; remove it, or choose another folder")
