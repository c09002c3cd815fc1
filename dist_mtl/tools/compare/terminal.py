"""A comparison on stdout: what differs, the metrics side by side, the verdict."""

import math
from collections.abc import Iterator

from dist_mtl.metrics.paired import Paired
from dist_mtl.terminal.console import Console, Table, styled
from dist_mtl.terminal.wording import plural
from dist_mtl.tools.compare.comparison import Comparison, Side
from dist_mtl.tools.compare.config_diff import Change
from dist_mtl.tools.compare.statistics import TaskDifference
from dist_mtl.tools.compare.verdict import digits_of, p_text

NAMES = {"gauc": "GAUC", "gauc_unweighted": "unweighted"}  # else MRR, NDCG@k
LEFT = ("task", "metric", "key", "table", "package", "slice", "A", "B")
LOSS = 5  # decimals of a logloss


def print_comparison(found: Comparison) -> None:
    """Everything but what only the JSON holds."""
    console = Console()
    for name, side in (("A", found.a), ("B", found.b)):
        console.print(styled(name, "bold"), styled(f" {_side(side)}"))
    console.print(styled(f"on {found.data}, {plural(found.rows, 'row')}; {method(found)}"))
    _print_differences(console, found)
    console.print(_metrics(found))
    for column in next(iter(found.tasks.values())).groups:
        console.print(_groups(found, column))
    for column in found.slices:
        console.print(_slices(found, column))
    for warning in found.verdict.warnings:
        console.print(styled("Warning", "bold"), styled(f" {warning}."))
    sentences = [*(one.words for one in found.verdict.tasks.values()), found.verdict.slices, found.verdict.overall]
    console.print(styled("Verdict", "bold"))
    for sentence in filter(None, sentences):
        console.print(styled(sentence))


def method(found: Comparison) -> str:
    """How the intervals come about, in words."""
    together = (
        "rows are taken as independent (--by COL takes those of one user or search together)"
        if found.by is None
        else f"rows of one `{found.by}` are taken together"
    )
    if found.replicates is not None:
        return f"{together}; AUC by {found.replicates:,} bootstrap replicates"
    return f"{together}; AUC by {'DeLong' if found.by is None else 'cluster-robust DeLong'}"


def _side(side: Side) -> str:
    size = f"{side.parameters.tables:,} weights in tables, {side.parameters.dense:,} elsewhere"
    return f"{side.run}, step {side.step:,}, trained on {side.trained_on} by {plural(side.world, 'rank')}; {size}"


def _print_differences(console: Console, found: Comparison) -> None:
    parts = found.differences
    same = [name for name, changes in (("configuration", parts.config), ("plan", parts.plan)) if not changes]
    if same:
        console.print(f"the same {' and '.join(same)} in A and B")
    tables = (
        ("configuration", "key", parts.config),
        ("sharding plan", "table", parts.plan),
        ("versions", "package", parts.versions),
    )
    for title, column, changes in tables:
        if changes:
            console.print(_changes(title, column, changes))
    if parts.bytes_by_rank[0] != parts.bytes_by_rank[1]:
        told = (", ".join(f"{held / 1e6:,.2f}" for held in side) for side in parts.bytes_by_rank)
        console.print(f"tables by rank, MB: A {next(told)}; B {next(told)}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right", no_wrap=column not in LEFT)
    return table


def _changes(title: str, column: str, changes: dict[str, Change]) -> Table:
    table = _table(title, column, "A", "B")
    for name, change in changes.items():
        table.add_row(name, change.a, change.b)
    return table


def _metrics(found: Comparison) -> Table:
    columns = ("rows", "positives", "value A", "value B", "B - A", "95 % interval", "p", "p, Holm")
    table = _table("metrics", "task", "metric", *columns)
    for name, one in found.tasks.items():
        counts = (name.upper(), "AUC", f"{one.rows:,}", f"{one.positives:,}")
        table.add_row(*counts, *_cells(one.auc, 4), p_cell(one.auc_adjusted))
        for metric, paired, digits in _others(one):
            table.add_row("", metric, "", "", *_cells(paired, digits), "")
        table.add_section()
    return table


def _others(one: TaskDifference) -> Iterator[tuple[str, Paired, int]]:
    yield "logloss", one.logloss, LOSS
    yield "NE", one.normalised_entropy, 4
    yield "PCOC", one.pcoc, 3


def _groups(found: Comparison, column: str) -> Table:
    table = _table(f"within {column}", "task", "metric", "value A", "value B", "B - A", "95 % interval", "p")
    for name, one in found.tasks.items():
        for place, (metric, paired) in enumerate(one.groups[column].items()):
            table.add_row("" if place else name.upper(), NAMES.get(metric, metric.upper()), *_cells(paired, 4))
        table.add_section()
    return table


def _slices(found: Comparison, column: str) -> Table:
    columns = ("rows", "positives", "AUC A", "AUC B", "B - A", "p, Holm", "logloss B - A", "p, Holm")
    table = _table(f"by {column}", "slice", "task", *columns)
    for value, tasks in found.slices[column].items():
        for name, one in tasks.items():
            a, b, difference, _, _ = _cells(one.auc, 4)
            _, _, loss, _, _ = _cells(one.logloss, LOSS)
            counts = (value, name.upper(), f"{one.rows:,}", f"{one.positives:,}")
            adjusted = p_cell(one.auc_adjusted), p_cell(one.logloss_adjusted)
            table.add_row(*counts, a, b, difference, adjusted[0], loss, adjusted[1])
        table.add_section()
    return table


def _cells(paired: Paired, digits: int) -> tuple[str, str, str, str, str]:
    """A, B, the difference, its interval, its p-value."""
    fine = max(digits, digits_of(paired))
    interval = f"{_number(paired.low, fine, sign=True)} to {_number(paired.high, fine, sign=True)}"
    return (
        _number(paired.a, digits),
        _number(paired.b, digits),
        _number(paired.difference, fine, sign=True),
        "--" if math.isnan(paired.low) else interval,
        p_cell(paired.p_value),
    )


def _number(value: float, digits: int, sign: bool = False) -> str:
    if math.isnan(value):
        return "--"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def p_cell(p_value: float) -> str:
    """`0.008`, `<0.001`."""
    return "--" if math.isnan(p_value) else p_text(p_value).removeprefix("p ").removeprefix("= ").replace(" ", "")
