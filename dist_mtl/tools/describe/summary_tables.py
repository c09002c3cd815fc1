"""The tables of a description, as words: once for the terminal and for the page."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dist_mtl.config import BagFeature
from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.description import QUANTILES, Description, longer_than, mean_std, quantile
from dist_mtl.tools.describe.leaks import Signal
from dist_mtl.tools.report.blocks import Column
from dist_mtl.tools.report.number_format import MISSING, count, percent, plural, significant, size

SHOWN_VALUES, SHOWN_SIGNALS, SHOWN_DAYS = 5, 12, 62
MOVERS = 3  # columns named for each day


@dataclass(frozen=True)
class Told:
    """A table of texts."""

    anchor: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def headline(d: Description) -> str:
    """Rows, files, bytes."""
    files = len(d.manifest.files)
    total = sum(file.bytes for file in d.manifest.files)
    return (
        f"{d.folder}: {plural(d.counts.rows, 'row')}, {plural(len(d.columns), 'column')}, {plural(files, 'file')}, "
        f"{size(total)}"
    )


def tables(d: Description) -> list[Told]:
    """Those that have rows."""
    made = (_labels(d), _columns(d), _numbers(d), _lists(d), _values(d), _tables(d), _signals(d), _days(d))
    return [table for table in made if table.rows]


def _columns_of(first: str, *others: str, words: tuple[str, ...] = ()) -> tuple[Column, ...]:
    return (Column(first, numeric=False), *(Column(name, numeric=name not in words) for name in others))


def _labels(d: Description) -> Told:
    rows = []
    for task in d.outcomes.tasks:
        positives, negatives = (int(x) for x in task.split(d.counts.class_rows))
        total = positives + negatives
        rows.append((task.name, count(total), count(positives), percent(positives / total, 3) if total else MISSING))
    extra = d.counts.duplicates.extra
    how = "counted" if d.counts.duplicates.is_exact else "estimated from a sample of row hashes"
    note = f"Exact copies of another row: {extra:,} ({how}, by a 64-bit hash of all columns)."
    return Told("labels", "Labels", _columns_of("task", "rows of its space", "positives", "rate"), tuple(rows), note)


def _columns(d: Description) -> Told:
    rows = []
    for name, seen in d.columns.items():
        ids = seen.cardinality
        distinct = MISSING if ids is None else f"{ids.count:,}" if ids.is_exact else f"≈ {ids.count:,}"
        shares = _shares(seen)
        top = f"{shares[0][0]} ({percent(shares[0][1])})" if shares else MISSING
        rows.append((name, seen.column.type, percent(seen.nulls / seen.rows, 2), distinct, top))
    note = "Distinct values are exact below 4,096, else within 3 % (two standard errors of a sketch of hashes)."
    names = _columns_of("column", "type", "null", "distinct", "most frequent", words=("type", "most frequent"))
    return Told("columns", "Columns", names, tuple(rows), note)


def _numbers(d: Description) -> Told:
    rows = []
    for name, seen in d.columns.items():
        moments = mean_std(seen) if seen.column.kind in ("number", "whole") else None
        if moments is not None and not seen.column.is_time:
            figures = [seen.lowest, *(quantile(seen, q) for q in QUANTILES), seen.highest, *moments]
            odd = [percent(x / seen.rows) if x else "0" for x in (seen.zeros, seen.nan, seen.infinite)]
            rows.append((name, *(significant(x, 4) for x in figures), *odd))
    names = _columns_of(
        "number", "min", *(f"P{q * 100:g}" for q in QUANTILES), "max", "mean", "std", "zero", "NaN", "infinite"
    )
    return Told("numbers", "Numbers", names, tuple(rows), "Quantiles are off by one row in 256 or so.")


def _lists(d: Description) -> Told:
    limits = {}
    for name, feature in () if d.config is None else d.config.features.items():
        if isinstance(feature, BagFeature):
            limits[feature.column or name] = feature.max_length
    rows = []
    for name, seen in d.columns.items():
        if seen.column.is_list:
            mean, _ = mean_std(seen) or (0.0, 0.0)
            limit = limits.get(name)
            over = longer_than(seen, limit) if limit else None
            cut = f"{limit:,}: {percent(over / seen.rows, 2)}" if over is not None else MISSING
            median, long = (significant(quantile(seen, q), 4) for q in (0.5, 0.99))
            empty = percent(int(seen.bins[0].sum() + seen.bins[-1].sum()) / seen.rows, 2)
            rows.append((name, empty, significant(mean), median, long, count(seen.highest), cut, count(seen.elements)))
    names = _columns_of("list", "empty", "mean", "median", "P99", "longest", "cut by max_length", "elements")
    return Told("lists", "Lengths of lists", names, tuple(rows))


def _values(d: Description) -> Told:
    rows = []
    for name, seen in d.columns.items():
        if shares := _shares(seen):
            told = ", ".join(f"{word} ({percent(share)})" for word, share in shares[:SHOWN_VALUES])
            rows.append((name, told, percent(sum(share for _, share in shares))))
    note = "Values that were frequent in a first look at rows from all over the dataset; their shares are exact."
    names = _columns_of("column", "most frequent values", "the 32 together", words=("most frequent values",))
    return Told("values", "Frequent values", names, tuple(rows), note)


def _tables(d: Description) -> Told:
    rows = []
    for table in d.tables:
        ids = f"{'' if table.ids.is_exact else '≈ '}{table.ids.count:,}"
        sharing = MISSING if table.sharing is None else percent(table.sharing)
        policies = ", ".join(sorted(table.policies))
        rows.append(
            (table.name, ", ".join(table.columns), policies, count(table.rows), ids, sharing, count(table.outside))
        )
    note = (
        "n ids hashed to m rows: the expected share of the ids that share their row with another one is "
        "1 − (1 − 1/m)^(n − 1)."
    )
    names = _columns_of(
        "table", "columns", "policy", "rows", "distinct ids", "share a row", "outside", words=("columns", "policy")
    )
    return Told("tables", "Tables of the configuration", names, tuple(rows), note)


def _signals(d: Description) -> Told:
    best: dict[tuple[str, str], Signal] = {}
    for signal in d.signals:  # the strongest first
        best.setdefault((signal.column, signal.task), signal)
    shown = list(best.values())[:SHOWN_SIGNALS]
    rows = tuple((s.column, s.task, s.how, f"{s.auc:.4f}", "suspect" if s.is_suspect else "") for s in shown)
    note = (
        "AUC of one column for a label: of its number, of its values' label rates (learned on one half of the rows, "
        "measured on the other; of a sample of 4,096 values where there are more), or of its being missing."
    )
    names = _columns_of("column", "task", "by", "AUC", "", words=("task", "by", ""))
    return Told("suspects", "What single columns tell", names, rows, note)


def _days(d: Description) -> Told:
    return Told(
        "days",
        "Days",
        _columns_of(
            "day",
            "rows",
            *(task.name for task in d.outcomes.tasks),
            "farthest from the first day (PSI)",
            words=("farthest from the first day (PSI)",),
        ),  # fmt: skip
        tuple(_day_rows(d)),
        f"The last {SHOWN_DAYS} of {len(d.days)} days." if len(d.days) > SHOWN_DAYS else "",
    )


def _day_rows(d: Description) -> Iterator[tuple[str, ...]]:
    names = list(d.columns)
    steady = np.array([not seen.column.is_time and seen.column.kind != "label" for seen in d.counts.columns])
    for day in d.days[-SHOWN_DAYS:]:
        rates = (f"{percent(rate, 2)}{' !' if odd else ''}" for rate, odd in zip(day.rates, day.odd, strict=True))
        psi = np.where(steady, np.nan_to_num(day.psi), 0.0)
        movers = [f"{names[i]} {psi[i]:.2f}" for i in np.argsort(-psi)[:MOVERS] if psi[i] >= 0.01]
        yield d.counts.plan.day.word(day.key), count(day.rows), *rates, ", ".join(movers) or MISSING


def _shares(seen: Seen) -> list[tuple[str, float]]:
    """(value, share of the rows; of lists, of their elements), the most frequent first."""
    total = seen.elements if seen.column.is_list else seen.rows
    order = np.argsort(-seen.watched, kind="stable")
    return [(seen.column.words[i], seen.watched[i] / max(1, total)) for i in order if seen.watched[i]]
