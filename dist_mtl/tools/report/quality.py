"""How good the model is: metrics of the final evaluation, by task, slice and group, and their calibration."""

from collections.abc import Callable

from dist_mtl.tools.report.blocks import Cell, Column, Figure, Figures, Section, Table
from dist_mtl.tools.report.charts import Whisker, reliability, whiskers
from dist_mtl.tools.report.event_log import Run
from dist_mtl.tools.report.event_schema import Evaluation, GroupMetrics, TaskMetrics
from dist_mtl.tools.report.headline import bias_of, label, reached
from dist_mtl.tools.report.number_format import NBSP, count, fixed, interval, known, percent, plural, significant
from dist_mtl.tools.report.svg import tone

MOST_SLICES = 24  # rows of a chart; the largest slices are shown
Ceiling = float | None


def sections(run: Run) -> tuple[Section, ...]:
    """Metrics, slices, groups, calibration."""
    final = run.final
    if final is None:
        return (
            Section("metrics", "Metrics", missing="No evaluation yet. Set data.test, and let the run reach its end."),
        )
    return (_metrics(final), _slices(final), _groups(final), _reliability(final))


# -------------------------------------------------------------------------------------------------------------- metrics
Row = tuple[str, str, Callable[[TaskMetrics, Ceiling], Cell]]

ROWS: tuple[Row, ...] = (
    (
        "AUC",
        "chance that a positive is ranked above a negative",
        lambda m, c: Cell(fixed(m.auc.value), interval(m.auc.low, m.auc.high)),
    ),
    ("Ceiling", "AUC of the true probabilities: no model can do better", lambda m, c: Cell(fixed(c))),
    ("Reached", "of the way from chance to the ceiling", lambda m, c: Cell(percent(reached(m.auc.value, c)))),
    (
        "NE",
        "logloss over the entropy of the base rate; below 1 beats a constant",
        lambda m, c: Cell(fixed(m.normalised_entropy), tone="bad" if (m.normalised_entropy or 0) >= 1 else "plain"),
    ),
    (
        "Logloss",
        "mean of −log of the probability of what happened",
        lambda m, c: Cell(fixed(m.logloss, 5), _between(m.logloss_interval, 5)),
    ),
    (
        "PCOC",
        "predicted over observed positives; 1 is right",
        lambda m, c: Cell(
            fixed(m.pcoc, 3), _between(m.pcoc_interval, 3), "look" if bias_of(m) is not None else "plain"
        ),
    ),
    (
        "ECE",
        "mean distance of predicted from observed over the bins of the reliability plot",
        lambda m, c: Cell(significant(m.calibration_error, 2)),
    ),
    ("Rows", "of this task's space", lambda m, c: Cell(count(m.rows))),
    (
        "Positives",
        "and their share",
        lambda m, c: Cell(count(m.positives), _share(m)),
    ),
)


def _metrics(final: Evaluation) -> Section:
    rows = []
    for name, meaning, cell in ROWS:
        cells = [cell(m, final.ceiling.get(task)) for task, m in final.tasks.items()]
        if any(known_cell(one) for one in cells):
            rows.append((Cell(name, meaning), *cells))
    columns = (Column("Metric", numeric=False), *(Column(label(task)) for task in final.tasks))
    where = final.data or "the test set"
    errors = [m.auc.error for m in final.tasks.values() if known(m.auc.error)]
    bound = (
        f" Small below a value: its 95{NBSP}% interval. The AUC is computed to within {significant(max(errors), 1)}."
        if errors
        else ""
    )
    spaces = " CVR counts clicks only; CTR and CTCVR count all impressions." * ("cvr" in final.tasks)
    lede = f"On {where}, step {count(final.step)}.{spaces}{bound}"
    missing = "" if rows else "The final evaluation holds no metrics."
    return Section("metrics", "Metrics", (Table(columns, tuple(rows), shape="metrics"),) if rows else (), lede, missing)


def _between(ends: tuple[float | None, ...], digits: int) -> str:
    """The words of an interval, none where it is not known."""
    return interval(*ends, digits) if len(ends) == 2 and all(map(known, ends)) else ""


def _share(m: TaskMetrics) -> str:
    return f"{significant(100 * m.positives / m.rows)}{NBSP}%" if m.rows and known(m.positives) else ""


def known_cell(cell: Cell) -> bool:
    return cell.text != Cell().text


# --------------------------------------------------------------------------------------------------------------- slices
def _slices(final: Evaluation) -> Section:
    blocks = tuple(_column(final, column) for column in final.slices if final.slices[column])
    lede = f"AUC with its 95{NBSP}% interval, and PCOC. The dashed line is the AUC over all rows."
    missing = 'To see each day or position apart, set metrics.slices, e.g. metrics.slices = ["day", "position"].'
    return Section("slices", "Slices", blocks, lede if blocks else "", "" if blocks else missing)


