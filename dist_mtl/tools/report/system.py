"""What the run was made of and what happened to it: data, sharding plan, events, configuration, versions."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dist_mtl.tools.report.blocks import Cell, Code, Column, Fact, Facts, Figure, Pair, Section, Table
from dist_mtl.tools.report.charts import Bar, bars, histogram
from dist_mtl.tools.report.event_log import Run
from dist_mtl.tools.report.event_schema import (
    AnyEvent,
    Commit,
    DataFolder,
    Done,
    EarlyStop,
    Evaluation,
    Placement,
    Quarantine,
    Resume,
    SampleLogs,
    Skip,
    Start,
)
from dist_mtl.tools.report.number_format import count, duration, fixed, moment, percent, plural, ranges, size
from dist_mtl.tools.report.training import progress

MOST_TABLES = 60  # rows of the plan; the largest tables are shown
MOST_COLUMNS = 80
MOST_LINES = 120
MOST_RANKS = 16  # bars; more ranks are told as a histogram
FLOAT = 4  # bytes of a weight


def sections(run: Run) -> tuple[Section, ...]:
    """Data, plan, events, configuration."""
    return (_data(run), _plan(run), _events(run), _configuration(run))


# ----------------------------------------------------------------------------------------------------------------- data
def _data(run: Run) -> Section:
    folders = {name: folder for name, folder in run.start.data.items() if folder is not None}
    blocks: list[Table | Facts] = []
    if folders:
        columns = (Column("Split", numeric=False), *(Column(c) for c in ("Rows", "Files", "Size", "Columns", "Digest")))
        rows = tuple(
            (Cell(name.capitalize(), f.folder), Cell(count(f.rows)), Cell(count(f.files)), Cell(size(f.bytes)),
             Cell(count(len(f.columns)) if f.columns else Cell().text), Cell(f.digest[:12] or Cell().text))
            for name, f in folders.items()
        )  # fmt: skip
        blocks.append(Table(columns, rows))
        blocks += _columns(folders)
    elif run.start.rows is not None:
        where = str(run.configured("data", "train") or "not told")
        blocks.append(Facts((Fact("Training rows", count(run.start.rows)), Fact("Folder", where))))
    return Section(
        "data", "Data", tuple(blocks), missing="" if blocks else "The run's events say nothing about its data."
    )


def _columns(folders: dict[str, DataFolder]) -> list[Facts]:
    first = next((f for f in folders.values() if f.columns), None)
    if first is None:
        return []
    chips = [Fact(name, kind or "") for name, kind in first.columns.items()]
    more = [Fact(f"and {count(len(chips) - MOST_COLUMNS)} more", "")] if len(chips) > MOST_COLUMNS else []
    return [Facts((), "Columns", tuple(chips[:MOST_COLUMNS] + more))]


# ----------------------------------------------------------------------------------------------------------------- plan
def _plan(run: Run) -> Section:
    plan = sorted(run.start.plan, key=lambda p: -_bytes(p))
    if not plan:
        return Section("plan", "Sharding plan", missing="The run's events hold no sharding plan.")
    names = (("Table", False), ("Sharding", False), ("Kernel", False), ("Rows", True), ("Dim", True), ("Size", True))
    columns = (*(Column(name, numeric) for name, numeric in names), Column("Ranks"))
    rows = tuple(_placement(p) for p in plan[:MOST_TABLES])
    rest = plan[MOST_TABLES:]
    note = f"And {plural(len(rest), 'smaller table')}, {size(sum(map(_bytes, rest)))}." if rest else ""
    total = run.start.table_bytes or sum(map(_bytes, plan))
    lede = f"{plural(len(plan), 'table')}, {size(total)} of weights; optimizer states come on top."
    table, chart = Table(columns, rows, note=note), _by_rank(plan)
    return Section("plan", "Sharding plan", (Pair(chart, table) if chart else table,), lede)


def _shape(p: Placement) -> tuple[int, int]:
    """Rows and dim of the whole table, from its shards."""
    ends = [tuple(o + s for o, s in zip(shard.offset, shard.size, strict=False)) for shard in p.shards]
    ends = [end for end in ends if len(end) == 2]
    return (max(r for r, _ in ends), max(c for _, c in ends)) if ends else (0, 0)


def _bytes(p: Placement) -> int:
    rows, dim = _shape(p)
    return rows * dim * FLOAT


def _placement(p: Placement) -> tuple[Cell, ...]:
    rows, dim = _shape(p)
    ranks = ranges([shard.rank for shard in p.shards if shard.rank is not None])
    words = (p.sharding.replace("_", " "), p.kernel.replace("_", " "))
    return (Cell(p.table), *map(Cell, words), Cell(count(rows)), Cell(count(dim)), Cell(size(_bytes(p))), Cell(ranks))


def _by_rank(plan: Sequence[Placement]) -> Figure | None:
    held: dict[int, int] = {}
    for p in plan:
        for shard in p.shards:
            if shard.rank is not None:
                held[shard.rank] = held.get(shard.rank, 0) + int(np.prod(shard.size)) * FLOAT
    if len(held) < 2:
        return None
    values = [held[rank] for rank in sorted(held)]
    mean = sum(values) / len(values)
    note = f"The fullest holds {percent(max(values) / mean - 1, 0)} more than the mean." if mean else ""
    if len(held) <= MOST_RANKS:
        rows = [Bar(f"rank {rank}", held[rank], size(held[rank])) for rank in sorted(held)]
        return bars("Weights on each rank", rows, note)
    counts, edges = np.histogram(np.array(values) / 1e6, bins=24)
    return histogram("Ranks by the weights they hold", edges.tolist(), counts.tolist(), 1, "MB", "ranks")


# --------------------------------------------------------------------------------------------------------------- events
def _events(run: Run) -> Section:
    first = run.attempts[0].began
    columns = (Column("Time", False), Column("Event", False), Column("Step"), Column("What", False))
    rows = [_line(first, group) for group in _grouped(run.log)]
    note = f"And {plural(len(rows) - MOST_LINES, 'more line')}." if len(rows) > MOST_LINES else ""
    blocks: list[Table | Pair] = [Table(columns, tuple(rows[:MOST_LINES]), note=note, shape="log")] if rows else []
    if len(run.attempts) > 1:
        chart = progress(run)
        blocks.insert(0, Pair(chart, _attempts(run)) if chart else _attempts(run))
    began, ended = moment(first), moment(max(a.ended for a in run.attempts))
    when = f"Began {began}." if began == ended else f"Began {began}, last heard of {ended}."
    return Section("events", "Events", tuple(blocks), when if first else "")


def _attempts(run: Run) -> Table:
    columns = (
        Column("Start", False),
        Column("Began", False),
        Column("Ranks"),
        Column("Steps"),
        Column("Time"),
        Column("End", False),
    )
    rows = []
    for k, a in enumerate(run.attempts, start=1):
        later = run.attempts[k].from_step if k < len(run.attempts) else a.last_step
        lost = max(a.last_step - later, 0)
        world = Cell(count(a.world), a.device) if a.world else Cell()
        steps = f"{count(a.from_step + 1)}–{count(a.last_step)}" if a.last_step > a.from_step else Cell().text
        cells = Cell(str(k)), Cell(moment(a.began)), world, Cell(steps), Cell(duration(a.ended - a.began))
        again = f"{plural(lost, 'step')} trained again" if lost else ""
        rows.append((*cells, Cell("finished") if a.finished else Cell("ended", again, "look")))
    return Table(columns, tuple(rows))


def _grouped(log: Sequence[AnyEvent]) -> Iterator[list[AnyEvent]]:
    """Between two events of another kind, the commits of one reason are one line; so are evaluations, and skips."""
    groups: dict[tuple, list[AnyEvent]] = {}
    for event in log:
        match event:
            case Commit(reason=reason) | Skip(reason=reason):
                groups.setdefault((event.event, reason), []).append(event)
            case Evaluation(final=final, data=data):
                groups.setdefault((event.event, final, data), []).append(event)
            case _:
                yield from groups.values()
                yield [event]
                groups = {}
    yield from groups.values()


def _line(first: float, group: list[AnyEvent]) -> tuple[Cell, ...]:
    name, step, what, tone = _words(group)
    return Cell(f"+{_clock(group[0].time - first)}"), Cell(name, tone=tone), Cell(step), Cell(what)


def _clock(seconds: float) -> str:
    """0:31, 1:02:07: time since the beginning."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _words(group: list[AnyEvent]) -> tuple[str, str, str, str]:
    """Name, step, description and tone of a line."""
    e = group[0]
    steps = [one.step for one in group if not isinstance(one, SampleLogs | Start | Done)]
    at = "" if not steps else count(steps[0]) if len(group) == 1 else f"{count(steps[0])}–{count(steps[-1])}"
    match e:
        case SampleLogs():
            return "sample logs", "", f"made in {duration(e.seconds)}", "plain"
        case Start():
            ranks = f"{plural(e.world, 'rank')}, {e.device}" if e.world else e.device
            return "start", "", ranks, "plain"
        case Resume():
            return "resume", at, e.folder, "look"
        case Commit():
            middle = float(np.median([one.seconds or 0.0 for one in group]))
            what = f"in {duration(middle)}" if len(group) == 1 else f"{len(group)} commits, {duration(middle)} each"
            return "commit", at, ", ".join(filter(None, (e.reason, what))), "plain"
        case Evaluation():
            kind = "final evaluation" if e.final else "evaluation"
            many = f"{len(group)} times" if len(group) > 1 else ""
            scores = [fixed(one.score) for one in (group[0], group[-1]) if one.score is not None]
            score = f"score {' to '.join(dict.fromkeys(scores))}" if scores else ""
            return kind, at, ", ".join(filter(None, (many, e.data, score))), "plain"
        case Skip():
            many = f"{len(group)} steps: " if len(group) > 1 else ""
            return "skip", at, many + (e.reason or "no reason given"), "bad"
        case Quarantine():
            return "quarantine", at, f"{e.path}, row group {e.row_group}: {plural(e.rows, 'row')} skipped", "bad"
        case EarlyStop():
            best = f"best was step {count(e.best_step)}" if e.best_step is not None else ""
            score = f"score {fixed(e.best_score)}" if e.best_score is not None else ""
            stale = f"{plural(e.stale, 'evaluation')} without a gain" if e.stale is not None else ""
            return "early stop", at, ", ".join(filter(None, (stale, best, score))), "look"
        case Done():
            return "done", "", f"{plural(e.steps, 'step')} in {duration(e.seconds)}", "good"
    return e.event, at, "", "plain"


# -------------------------------------------------------------------------------------------------------- configuration
def _configuration(run: Run) -> Section:
    blocks = []
    if run.start.config:
        blocks.append(Code("Every key of the configuration", tuple(dotted(run.start.config))))
    if run.start.versions:
        facts = tuple(Fact(name, version or "") for name, version in run.start.versions.items())
        blocks.append(Facts((), "Versions", facts))
    missing = "" if blocks else "The run's events hold no configuration."
    return Section("configuration", "Configuration", tuple(blocks), missing=missing)


def dotted(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`train.epochs = 3`: every value on a line of its own, as --set takes it."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{key}.")
        elif value is None:
            yield f"# {prefix}{key} is not set"
        else:
            yield f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}"
