"""The first pass over CSV files: what stands in each column, and how many rows each segment has."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from dist_mtl.errors import DataError
from dist_mtl.tools.convert.columns import Columns, Csv
from dist_mtl.tools.convert.evidence import Evidence, Kind, see, shown, type_of
from dist_mtl.tools.convert.lines import Block, Segment, blocks
from dist_mtl.tools.convert.parts import Report
from dist_mtl.tools.convert.remarks import as_null, kept_token, remarks_of, rounded, rows_of
from dist_mtl.tools.convert.values import LOOSE, NULLS, Target, among, labels_of, matches, trimmed, typed


@dataclass
class Survey:
    """What was seen: rows by the number of their segment, and each column's evidence."""

    rows: dict[int, int] = field(default_factory=dict)
    columns: dict[str, Evidence] = field(default_factory=dict)
    empty_lines: int = 0  # of files of one column, where they could be rows

    def add(self, other: "Survey") -> None:
        """Take in what was seen of later segments."""
        self.rows |= other.rows
        self.empty_lines += other.empty_lines
        for name, evidence in other.columns.items():
            self.columns.setdefault(name, Evidence()).add(evidence)

    @property
    def num_rows(self) -> int:
        """Of all segments."""
        return sum(self.rows.values())

    def starts(self) -> dict[int, int]:
        """Segment -> how many rows stand before it."""
        ends = np.cumsum(list(self.rows.values()), dtype=np.int64).tolist()
        return dict(zip(self.rows, [0, *ends], strict=False))


@dataclass(frozen=True)
class Look:
    """`parts.Reading`: see the rows of a segment; yields once. Raises DataError for a line that is none."""

    columns: Columns

    def __call__(self, segment: Segment, report: Report) -> Iterator[Survey]:
        survey = Survey({segment.number: 0}, {name: Evidence() for name in self.columns.written})
        for block in blocks(segment, lambda num_bytes: report(num_bytes, 0)):
            texts = self.columns.texts(block)
            survey.rows[segment.number] += texts.num_rows
            if texts.num_columns == 1:
                survey.empty_lines += block.data.count(b"\n") - texts.num_rows
            for name, evidence in survey.columns.items():
                self._see(evidence, name, texts.column(name).combine_chunks(), block)
        yield survey

    def _see(self, evidence: Evidence, name: str, text: pa.Array, block: Block) -> None:
        columns = self.columns
        if name in columns.labels:
            _, bad, empty = labels_of(text, columns.source.positive.get(name), columns.source.number_nulls)
            evidence.note(Kind.MISFIT, np.flatnonzero(bad), text, block)
            evidence.note(Kind.EMPTY, np.flatnonzero(empty), text, block)
            return
        target = columns.fixed.get(name)
        if target is None:
            see(evidence, text, block, columns.source.number_nulls)
            return
        if pa.types.is_string(target.kind):
            evidence.note(Kind.TOKEN, np.flatnonzero(among(text, NULLS[1:])), text, block)
            return
        if pa.types.is_float64(target.kind) and not target.separator:
            see(evidence, text, block, target.nulls)  # for the digits that a double does not hold
        _, bad = typed(text, target)
        if bad is not None:
            evidence.note(Kind.MISFIT, np.flatnonzero(bad), text, block)
        if not target.exact:
            _, other = typed(text, replace(target, exact=True))
            if other is not None:
                evidence.note(Kind.LOOSE, np.flatnonzero(other if bad is None else other & ~bad), text, block)


@dataclass(frozen=True)
class Plan:
    """What is written: the labels, the targets of all other columns, and `remarks`, lines for the user."""

    columns: Columns
    targets: dict[str, Target]
    labels: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def source(self) -> Csv:
        """What the options say."""
        return self.columns.source

    @property
    def funnel(self) -> bool:
        """Whether a label implies the one before it."""
        return self.source.funnel and (self.source.like is None or self.source.like.funnel)

    @property
    def written(self) -> tuple[str, ...]:
        """The columns of the dataset."""
        return tuple(name for name in self.columns.written if name in self.targets or name in self.labels)


