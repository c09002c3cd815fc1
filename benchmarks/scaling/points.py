"""What is measured: one model at one number of ranks, with one batch and one size of its tables; and what is compared
with what.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.scaling.scale_file import STEPS_PER_WINDOW, Scale, base_of, with_rows
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.errors import ConfigError


@dataclass(frozen=True)
class Point:
    """`rows`: of each table; None: as the configuration has them."""

    ranks: int
    rows: int | None
    global_batch: int
    config: Config

    @property
    def label(self) -> str:
        tables = "" if self.rows is None else f", {self.rows:,} rows a table"
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}, batch {self.global_batch:,}{tables}"

    @property
    def weight_bytes(self) -> int:
        """Of all tables, over all ranks."""
        return sum(t.rows * t.dim * t.element_bytes for t in self.config.all_tables.values())


@dataclass(frozen=True)
class Series:
    """Points that are measured side by side; each is compared with the first.

    `kind`: weak (the rows of a rank stay), strong (the rows of a step stay), tables (the ranks stay, the tables grow).
    """

    kind: str
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        first = self.points[0]
        if self.kind == "tables":
            return f"tables, {first.ranks} rank{'s' * (first.ranks > 1)}"
        return self.kind if first.rows is None else f"{self.kind}, {first.rows:,} rows a table"


def series_of(scale: Scale) -> list[Series]:
    """All that a scale file asks for. Raises ConfigError."""
    base = base_of(scale)
    return [Series(kind, points) for kind, points in _series(scale, base) if len(points) > 1 or not scale.rows]


def _series(scale: Scale, base: Config) -> Iterator[tuple[str, tuple[Point, ...]]]:
    for rows in scale.rows or (None,):
        for kind in scale.scaling:
            yield kind, tuple(_point(base, scale, kind, ranks, rows) for ranks in scale.ranks)
    if len(scale.rows) > 1:
        yield "tables", tuple(_point(base, scale, "weak", scale.ranks[0], rows) for rows in scale.rows)


def _point(base: Config, scale: Scale, kind: str, ranks: int, rows: int | None) -> Point:
    batch = scale.rows_per_rank * ranks if kind == "weak" else scale.global_batch
    tree = with_rows(base, rows).model_dump(mode="json")
    tree["run"]["dir"] = f"{scale.dir}/run"  # nothing is written there: no commit, no events
    tree["run"]["watchdog"] = False  # a rank stands still while the others are measured
    tree["train"]["global_batch"] = batch
    tree["data"]["shuffle_rows"] = STEPS_PER_WINDOW * batch
    try:
        return Point(ranks, rows, batch, parse(tree))
    except ConfigError as error:
        raise ConfigError(f"a point of {ranks} ranks with a global batch of {batch}: {error}") from None
