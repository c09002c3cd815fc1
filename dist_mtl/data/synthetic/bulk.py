"""Sample logs of any size, made by many processes: the same bytes for any number of them.

A file is a function of the spec and of its rows, and one process makes all of it. Files get their names when they are
complete, in a folder `.making-NAME` beside the target: a run that was killed goes on with the files that are missing.
The manifest comes last, then one rename publishes the folder.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.bounded import parse_json, read_bytes
from dist_mtl.config import SampleLogs
from dist_mtl.data.files import manifest
from dist_mtl.data.files.disk import alone, refuse_existing, writing
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.writer import FILE_ROWS, Codec, Encoding, Files, publish
from dist_mtl.data.synthetic import timeline
from dist_mtl.data.synthetic.logs import MAX_SPEC, Ceiling, Split, generate
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.data.workers import Workers
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.observability.run_dir import check, check_path

AGAIN = "run the same command again: the files that are complete stay"
ROOM = f"make room, then {AGAIN}"
TOLD = "_order.json"  # beside the files, complete or not: what they are of
OnRows = Callable[[int], None]  # told how many rows came last


@dataclass(frozen=True)
class Order:
    """What is to be made: rows [first_row, first_row + num_rows) of a split, `by_day` in folders day=2025-01-01, ..."""

    spec: SampleLogs | BenchmarkLogs
    split: Split
    num_rows: int
    first_row: int = 0
    by_day: bool = False
    encoding: Encoding = Encoding()
    file_rows: int = FILE_ROWS

    def __post_init__(self) -> None:
        if self.by_day and self.spec.rows_per_day is None:
            raise ConfigError("--by-day: only in the order of time has a row its day; add --rows-per-day")

    def told(self) -> dict[str, Any]:
        """What decides the bytes of the files, for a file of JSON."""
        named = {"split": self.split, "num_rows": self.num_rows, "first_row": self.first_row, "by_day": self.by_day}
        spec = {"kind": type(self.spec).__name__, **self.spec.model_dump(mode="json")}
        return json.loads(json.dumps({**named, "file_rows": self.file_rows, **asdict(self.encoding), "spec": spec}))

    def pieces(self) -> list["Piece"]:
        """The files, in the order of their rows."""
        stop = self.first_row + self.num_rows
        if not self.by_day:
            return list(_cut(self.first_row, stop, self.file_rows, ""))
        a_day = self.spec.rows_per_day
        found: list[Piece] = []
        for day in range(self.first_row // a_day, -(-stop // a_day)):
            first, last = max(self.first_row, day * a_day), min(stop, (day + 1) * a_day)
            found += _cut(first, last, self.file_rows, f"{folder_of(day)}/")
        return found


@dataclass(frozen=True)
class Piece:
    """One file of an order: its rows."""

    path: str
    first_row: int
    rows: int


def encoding_of(spec: SampleLogs | BenchmarkLogs, codec: Codec) -> Encoding:
    """Ids of the wide logs hardly repeat within a row group, so they get no dictionary."""
    few = ("day", "click", "conversion", "conversion_seen")
    return Encoding(codec, few if isinstance(spec, BenchmarkLogs) else None)


def folder_of(day: int) -> str:
    """`day=2025-01-01` for day 0: the folder of a day's files, as Hive names them."""
    return f"day={timeline.date_of(day)}"


def make_splits(
    orders: Mapping[Split, Order], out: Path, ranks: int, on_rows: Callable[[Split, int], None]
) -> dict[Split, manifest.Manifest]:
    """Make each order as OUT/SPLIT; one that a run before completed, which then was killed, stays. Raises DataError."""
    done = {split for split, order in orders.items() if _told_of(out / split) == order.told()}
    made: dict[Split, manifest.Manifest] = {}
    for split, order in orders.items():
        if split in done and len(done) < len(orders):
            made[split] = manifest.read(out / split)
            on_rows(split, order.num_rows)
        else:
            made[split] = make_logs(order, out / split, ranks, partial(on_rows, split))
    return made


