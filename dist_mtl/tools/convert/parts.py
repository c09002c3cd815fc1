"""Segments of raw files -> datasets, on one process or several, published all or none.

Every segment makes files of its own, named after its number, and the manifest lists them in that order: the datasets
are the same, byte for byte, whatever the number of processes.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa

from dist_mtl.data.files.disk import alone, clear, refuse_existing, writing
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.writer import Encoding, Files, publish
from dist_mtl.data.workers import Workers
from dist_mtl.errors import DataError
from dist_mtl.observability.run_dir import check, check_path
from dist_mtl.tools.convert.lines import Block, Segment, blocks
from dist_mtl.tools.convert.tally import Tally

OnProgress = Callable[[int, int], None]  # bytes and rows read since the start
Report = Callable[[int, int], None]  # bytes and rows read since the last report
Reading = Callable[[Segment, Report], Iterator[Any]]  # of a segment, piece by piece
STAGED = ".converting"  # in OUT, while datasets are made


class Work(Protocol):
    """What a kind of raw file needs: blocks of lines -> rows by the name of their dataset. It travels to processes."""

    def tally(self) -> Tally:
        """An empty one, with what this work wants to be counted."""
        ...

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        """The rows of a block. Raises DataError with file and line."""
        ...


class Conversion:
    """Datasets in the making, in a staging folder inside OUT; `with` removes what was not published.

    `jobs`: processes, 1 for this one alone. A program that uses more must be started behind `if __name__ ==
    "__main__"`, since they import it again.
    """

    def __init__(
        self, out: str | Path, names: Sequence[str], jobs: int = 1, on_progress: OnProgress | None = None
    ) -> None:
        self._out, self._names, self._jobs, self._on_progress = Path(out), tuple(names), jobs, on_progress
        check_path(out)
        check(self._out, folders=(STAGED, *self._names))
        for name in names:
            refuse_existing(self._out / name)
        self._listed: dict[str, list[Manifest]] = {name: [] for name in names}
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._staged, self.scratch = self._out / STAGED, self._out / STAGED / "scratch"
        with ExitStack() as ending:
            if not self._out.exists():
                ending.callback(self._remove_empty)
            ending.enter_context(alone(self._staged))
            ending.callback(shutil.rmtree, self._staged, ignore_errors=True)
            with writing(self._out):
                clear(self._staged)  # of a conversion that was killed
                for folder in (self.scratch, *(self._staged / name for name in self._names)):
                    folder.mkdir()
            self._ending = ending.pop_all()
        self._done = [0, 0]  # bytes and rows that this process has read
        self._workers: Workers | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._shared[2] = 1
        self._ending.close()

    def each(self, function: Reading, segments: Sequence[Segment]) -> Iterator[Any]:
        """What `function` yields of every segment, in their order.

        Another process hands over a segment's yields together, and few segments wait; a compressed file, which is one
        segment of any size, is read here and its yields are taken one by one.
        """
        if self._jobs == 1 or len(segments) == 1:
            for segment in segments:
                yield from function(segment, self._report)
            return
        if self._workers is None:
            self._shared = get_context("spawn").Array("q", [0, 0, 0])  # bytes and rows that they read, and a stop flag
            advice = f"nothing was written. Start it again with fewer --jobs than {self._jobs}"
            self._workers = self._ending.enter_context(Workers(self._jobs, advice, _begin, (self._shared,)))
        for found in self._workers.each(partial(_run, function), segments, self._tell):
            yield from found

    def run(self, work: Work, segments: Sequence[Segment]) -> None:
        """Write the rows of `segments`. Raises DataError, of the earliest fault among those found."""
        for listed, tally in self.each(partial(make, work, self._staged), segments):
            for name, parts in listed.items():
                self._listed[name] += parts
            self.tally.add(tally)

    def write(self, name: str, table: pa.Table) -> None:
        """Write a table that is there already, as the rows of a dataset."""
        files = Files(self._staged / name, encoding=encoding_of(table.schema))
        with writing(self._out):
            files.add(table)
            self._listed[name] += files.close()

    def publish(self) -> dict[str, Manifest]:
        """Give the datasets their names: all of them, or none. Raises DataError if one has no rows."""
        if empty := [name for name in self._names if not self._listed[name]]:
            raise DataError("\n".join([f"{self._out / empty[0]}: the source has no rows for it", *self.tally.told()]))
        made: dict[str, Manifest] = {}
        try:
            with writing(self._out):
                for name in self._names:
                    made[name] = publish(self._staged / name, self._out / name, self._listed[name])
        except BaseException:
            for name in made:  # ours: they did not exist when we began
                shutil.rmtree(self._out / name)
            raise
        return made

    def _remove_empty(self) -> None:
        if self._out.exists() and not any(self._out.iterdir()):
            self._out.rmdir()

    def _report(self, num_bytes: int, rows: int) -> None:
        self._done[0] += num_bytes
        self._done[1] += rows
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            theirs = (0, 0) if self._workers is None else self._shared[:2]
            self._on_progress(self._done[0] + theirs[0], self._done[1] + theirs[1])


def make(
    work: Work, folder: Path, segment: Segment, report: Report
) -> Iterator[tuple[dict[str, list[Manifest]], Tally]]:
    """Make the files of one segment below `folder`; yields once: what they are, by dataset, and what was counted."""
    tally, files = work.tally(), {}
    for block in blocks(segment, lambda num_bytes: report(num_bytes, 0)):
        before = tally.read
        for name, table in work.rows(block, tally).items():
            if table.num_rows:
                tally.written[name] += table.num_rows
                if name not in files:
                    stem = f"part-{segment.number:05d}"
                    files[name] = Files(folder / name, stem, encoding=encoding_of(table.schema))
                target = files[name]
                with writing(folder.parent):
                    target.add(table)
        report(0, tally.read - before)
    with writing(folder.parent):
        listed = {name: target.close() for name, target in files.items()}
    yield listed, tally


def encoding_of(schema: pa.Schema) -> Encoding:
    """No dictionary for numbers with a fraction, nor for lists of numbers: those repeat as a whole or not at all.

    Ali-CCP's histories (629 numbers a row) are then written 1.8 times as fast, in 41 % less, and read no slower
    (`benchmarks/figures/convert_parts.py`).
    """
    plain = [f.name for f in schema if not pa.types.is_floating(f.type) and not pa.types.is_list(f.type)]
    texts = [f for f in schema if pa.types.is_list(f.type) and pa.types.is_string(f.type.value_type)]
    return Encoding(dictionary=(*plain, *(f"{field.name}.list.element" for field in texts)))


class _Stopped(Exception):
    """Another segment has failed; this one need not be finished."""


_counters: Any = None  # of a worker: they can be inherited by a process, not sent to it


def _begin(counters: Any) -> None:
    global _counters
    _counters = counters


def _run(function: Reading, segment: Segment) -> list[Any]:
    def report(num_bytes: int, rows: int) -> None:
        with _counters.get_lock():
            if _counters[2]:
                raise _Stopped
            _counters[0] += num_bytes
            _counters[1] += rows

    return list(function(segment, report))