def planned(columns: Columns, survey: Survey) -> Plan:
    """Decide the types of all columns. Raises DataError, of all columns: a value that does not have the type that was
    asked for, a label that is empty or neither 0 nor 1."""
    if not survey.num_rows:
        raise DataError(f"{next(iter(columns.of_path))}: there are no rows in it")
    source, remarks = columns.source, list(columns.remarks)
    labels, problems = _labels(columns, survey, remarks)
    if survey.empty_lines:
        remarks.append(f'{survey.empty_lines:,} empty line(s) are no rows; a row without a value is written ""')
    targets = {}
    for name in columns.written:
        if name in columns.labels:
            continue
        evidence = survey.columns[name]
        if name in columns.fixed:
            targets[name] = columns.fixed[name]
            problems += _misfits(name, targets[name], evidence, source, survey.num_rows)
            remarks += _said(name, targets[name], evidence, source)
        else:
            targets[name] = source.target(type_of(evidence))
            remarks += remarks_of(name, evidence, source.nulls)
    if problems:
        raise DataError("\n".join(problems))
    return Plan(columns, targets, labels, tuple(remarks))


def _labels(columns: Columns, survey: Survey, remarks: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The labels that are written, and what is wrong with them. Labels of which nothing is known are left out."""
    rows, evidence = survey.num_rows, {name: survey.columns[name] for name in columns.labels}
    if evidence and columns.source.like is not None and all(e.counts[Kind.EMPTY] == rows for e in evidence.values()):
        names = ", ".join(f"`{name}`" for name in evidence)
        remarks.append(f"{names}: left out, for all rows are empty there: the rows can be scored, not trained on")
        return (), []
    problems = []
    for name, seen in evidence.items():
        if count := seen.counts[Kind.MISFIT]:
            text, place = seen.firsts[Kind.MISFIT]
            option = "--click" if name == columns.labels[0] else "--conversion"
            problems.append(
                f"{place}: label `{name}` is {shown(text)}, not 0 or 1 ({of(count, rows)}); name the text that means 1 "
                f"with {option} '{name}=TEXT'"
            )
        if count := seen.counts[Kind.EMPTY]:
            problems.append(
                f"{seen.firsts[Kind.EMPTY][1]}: label `{name}` is empty ({of(count, rows)}); give the rows without "
                f"labels a file of their own, or leave the labels of all out with --unlabelled, to score them"
            )
    return columns.labels, problems


def _misfits(name: str, target: Target, evidence: Evidence, source: Csv, rows: int) -> list[str]:
    """The line about values that do not have a type that was asked for."""
    if not (count := evidence.counts[Kind.MISFIT]):
        return []
    text, place = evidence.firsts[Kind.MISFIT]
    by_pattern = source.like is not None and name in source.like.types
    asked = f"as in {source.like.name}" if by_pattern else f"--type {name}={target.kind}"
    loose = pa.types.is_integer(target.kind) and matches(trimmed(pa.array([text])), LOOSE)[0]
    if by_pattern and loose:
        other = f", or read it as the number with --type {shlex.quote(name)}={target.kind}"
    else:
        text_too = "" if target.separator else f"; --id {shlex.quote(name)} reads text"
        other = "" if by_pattern else f", or choose another --type{text_too}"
    what = f"list of {target.kind}" if target.separator else str(target.kind)
    missing = f", or read it as missing with {as_null(text)}" if not target.separator else ""
    return [
        f"{place}: column `{name}` holds {shown(text)}, which is no {what} ({asked}; {of(count, rows)}); "
        f"correct it{missing}{other}"
    ]


def _said(name: str, target: Target, evidence: Evidence, source: Csv) -> list[str]:
    """Lines about values that have the type that was asked for, but would not come back as they are written."""
    n, lines = evidence.counts, []
    if n[Kind.LOOSE]:
        lines.append(
            f"`{name}`: {rows_of(n[Kind.LOOSE])} a whole number written otherwise ({evidence.first(Kind.LOOSE)}); "
            f"it is read as the number"
        )
    if n[Kind.ROUNDED] or n[Kind.BIG]:
        lines.append(rounded(name, evidence))
    if source.like is None and n[Kind.TOKEN]:
        lines += kept_token(name, evidence, source.nulls)
    return lines


def of(count: int, rows: int) -> str:
    """`1 of 20 rows`."""
    return f"{count:,} of {rows:,} rows"
