"""Anyone's click / conversion CSV -> datasets, streaming: memory holds a few blocks, whatever the size of the files.

The files are read twice: once to see what stands in each column, so that every value fits the type that the column
gets, once to convert them. Nothing is dropped: rows that break the funnel stay, and are counted, because
`data.violations` decides.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.marks import marked
from dist_mtl.errors import ConfigError
from dist_mtl.tools.convert.columns import Columns, Csv, columns_of, known
from dist_mtl.tools.convert.delimited import refuse
from dist_mtl.tools.convert.lines import Block, segments
from dist_mtl.tools.convert.parts import Conversion, OnProgress
from dist_mtl.tools.convert.split import TEST, TRAIN, VALIDATION, Shares, entities
from dist_mtl.tools.convert.survey import Look, Plan, Survey, planned
from dist_mtl.tools.convert.tally import Tally
from dist_mtl.tools.convert.values import labels_of, typed


@dataclass(frozen=True)
class Split:
    """Where the test and validation rows come from: files of their own, or shares of the rows, drawn by the number of
    each, or of the values of a column (else ConfigError)."""

    test_paths: tuple[str, ...] = ()
    by: str | None = None  # all rows of one value go to one side: a user in both would leak
    share: float | None = None  # to test; without: a fifth of the values of `by`, no test rows without `by`
    validation: float = 0.0  # out of train

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"test share {self.share}: it must lie between 0 and 1, so that both sides have rows")

    @cached_property
    def shares(self) -> Shares:
        """What is split off the train files."""
        default = 0.0 if self.by is None or self.test_paths else 0.2
        return Shares(default if self.share is None else self.share, self.validation)


@dataclass(frozen=True)
class Converted:
    """The datasets that were written, by name, and what became of the rows.

    `remarks`: lines for the user about columns, where a value or a type may not be what was meant.
    """

    datasets: dict[str, Manifest]
    tally: Tally
    labels: tuple[str, ...] = ()  # none: the rows can be scored, not trained on
    remarks: tuple[str, ...] = ()

    @property
    def train(self) -> Manifest:
        return self.datasets[TRAIN]

    @property
    def test(self) -> Manifest | None:
        return self.datasets.get(TEST)

    @property
    def validation(self) -> Manifest | None:
        return self.datasets.get(VALIDATION)


@dataclass(frozen=True)
class Table:
    """`parts.Work`: the rows of CSV blocks. `starts`: how many rows stand before each segment.

    Without `shares` all rows stand in `name`; `by`: the column whose values are shared out, else the rows are.
    """

    plan: Plan
    name: str
    starts: dict[int, int] = field(default_factory=dict)
    by: str | None = None
    shares: Shares = Shares()

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = self._finished(block)
        first = self.starts.get(block.segment.number, 0) + tally.read
        tally.read += table.num_rows
        if self.name != TRAIN or len(self.shares.names) == 1:
            parts = {self.name: table}
        elif self.by is None:
            parts = self.shares.split(table, np.arange(first, first + table.num_rows, dtype=np.uint64))
        else:
            parts = self.shares.split(table, entities(table.column(self.by)))
        self._check_funnel(table, block, tally)
        return parts

    def _finished(self, block: Block) -> pa.Table:
        """Each column as its type, labels marked. Raises DataError: a value that the first pass did not see."""
        plan, texts, fields, columns = self.plan, self.plan.columns.texts(block), [], []
        for name in plan.written:
            text = texts.column(name).combine_chunks()
            if name in plan.labels:
                column, bad, empty = labels_of(text, plan.source.positive.get(name), plan.source.number_nulls)
                bad, field = bad | empty, marked(pa.field(name, column.type), plan.labels.index(name), plan.funnel)
            else:
                column, bad = typed(text, plan.targets[name])
                field = pa.field(name, column.type)
            if bad is not None:
                refuse(bad, block, f"column `{name}` has changed while it was converted; start again")
            fields.append(field)
            columns.append(column)
        return pa.table(columns, pa.schema(fields))

    def _check_funnel(self, table: pa.Table, block: Block, tally: Tally) -> None:
        if not self.plan.funnel:
            return
        for click, conversion in zip(self.plan.labels, self.plan.labels[1:], strict=False):
            note = f"rows have `{conversion}` without `{click}`; kept, data.violations decides"
            tally.note(note, table.column(conversion).to_numpy() > table.column(click).to_numpy(), block)


def convert(
    source: Csv, split: Split, out: str | Path, jobs: int = 1, on_progress: OnProgress | None = None
) -> Converted:
    """Write OUT/train and, where `split` gives them, OUT/validation and OUT/test: all or none.

    The datasets do not depend on `jobs`, the number of processes. Raises DataError: a file is absent or not such a CSV;
    a column is missing (names the nearest); a value does not have the type that was asked for; a label is not 0 or 1
    (names file and line); a dataset exists; a split has no row.
    """
    columns = columns_of(source, (*source.paths, *split.test_paths))
    _check_split(columns, split, source.paths[0])
    train = segments(source.paths, header=not source.names)
    test = segments(split.test_paths, first=len(train), header=not source.names)
    names = dict.fromkeys((*split.shares.names, *([TEST] if test else [])))
    with Conversion(out, tuple(names), jobs, on_progress) as conversion:
        survey = Survey()
        for seen in conversion.each(Look(columns), [*train, *test]):
            survey.add(seen)
        plan = planned(columns, survey)
        conversion.run(Table(plan, TRAIN, survey.starts(), split.by, split.shares), train)
        conversion.run(Table(plan, TEST), test)
        return Converted(conversion.publish(), conversion.tally, plan.labels, plan.remarks)


def _check_split(columns: Columns, split: Split, path: str) -> None:
    if split.by is not None:
        known(split.by, columns.written, "--split-by", path)
        if split.by in columns.source.bags:
            raise ConfigError(f"--split-by {split.by}: a --bag has many values a row; name a column of one value")
