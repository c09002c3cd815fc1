"""What may happen to a commit on a disk, and what a run then makes of it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.build import build
from dist_mtl.checkpoint import durable_io, store
from dist_mtl.checkpoint import format as commits
from dist_mtl.config import Config
from dist_mtl.errors import DistMtlError
from dist_mtl.parallel.runtime import runtime
from tests.support.fault_workers import watched


@dataclass
class Looked:
    """What a run would do about a commit that something has happened to."""

    what: str
    taken: str | None  # the name of the commit that it would go on from
    told: list[str]


def looks(config: Config, harms: list[tuple[str, Callable[[Path], None]]]) -> list[Looked]:
    """For each harm to the newest commit: what is found. The commit is mended from a copy in between."""
    found = []
    with runtime(config.run) as rt:
        newest = store.latest(config.run.dir)
        copy = Path(tempfile.mkdtemp(dir=newest.parent.parent)) / "copy"
        shutil.copytree(newest, copy)
        for what, harm in harms:
            harm(newest)
            told: list[str] = []
            taken = store.newest_sound(config.run.dir, rt, lambda _, reason, told=told: told.append(reason))
            found.append(Looked(what, taken and taken.name, told))
            for damaged in newest.parent.glob("damaged-*"):
                remove(damaged)
            if newest.exists():
                remove(newest)
            shutil.copytree(copy, newest)
    return found


def looks_without_a_mount(config: Config, victim: int) -> tuple[str, str]:
    """The error of a look for the newest commit where the victim's node shows no file of it."""

    def absent(_: int, moment: str, __: str) -> None:
        if moment == "before":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "the mount")

    with runtime(config.run) as rt:
        try:
            with watched(frozenset((os.open,)), absent if rt.rank == victim else lambda *_: None):
                store.newest_sound(config.run.dir, rt, lambda *_: None)
        except DistMtlError as error:
            return type(error).__name__, str(error)
    return "", ""


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@dataclass(frozen=True)
class Flip:
    """One bit of one file."""

    name: str
    byte: int
    bit: int

    def __call__(self, folder: Path) -> None:
        with open(folder / self.name, "r+b") as file:
            file.seek(self.byte)
            old = file.read(1)[0]
            file.seek(self.byte)
            file.write(bytes([old ^ 1 << self.bit]))


@dataclass(frozen=True)
class Cut:
    """A file that ends early."""

    name: str
    size: int

    def __call__(self, folder: Path) -> None:
        os.truncate(folder / self.name, self.size)


@dataclass(frozen=True)
class Swapped:
    """Two files under each other's names."""

    one: str
    other: str

    def __call__(self, folder: Path) -> None:
        os.rename(folder / self.one, folder / "x")
        os.rename(folder / self.other, folder / self.one)
        os.rename(folder / "x", folder / self.other)


@dataclass(frozen=True)
class Instead:
    """A file replaced by something else: text, a link, a pipe, or nothing."""

    name: str
    kind: str
    text: str = ""

    def __call__(self, folder: Path) -> None:
        path = folder / self.name
        if path.exists():
            path.unlink()
        match self.kind:
            case "text":
                path.write_text(self.text)
            case "link":
                os.symlink(self.text, path)
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()


@dataclass(frozen=True)
class Emptied:
    """The folder without a file."""

    def __call__(self, folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()


@dataclass(frozen=True)
class Rewritten:
    """A description that somebody changed who knows how to make a list of checksums."""

    name: str
    old: str
    new: str

    def __call__(self, folder: Path) -> None:
        path = folder / self.name
        text = path.read_text()
        assert self.old in text, f"{self.name} has no {self.old!r}"
        path.write_text(text.replace(self.old, self.new, 1))
        if self.name == durable_io.SUMS:
            return
        sums = durable_io.read_sums(folder) | {self.name: durable_io.measure(path).checksum}
        (folder / durable_io.SUMS).write_text(durable_io.sums_text(sums))


def loads(config: Config, harms: list[tuple[str, Callable[[Path], None]]]) -> list[tuple[str, str, str] | None]:
    """For each harm to the newest commit: the error of a load, its class and its words; None if it was loaded."""
    found: list[tuple[str, str, str] | None] = []
    with runtime(config.run) as rt:
        model = build(config, rt, 1)
        newest = store.latest(config.run.dir)
        copy = rt.from_first(lambda: Path(tempfile.mkdtemp(dir=newest.parent.parent)) / "copy")
        rt.from_first(lambda: shutil.copytree(newest, copy))
        for what, harm in harms:
            rt.from_first(lambda harm=harm: harm(newest))
            try:
                commits.read(newest)
                store.load(model, newest, rt)
                found.append(None)
            except DistMtlError as error:
                found.append((what, type(error).__name__, str(error)))
            rt.barrier()
            rt.from_first(lambda: (remove(newest), shutil.copytree(copy, newest)))
    return found