def _column(final: Evaluation, column: str) -> Figures:
    values = final.slices[column]
    names = sorted(values, key=lambda value: -max((m.rows or 0 for m in values[value].values()), default=0))
    largest = set(names[:MOST_SLICES])
    shown = [name for name in values if name in largest]  # as an evaluation orders them: buckets by size, `other` last
    figures = []
    for k, (task, whole) in enumerate(final.tasks.items(), start=1):
        rows = [_slice(value, m) for value in shown if (m := values[value].get(task))]
        if rows:
            figures.append(whiskers(label(task), rows, ("AUC", "PCOC"), whole.auc.value, tone(k)))
    more = f"The {MOST_SLICES} largest of {count(len(names))} values." if len(names) > MOST_SLICES else ""
    return Figures(tuple(figures), f"By {column}", more)


def _slice(value: str, m: TaskMetrics) -> Whisker:
    words = (
        f"{value}: AUC {fixed(m.auc.value)} ({interval(m.auc.low, m.auc.high)})\nPCOC {fixed(m.pcoc, 3)}, "
        f"NE {fixed(m.normalised_entropy)}\n{plural(m.rows, 'row')}, {plural(m.positives, 'positive')}"
    )
    return Whisker(value, m.auc.value, m.auc.low, m.auc.high, fixed(m.pcoc, 2), words)


# --------------------------------------------------------------------------------------------------------------- groups
def _groups(final: Evaluation) -> Section:
    blocks = tuple(_group(column, tasks) for column, tasks in final.groups.items() if tasks)
    lede = "Ranking within each group, e.g. one search: what a person who looks at one page of results meets."
    missing = 'For ranking within each search or user, set metrics.groups, e.g. metrics.groups = ["search"].'
    return Section("groups", "Groups", blocks, lede if blocks else "", "" if blocks else missing)


def _group(column: str, tasks: dict[str, GroupMetrics]) -> Table:
    cuts = sorted({k for m in tasks.values() for k in m.ndcg}, key=lambda k: (len(k), k))
    rows: list[tuple[Cell, ...]] = []

    def row(name: str, meaning: str, cell: Callable[[GroupMetrics], Cell]) -> None:
        cells = [cell(m) for m in tasks.values()]
        if any(known_cell(one) for one in cells):
            rows.append((Cell(name, meaning), *cells))

    row("GAUC", "AUC within a group, groups weighted by rows", lambda m: _with_error(m.gauc, m.gauc_error))
    row(
        "Mean AUC",
        "AUC within a group, every group counts the same",
        lambda m: _with_error(m.gauc_unweighted, m.gauc_unweighted_error),
    )
    for k in cuts:
        row(
            f"NDCG@{k}",
            "1 where the positives stand first",
            lambda m, k=k: _with_error(m.ndcg.get(k), m.ndcg_error.get(k)),
        )
    row("MRR", "mean of 1 over the rank of the first positive", lambda m: _with_error(m.mrr, m.mrr_error))
    row("Groups", "with a positive and a negative, of all", lambda m: Cell(count(m.groups), _of_all(m)))
    row("Rows", "of this task's space", lambda m: Cell(count(m.rows)))
    columns = (Column(f"By {column}", numeric=False), *(Column(label(task)) for task in tasks))
    note = f"Below each value: the half-width of its 95{NBSP}% interval."
    return Table(columns, tuple(rows), note=note, shape="metrics")


def _with_error(value: float | None, error: float | None) -> Cell:
    return Cell(fixed(value), f"± {fixed(1.96 * error)}" if known(error) and known(value) else "")


def _of_all(m: GroupMetrics) -> str:
    return f"of {count(m.groups_total)}" if known(m.groups_total) else ""


# ---------------------------------------------------------------------------------------------------------- calibration
def _reliability(final: Evaluation) -> Section:
    figures: list[Figure] = []
    for k, (task, m) in enumerate(final.tasks.items(), start=1):
        value = f"ECE {significant(m.calibration_error, 2)}" if known(m.calibration_error) else ""
        if one := reliability(label(task), m.reliability, tone(k), value, ""):
            figures.append(one)
    lede = (
        f"Observed over predicted probability, with 95{NBSP}% intervals; on the dashed line the model is right. "
        "Above it, it predicts too little."
    )
    missing = "The final evaluation holds no reliability bins."
    blocks = (Figures(tuple(figures)),) if figures else ()
    return Section("calibration", "Calibration", blocks, lede if blocks else "", "" if blocks else missing)
