"""`Folder`: a place that holds a dataset, here or far away, with the few verbs that a dataset needs of it.

A path, file://, and what pyarrow knows itself (s3://, gs://, hdfs://, abfs://); any other URL through fsspec and its
packages, where they are installed (memory://, http://, ...). Reading works everywhere; of writing there is only what
the manifest needs, for datasets are written to local folders.
"""

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from dist_mtl.config.dataset_uri import Place, overlap
from dist_mtl.data.files.contents import Contents, local_contents, remote_contents
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.observability.run_dir import STAGED, check, write_file
from dist_mtl.terminal.printable import printable

T = TypeVar("T")
UNREADABLE = re.compile(r"[\0\ud800-\udfff]")
REFUSED = "reference"  # its index holds templates, which fsspec has run as code before it had a sandbox for them


@dataclass(frozen=True)
class Folder:
    """A folder and the ranges of partitions that are wanted of it. `str` of it is what the user may write again."""

    place: Place

    @classmethod
    def of(cls, place: "str | Path | Folder") -> "Folder":
        """Of its name; a folder is itself. Nothing is opened yet."""
        return place if isinstance(place, Folder) else cls(Place.parse(str(place)))

    def __str__(self) -> str:
        return str(self.place)

    def at(self, path: str) -> str:
        """A file in it, for a message."""
        url = self.place.url if self.place.is_local else self.place.url.partition("?")[0]
        return f"{url.rstrip('/')}/{path}"

    def shares_partitions(self, other: str) -> bool:
        """Whether it and `other` are ranges of partitions of one folder, and not apart: rows that are in both."""
        ranges = self.place.ranges or Place.parse(other).ranges
        return bool(ranges) and overlap(str(self), other)

    @property
    def is_local(self) -> bool:
        """Whether reading costs no journey: few large reads are then no better than many small ones."""
        return isinstance(self._home[0], pafs.LocalFileSystem)

    def open(self, path: str) -> pa.NativeFile:
        """A file to read at any place. Raises OSError, FileNotFoundError among them, DataError for no file of its own.

        (A link may lead within the folder; the folder itself may be one.)
        """
        filesystem, root = self._home
        if self.is_local:
            _check_own(root, path)
        return filesystem.open_input_file(f"{root}/{path}")

    def read_bytes(self, path: str, most: int) -> bytes:
        """All of a small file. Raises OSError; DataError as `open`, or if it has more than `most` bytes."""
        with self.open(path) as file:
            if (size := file.size()) > most:
                raise DataError(
                    f"{self.at(path)}: {size:,} bytes, of which there may be {most:,}; list the folder again"
                )
            return file.read()

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name."""
        filesystem, root = self._home
        return self._reached(lambda: filesystem.get_file_info(f"{root}/{path}")).type != pafs.FileType.NotFound

    def beside(self, name: str) -> str:
        """The name of a file of ours beside the data, as it is here: `name`, else the one that it had without the _.

        Engines pass over names that begin with _, and take any other file for Parquet. Where both are there, `name`
        counts. `name` where neither is there.
        """
        old = name.removeprefix("_")
        return old if not self.exists(name) and self.exists(old) else name

    def identity(self, path: str) -> tuple[int | str, ...]:
        """What two names of one file have in common; in a store, where each name is a file of its own, the name."""
        if self.is_local:
            with suppress(OSError):
                about = os.stat(f"{self._home[1]}/{path}")
                return about.st_dev, about.st_ino
        return (path,)

    def contents(self) -> Contents:
        """What there is to list. Raises DataError: it cannot be reached, or a link is named as data and leads out."""
        filesystem, root = self._home
        return self._reached(lambda: local_contents(root) if self.is_local else remote_contents(filesystem, root))

    def write(self, path: str, content: bytes) -> None:
        """Write a small file: on this machine complete or not at all, elsewhere as far as the store has it so.

        (An object appears when its upload ends; HDFS may show a part, which is no valid manifest.) Raises DataError;
        ConfigError: a link there leads out of the folder.
        """
        filesystem, root = self._home
        try:
            if self.is_local:
                check(root, files=(path, f"{path}{STAGED}"))
                write_file(Path(root, path), content)
            else:
                with filesystem.open_output_stream(f"{root}/{path}") as stream:
                    stream.write(content)
        except (OSError, pa.ArrowException, NotImplementedError) as error:
            raise DataError(f"{self.at(path)}: can not be written: {reason(error)}; make it writable") from None

    def remove(self, path: str) -> None:
        """Remove a file. Raises DataError."""
        filesystem, root = self._home
        try:
            filesystem.delete_file(f"{root}/{path}")
        except (OSError, pa.ArrowException, NotImplementedError) as error:
            raise DataError(f"{self.at(path)}: cannot be removed: {reason(error)}; remove it yourself") from None

    @cached_property
    def _home(self) -> tuple[pafs.FileSystem, str]:
        """The filesystem, and the folder's path in it."""
        if self.place.is_local:
            if not self.place.url or UNREADABLE.search(self.place.url):
                name = printable(self.place.url)
                raise DataError(f"`{name}`: the name is empty, no UTF-8, or holds a NUL; name another folder")
            path = self.place.url.rstrip("/") or "/"
            return pafs.LocalFileSystem(), path if path.startswith("/") else f"./{path}"  # pyarrow takes a:b for a URI
        filesystem, root = self._reached(lambda: _filesystem(self.place.url))
        return filesystem, root.rstrip("/")

    def _reached(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except FileNotFoundError:
            raise DataError(f"{self}: there is no such folder; correct data.train, data.test or the argument") from None
        except NotADirectoryError:
            raise DataError(f"{self}: is no folder; name the folder that it lies in") from None
        except UnicodeEncodeError as error:
            raise DataError(f"{self}: {printable(error.object)}: the name is no UTF-8; rename it") from None
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self}: can not be reached: {reason(error)}; check the URL and the credentials") from None


def _check_own(root: str, path: str) -> None:
    """Raise DataError for what is no file below `root`: opening a pipe waits for ever, a device has no end."""
    name = f"{root}/{path}"
    if not stat.S_ISREG(os.stat(name).st_mode):
        raise DataError(f"{name}: no regular file (a folder, a pipe or a device); take it away and list the folder")
    if not Path(os.path.realpath(name)).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{name}: a link that leads out of the dataset's folder; put the file itself there, or a copy")


def local(place: str | Path) -> Path:
    """The path of a folder to write to. Raises ConfigError for a URL."""
    if not Place.parse(str(place)).is_local:
        raise ConfigError(f"{place}: a dataset is written to a local folder; write one, then copy it there as it is")
    return Path(place)


def reason(error: Exception) -> str:
    """The first line of what a filesystem says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """By pyarrow, else by fsspec. Raises ConfigError for a URL that neither knows, OSError for one out of reach."""
    scheme = urlsplit(url).scheme
    try:
        return pafs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError) as error:
        if scheme == "file":
            raise ConfigError(f"{url}: {reason(error)}; write file:///an/absolute/path, or a plain path") from None
    if REFUSED in (part.partition("://")[0] for part in url.split("::")):
        raise ConfigError(f"{url}: a {REFUSED} filesystem can run code from its index; name the folder that it is of")
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: no filesystem for `{scheme}`: {reason(error)}. Install fsspec and its package for it "
            f"(s3fs, gcsfs, adlfs, ...), or name a folder on this machine"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), root
