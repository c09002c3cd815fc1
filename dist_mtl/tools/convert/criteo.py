"""Criteo attribution (`criteo_attribution_dataset.tsv.gz`): 30 days of impressions -> datasets cut by time.

A conversion there is one within 30 days after the impression, clicked or not, so `conversion` does not imply `click`.
Both stay as they are, and two labels that do imply it stand beside them; which ones are trained is for `data.labels`:

    click, click_conversion   a funnel: converted, and this impression was clicked; the recipe's choice
    click, last_click         a funnel: attributed to Criteo, and this was the last of the clicks (one row a conversion)
    click, conversion         no funnel: data.funnel = false, model.head = "independent"

`day` is timestamp // 86,400. Never features, because they are known only later: conversion_timestamp, conversion_id,
attribution, click_pos, click_nb, cpo.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert.delimited import Layout, binary, refuse, table_of
from dist_mtl.tools.convert.lines import Block, first_line, segments
from dist_mtl.tools.convert.parts import Conversion, OnProgress
from dist_mtl.tools.convert.split import TEST, TRAIN, VALIDATION
from dist_mtl.tools.convert.tally import Tally

DAY = 86_400  # seconds
LABELS = ("click", "conversion", "attribution")
AMOUNTS = ("cost", "cpo")
WHOLE = (
    "timestamp", "uid", "campaign", "conversion_timestamp", "conversion_id", "click_pos", "click_nb",
    "time_since_last_click", *(f"cat{i}" for i in range(1, 10)),
)  # fmt: skip
TYPES = dict.fromkeys(LABELS, pa.float64()) | dict.fromkeys(AMOUNTS, pa.float64()) | dict.fromkeys(WHOLE, pa.int64())
UNCLICKED = "rows convert without a click: kept, `conversion` is 1 and `click_conversion` 0"


@dataclass(frozen=True)
class Days:
    """Impressions from day `test_from` on are the test split, and the `validation` days before it that one."""

    test_from: int = 25  # of 30: the last five
    validation: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation < self.test_from:
            raise ConfigError(f"{self.validation} validation days before day {self.test_from} leave no train rows")

    @property
    def names(self) -> tuple[str, ...]:
        return (TRAIN, *([VALIDATION] if self.validation else []), TEST)

    def split(self, table: pa.Table, day: np.ndarray) -> dict[str, pa.Table]:
        """The rows by dataset, in their order."""
        edges = np.searchsorted([self.test_from - self.validation, self.test_from], day, side="right")
        wanted = {TRAIN: 0, VALIDATION: 1, TEST: 2}
        return {name: table.filter(pa.array(edges == wanted[name])) for name in self.names}


@dataclass(frozen=True)
class Impressions:
    """`parts.Work`: lines of the file."""

    layout: Layout
    days: Days

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = table_of(block, self.layout)
        tally.read += table.num_rows
        for label in LABELS:
            checked = pa.array(binary(table, label, block, "label"))
            table = table.set_column(table.schema.get_field_index(label), label, checked)
        for name in ("timestamp", "click_pos", "click_nb"):
            refuse(table.column(name).is_null().to_numpy(), block, f"column `{name}` is empty")
        click, conversion, attribution = (table.column(label).to_numpy() for label in LABELS)
        tally.note(UNCLICKED, conversion > click, block)
        is_last = table.column("click_pos").to_numpy() == table.column("click_nb").to_numpy() - 1
        day = table.column("timestamp").to_numpy() // DAY
        table = table.append_column("click_conversion", pa.array(click & conversion))
        table = table.append_column("last_click", pa.array(click & conversion & attribution & is_last))
        table = table.append_column("day", pa.array(day.astype(np.int32)))
        return self.days.split(table, day)


def convert(
    path: str | Path, out: str | Path, days: Days = Days(), jobs: int = 1, on_progress: OnProgress | None = None
) -> tuple[dict[str, Manifest], Tally]:
    """Write OUT/train, OUT/test and, where `days` asks for it, OUT/validation: all or none.

    Raises DataError: the file is absent or malformed (names the line), a label is not 0 or 1, a split has no row.
    """
    work = Impressions(layout_of(path), days)
    with Conversion(out, days.names, jobs, on_progress) as conversion:
        conversion.run(work, segments([path], header=True))
        return conversion.publish(), conversion.tally


def layout_of(path: str | Path) -> Layout:
    """The columns as the header has them. Raises DataError if one is missing, or there is another."""
    names = first_line(path).split("\t")
    if sorted(names) != sorted(TYPES):
        absent, extra = sorted(set(TYPES) - set(names)), sorted({name[:40] for name in names} - set(TYPES))
        detail = ", ".join(f"{what} {which}" for what, which in (("missing", absent), ("extra", extra)) if which)
        raise DataError(
            f"{path}: its header is not that of criteo_attribution_dataset.tsv: {detail or 'a name stands twice'}; "
            f"for other files use `dist-mtl convert csv`"
        )
    return Layout({name: TYPES[name] for name in names}, delimiter="\t")