def make_logs(order: Order, folder: str | Path, ranks: int = 1, on_rows: OnRows | None = None) -> manifest.Manifest:
    """Make the order as a dataset with its ceiling, on `ranks` processes.

    Raises DataError: `folder` exists; another process makes it, or a half-made one of another order is there; the disk
    is full; so few rows hold no click or no conversion that an AUC is undefined.
    """
    folder = Path(folder)
    staged, pieces, total = folder.parent / f".making-{folder.name}", order.pieces(), Ceiling()
    check_path(folder)
    refuse_existing(folder)
    check(folder.parent, folders=(staged.name,))
    with alone(staged):
        _claim(order, staged)
        parts = []
        ranks = min(ranks, len(pieces))
        advice = f"each takes 0.5 GB, so take fewer --ranks than {ranks}, and {AGAIN}"
        with Workers(ranks, advice) as workers:
            for listed, ceiling in workers.each(partial(make, order, staged), pieces):
                parts.append(listed)
                total.merge(ceiling)
                if on_rows is not None:
                    on_rows(listed.num_rows)
        ceiling = total.auc()
        with writing(staged, ROOM):
            return publish(staged, folder, parts, ceiling)


def make(order: Order, staged: Path, piece: Piece) -> tuple[manifest.Manifest, Ceiling]:
    """Make one file, unless it is there already; describe it. Memory holds a shard."""
    path, ceiling = staged / piece.path, Ceiling()
    if path.exists():
        return _found(staged, piece, ceiling), ceiling
    with writing(path, ROOM):
        workplace = staged / f".{piece.path.replace('/', '-')}"
        shutil.rmtree(workplace, ignore_errors=True)
        workplace.mkdir()
        files = Files(workplace, "part", piece.rows, encoding=order.encoding)
        for table in generate(order.spec, piece.rows, order.split, piece.first_row):
            ceiling.add(table)
            files.add(table.drop_columns(["day"]) if order.by_day else table)
        [listed] = files.close()
        path.parent.mkdir(exist_ok=True)
        os.rename(workplace / listed.files[0].path, path)
        workplace.rmdir()
    return _renamed(listed, piece), ceiling


def _claim(order: Order, staged: Path) -> None:
    """Say of which order the files in `staged` are. Raises DataError if they are of another one."""
    told = order.told()
    if _told_of(staged) not in (None, told):
        raise DataError(
            f"{staged}: holds the unfinished files of other options; run that command again, or remove the folder"
        )
    Folder.of(staged).write(TOLD, (json.dumps(told, indent=1) + "\n").encode())


def _told_of(folder: Path) -> dict[str, Any] | None:
    """What the files in a folder are of; None where nothing says so."""
    path = folder / Folder.of(folder).beside(TOLD)
    try:
        return parse_json(read_bytes(path, MAX_SPEC)) if path.exists() else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not what an earlier command wrote there: {reason}; remove {folder}") from None


def _found(staged: Path, piece: Piece, ceiling: Ceiling) -> manifest.Manifest:
    """A file that an earlier run completed."""
    listed = manifest.of_file(staged, piece.path)
    if listed.num_rows != piece.rows:
        raise DataError(f"{staged / piece.path}: {listed.num_rows} rows, not {piece.rows}; remove {staged}")
    with pq.ParquetFile(staged / piece.path) as file:
        for batch in file.iter_batches(columns=Ceiling.COLUMNS):
            ceiling.add(pa.Table.from_batches([batch]))
    return listed


def _renamed(listed: manifest.Manifest, piece: Piece) -> manifest.Manifest:
    return replace(listed, files=(replace(listed.files[0], path=piece.path),))


def _cut(first: int, stop: int, file_rows: int, folder: str) -> Iterator[Piece]:
    for number, row in enumerate(range(first, stop, file_rows)):
        yield Piece(f"{folder}part-{number:05d}.parquet", row, min(file_rows, stop - row))
