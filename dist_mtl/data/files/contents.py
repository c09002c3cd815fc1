"""What a folder holds: the Parquet files that a listing takes, and all that it passes over, with the reason.

A real file is listed once, under its real path. A link counts only where its target is not listed otherwise, e.g. a
link to a file that has a hidden name. So `latest -> 2024-01-02` and `loop -> .` add no rows.
"""

import errno
import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs

from dist_mtl.errors import DataError
from dist_mtl.terminal.printable import printable

SUFFIX = ".parquet"
HIDDEN = "hidden by _ or . in front"
ENDING = f"without {SUFFIX} at the end"
SAME = "the same as listed ones"
BROKEN = "a link that leads nowhere"
AWAY = "a link out of the folder"
SPECIAL = "no regular file"
# Of ours, beside the data, with the names of before. They are no news.
OURS = tuple(f"{new}{name}.json" for name in ("manifest", "predictions", "sample", "order") for new in ("_", ""))
ALMOST = re.compile(r"\.(parquet|parq|pq)\b", re.IGNORECASE)
MAX_PATH = 4096  # bytes, as the kernel has it
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
CONTROL = re.compile(r"[\0-\x1f\x7f]")


@dataclass
class Contents:
    """Path -> bytes of each file to list, and the names that are passed over by the reason."""

    sizes: dict[str, int] = field(default_factory=dict)
    passed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def words(self) -> str:
        """What was passed over, in words: how many for each reason, with the first name. Empty: nothing."""
        reasons = sorted(self.passed.items())
        return ", ".join(f"{len(names):,} {why} (first: {printable(names[0])})" for why, names in reasons)

    def sorted(self) -> "Contents":
        """The same, in order of the paths; what nearly has the ending of data comes before what has another."""
        passed = {why: sorted(names) for why, names in self.passed.items()}
        passed |= {ENDING: sorted(passed[ENDING], key=lambda path: not ALMOST.search(path))} if ENDING in passed else {}
        return Contents(dict(sorted(self.sizes.items())), passed)

    def add(self, path: str, size: int) -> None:
        """Take a regular file, if it has the ending of data."""
        if path.endswith(SUFFIX):
            self.sizes[path] = size
        elif path not in OURS:
            self.passed[ENDING].append(path)


def fault_of(path: str) -> str | None:
    """Why no dataset can have a file of this name, or None: every reader takes it."""
    pure = PurePosixPath(path)
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if pure.is_absolute() or ".." in pure.parts or "://" in path or not pure.parts:
        return "it is not below the dataset's folder"
    if CONTROL.search(path):
        return "a control character is in its name"
    return f"its name has {size:,} bytes, of which there may be {MAX_PATH:,}" if size > MAX_PATH else None


def local_contents(root: str) -> Contents:
    """Of a folder on this machine. Raises OSError, and DataError for a link that leads out and is named as data."""
    walk = _Walk(root)
    walk.folder("")
    while walk.links:
        links, walk.links = sorted(walk.links), []
        for path in links:
            walk.link(path)
    return walk.contents.sorted()


def remote_contents(filesystem: pafs.FileSystem, root: str) -> Contents:
    """Of a folder in a store, where links are no files. Raises OSError."""
    contents, hidden = Contents(), set()
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        parts = info.path.removeprefix(f"{root}/").split("/")
        path = "/".join(parts)
        depth = next((k for k, part in enumerate(parts) if _is_hidden(part)), None)
        if path in OURS or (info.type == pafs.FileType.Directory and depth is None):
            continue
        if depth is not None:
            hidden.add("/".join(parts[: depth + 1]))
        elif info.is_file:
            contents.add(path, info.size)
        else:
            contents.passed[SPECIAL].append(path)
    if hidden:
        contents.passed[HIDDEN] = list(hidden)
    return contents.sorted()


class _Walk:
    """Through a folder. Invariant: no file and no folder is taken twice, whatever leads to it."""

    def __init__(self, root: str) -> None:
        self._root, self._real = root, os.path.realpath(root)
        self._files: set[tuple[int, ...]] = set()
        self._folders: set[str] = set()  # by their real paths
        self.contents, self.links = Contents(), []

    def folder(self, path: str) -> None:
        """Take what lies below `path`, itself below the root; links are put aside."""
        waiting = [(path, os.path.realpath(self._at(path)))]
        while waiting:
            path, real = waiting.pop()
            if real in self._folders:
                self.contents.passed[SAME].append(path)
                continue
            self._folders.add(real)
            with os.scandir(self._at(path)) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
            for entry in entries:
                below = f"{path}/{entry.name}" if path else entry.name
                if _is_hidden(entry.name):
                    if below not in OURS:
                        self.contents.passed[HIDDEN].append(below)
                elif entry.is_symlink():
                    self.links.append(below)
                elif not entry.is_dir():
                    self._file(below, entry.stat())
            folders = (entry.name for entry in reversed(entries) if entry.is_dir(follow_symlinks=False))
            below = [name for name in folders if not _is_hidden(name)]
            waiting += [(f"{path}/{name}" if path else name, f"{real}/{name}") for name in below]

    def link(self, path: str) -> None:
        """Take what a link leads to, unless it is listed already. Call it once the real folders have been walked."""
        try:
            about = os.stat(self._at(path))
        except OSError as error:
            if error.errno not in NOWHERE:
                raise
            self.contents.passed[BROKEN].append(path)
            return
        if not Path(os.path.realpath(self._at(path))).is_relative_to(self._real):
            self._away(path)
        elif stat.S_ISDIR(about.st_mode):
            self.folder(path)
        else:
            self._file(path, about)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _file(self, path: str, about: os.stat_result) -> None:
        # Size and time beside the inode: some network file systems give two files one number.
        same = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
        if not stat.S_ISREG(about.st_mode):
            self.contents.passed[SPECIAL].append(path)
        elif path.endswith(SUFFIX) and same in self._files:
            self.contents.passed[SAME].append(path)
        else:
            self._files.add(same)
            self.contents.add(path, about.st_size)

    def _away(self, path: str) -> None:
        name = path.rpartition("/")[2]
        if name.endswith(SUFFIX) or "=" in name:  # named as data: its rows would be missed
            raise DataError(
                f"{printable(self._at(path))}: a link that leads out of the dataset's folder; put the file itself "
                f"there, or a copy"
            )
        self.contents.passed[AWAY].append(path)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)  # _day=1 is a partition, as in Spark
