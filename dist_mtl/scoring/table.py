"""An evaluation as tables on stdout: each task on its own space, then by slice and within groups."""

from dist_mtl.metrics.task import TaskMetrics
from dist_mtl.scoring.evaluate import Evaluation
from dist_mtl.terminal.console import Console, Table


def print_table(evaluation: Evaluation, title: str) -> None:
    """The end-of-run tables on stdout: each task on its own space; then by slice and within groups, if any."""
    console = Console()
    table = _table(title, ["task", *_columns(bool(evaluation.ceiling))])
    for name, m in evaluation.tasks.items():
        table.add_row(name.upper(), *_cells(m, evaluation.ceiling, name))
    console.print(table)
    for column, slices in evaluation.slices.items():
        table = _table(f"by {column}", [column, "task", *_columns(False)])
        for value, tasks in slices.items():
            for name, m in tasks.items():
                table.add_row(value, name.upper(), *_cells(m, {}, name))
            table.add_section()
        console.print(table)
    for column, tasks in evaluation.groups.items():
        cuts = list(next(iter(tasks.values())).ndcg)
        ranked = [f"NDCG@{k}" for k in cuts]
        table = _table(f"within {column}", ["task", "groups", "GAUC", "+-", "unweighted", *ranked, "MRR", "of groups"])
        for name, g in tasks.items():
            values = (g.gauc, 1.96 * g.gauc_error, g.gauc_unweighted, *(g.ndcg[k] for k in cuts), g.mrr)
            cells = (f"{value:.4f}" for value in values)
            table.add_row(name.upper(), f"{g.groups:,}", *cells, f"{g.groups_with_positive:,}")
        console.print(table)
    for message in evaluation.advice:
        console.print(f"advice: {message}", soft_wrap=True)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title)
    for place, column in enumerate(columns):
        words = place == 0 or column == "task"
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _columns(with_ceiling: bool) -> list[str]:
    known = ["ceiling", "reached"] if with_ceiling else []
    return ["rows", "positives", "AUC", "95 % interval", *known, "logloss", "NE", "PCOC"]


def _cells(m: TaskMetrics, ceilings: dict[str, float], task: str) -> list[str]:
    cells = [f"{m.rows:,.0f}", f"{m.positives:,.0f}", f"{m.auc.value:.4f}", f"{m.auc.low:.4f}-{m.auc.high:.4f}"]
    if ceilings:
        ceiling = ceilings.get(task)
        cells += ["", ""] if ceiling is None else [f"{ceiling:.4f}", f"{(m.auc.value - 0.5) / (ceiling - 0.5):.1%}"]
    return [*cells, f"{m.logloss:.5f}", f"{m.normalised_entropy:.4f}", f"{m.pcoc:.3f}"]
