"""How the run went: curves over steps, and what the diagnoses show of the model's inside."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

from dist_mtl.tools.report.blocks import Figure, Figures, Section
from dist_mtl.tools.report.charts import histogram
from dist_mtl.tools.report.curves import Dot, Mark, Rule, areas, lines
from dist_mtl.tools.report.event_log import Run
from dist_mtl.tools.report.event_schema import Counted, Diagnosis, Evaluation, Step
from dist_mtl.tools.report.headline import label
from dist_mtl.tools.report.number_format import (
    count,
    duration,
    fixed,
    interval,
    known,
    percent,
    scaled_bytes,
    significant,
    size,
)
from dist_mtl.tools.report.series import Series, series
from dist_mtl.tools.report.svg import tone

MOST_TABLES = 6  # dynamic tables in one figure
LOG_FROM = 6.0  # ratio of the largest to the smallest loss from which on its axis is logarithmic
PARTS = ("data", "ids", "forward", "backward", "agree", "tables", "update", "metrics")  # of a step, in their order


def sections(run: Run) -> tuple[Section, ...]:
    """Curves, and the inside of the model."""
    return (_curves(run), _inside(run))


def _names(dicts: Iterable[dict[str, object]]) -> list[str]:
    """All keys, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in dicts for name in one))


def restarts(run: Run) -> tuple[Mark, ...]:
    """A line where an attempt took up the run."""
    return tuple(Mark(a.from_step, f"restart from step {count(a.from_step)}") for a in run.attempts[1:] if a.from_step)


def _curves(run: Run) -> Section:
    if not run.steps:
        missing = "No step was reported: the run ended before train.log_every steps."
        return Section("curves", "Curves", missing=missing)
    groups = (
        ("Learning", [*_ranking(run), *_losses(run)]),
        ("Dynamic ids", _dynamic(run)),
        ("Speed and memory", _speed(run)),
    )
    blocks = tuple(Figures(tuple(figures), heading) for heading, figures in groups if figures)
    lede = (
        "AUC, normalised entropy and PCOC are those of a window of training rows, each scored by the step that "
        "trains it; losses are means over the rows since the point before; dots are evaluations. Axes fit what follows "
        "the warm-up."
    )
    return Section("curves", "Curves", blocks, lede + " Dotted lines are restarts." * bool(restarts(run)))


# ------------------------------------------------------------------------------------------------- ranking and losses
def _ranking(run: Run) -> list[Figure]:
    made = []
    marks, warm_up = restarts(run), _window_steps(run)
    tasks = _names([*(e.window for e in run.steps), *(e.tasks for e in run.evaluations)])
    seen = sorted(run.evaluations, key=lambda e: e.step)
    for k, task in enumerate(tasks, start=1):
        rows = [(e.step, w.auc, w.auc_low, w.auc_high) for e in run.steps if (w := e.window.get(task))]
        window = series("training window", rows, tone(k))
        dots = [dot for e in seen if (dot := _dot(e, task, tone(k)))]
        if window is None and len(dots) < 2:
            continue
        ceiling = run.final.ceiling.get(task) if run.final else None
        rules = [Rule(ceiling, f"ceiling {fixed(ceiling)}")] if known(ceiling) else []
        made.append(lines(f"{label(task)} AUC", [window] if window else [], fixed, dots, rules, marks, warm_up=warm_up))
    for title, read, name in (
        ("Normalised entropy", lambda w: w.normalised_entropy, "a constant"),
        ("PCOC", lambda w: w.pcoc, "unbiased"),
    ):
        found = [series(label(t), _window(run, t, read), tone(k)) for k, t in enumerate(tasks, start=1)]
        if found := [one for one in found if one]:
            made.append(
                lines(
                    title,
                    found,
                    lambda v: fixed(v, 3),
                    rules=[Rule(1.0, name)],
                    marks=marks,
                    smoothed=True,
                    warm_up=warm_up,
                )
            )
    return made


def _window_steps(run: Run) -> float:
    """Steps that a row stays in the window: for so long those of the very beginning weigh on its metrics."""
    rows = max((w.rows or 0.0 for w in run.steps[-1].window.values() if w), default=0.0)
    return rows / run.start.global_batch if run.start.global_batch else 0.0


def _window(run: Run, task: str, read: Callable) -> list[tuple[int, float | None]]:
    return [(e.step, read(w)) for e in run.steps if (w := e.window.get(task))]


def _dot(e: Evaluation, task: str, colour: int) -> Dot | None:
    m = e.tasks.get(task)
    if m is None or not known(m.auc.value):
        return None
    kind = "final evaluation" if e.final else "evaluation"
    where = f" on {e.data}" if e.data else ""
    words = f"{kind} at step {count(e.step)}{where}\nAUC {fixed(m.auc.value)} ({interval(m.auc.low, m.auc.high)})"
    return Dot(e.step, m.auc.value, m.auc.low, m.auc.high, words, colour)


def _losses(run: Run) -> list[Figure]:
    made = []
    names = _names(e.losses for e in run.steps)
    found = [
        series(name, [(e.step, e.losses.get(name)) for e in run.steps], tone(k)) for k, name in enumerate(names, 1)
    ]
    if len(names) != 1:
        total = series("total", [(e.step, e.loss) for e in run.steps], 7)
        found = [total, *found] if total else found
    for one in found:
        if one is not None:
            log = one.y.min() > 0 and one.y.max() / one.y.min() > LOG_FROM
            say = significant if np.median(np.abs(one.y)) < 0.01 else fixed
            scale = "Logarithmic axis." if log else ""
            title = f"Loss, {one.name}"
            made.append(lines(title, [one], say, marks=restarts(run), log=log, smoothed=True, note=scale))
    return made


# --------------------------------------------------------------------------------------------------- speed and memory
def _dynamic(run: Run) -> list[Figure]:
    """How many lookups find no row of their own, of the tables where that is most, and how full the tables are."""
    without: dict[str, list[tuple[int, float]]] = {}
    taken: dict[str, list[tuple[int, float]]] = {}
    for before, now in pairwise(run.steps):
        for table, of in now.dynamic.items():
            then = before.dynamic.get(table)
            if then is None or not all(known(v) for one in (then, of) for v in vars(one).values()):
                continue
            if of.lookups > then.lookups:  # not after a restart
                share = (of.fallback - then.fallback) / (of.lookups - then.lookups)
                without.setdefault(table, []).append((now.step, share))
            taken.setdefault(table, []).append((now.step, of.occupied / of.rows))
    worst = sorted(without, key=lambda table: -without[table][-1][1])[:MOST_TABLES]
    made = []
    for title, found in (("Lookups without a row of their own", without), ("Rows taken", taken)):
        drawn = [one for k, table in enumerate(worst, 1) if (one := series(table, found.get(table, []), tone(k)))]
        if drawn:
            made.append(lines(title, drawn, lambda v: percent(v, 1), marks=restarts(run), zero=True))
    return made


def _speed(run: Run) -> list[Figure]:
    made = []
    marks = restarts(run)
    if speed := series("rows/s", [(e.step, e.rows_per_second) for e in run.steps]):
        made.append(lines("Rows per second", [speed], count, marks=marks, zero=True, smoothed=True))
    if split := _split(run.steps, marks):
        made.append(split)
    elif wait := series("data wait", [(e.step, e.data_wait) for e in run.steps]):
        made.append(
            lines("Share of the step that waits for data", [wait], lambda v: percent(v, 1), marks=marks, zero=True)
        )
    if memory := _memory(run, marks):
        made.append(memory)
    return made


def _split(steps: tuple[Step, ...], marks: tuple[Mark, ...]) -> Figure | None:
    timed = [e for e in steps if any(known(v) for v in e.seconds.values())]
    if not timed:
        return None
    names = sorted(_names(e.seconds for e in timed), key=lambda n: (PARTS.index(n) if n in PARTS else len(PARTS), n))
    seconds_KN = np.array([[e.seconds.get(name) or 0.0 for e in timed] for name in names])
    milli = np.median(seconds_KN.sum(axis=0)) < 1
    x = np.array([e.step for e in timed], dtype=np.float64)
    title = f"Time of a step, {'ms' if milli else 's'}"
    unit = 1000 if milli else 1
    return areas(
        title, names, x, seconds_KN * unit, lambda v: duration(v / unit), marks, note="Each part of its slowest rank."
    )


def _memory(run: Run, marks: tuple[Mark, ...]) -> Figure | None:
    host = series("host", [(e.step, e.memory.host_bytes) for e in run.steps], 1)
    device = series("device", [(e.step, e.memory.device_bytes) for e in run.steps], 2)
    device = device if device and device.y.max() > 0 else None
    found = [one for one in (host, device) if one]
    if not found:
        return None
    divisor, unit = scaled_bytes(max(one.y.max() for one in found))
    scaled = [Series(one.name, one.x, one.y / divisor, colour=one.colour) for one in found]
    title = f"Memory of the fullest rank, {unit}"
    return lines(title, scaled, lambda v: size(v * divisor), marks=marks, zero=True)


def progress(run: Run) -> Figure | None:
    """Steps over time: a restart is a step back, a gap is time lost."""
    first = run.attempts[0].began
    span = max(a.ended for a in run.attempts) - first
    if span <= 0 or not any(a.track for a in run.attempts):
        return None
    divisor, unit = next(
        (d, u) for d, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if span >= 2 * d or d == 1
    )
    found = []
    for k, a in enumerate(run.attempts):
        points = [((a.began - first) / divisor, a.from_step), *(((t - first) / divisor, step) for t, step in a.track)]
        if one := series(f"start {k + 1}", points, tone(k + 1)):
            found.append(one)
    return lines("Steps over time", found, count, zero=True, x_label=unit)


# --------------------------------------------------------------------------------------------------------------- inside
def _inside(run: Run) -> Section:
    if not run.diagnoses:
        return Section("inside", "Inside the model")
    figures = [*_distributions(run.diagnoses), *_gates(run), *_gradients(run)]
    lede = "Temperatures and relatedness are of the last batch looked at; gates show the mean weights of their experts."
    return Section("inside", "Inside the model", (Figures(tuple(figures)),) if figures else (), lede)


def _distributions(diagnoses: tuple[Diagnosis, ...]) -> list[Figure]:
    made = []
    for title, read, colour in (
        ("Temperature", lambda d: d.temperature, 1),
        ("Relatedness", lambda d: d.relatedness, 3),
    ):
        newest: dict[str, Counted] = {pair: counted for d in diagnoses for pair, counted in read(d).items()}
        for pair, counted in newest.items():
            name = pair.replace("|", " → ")
            if one := histogram(f"{title}, {name}", counted.edges, counted.counts, colour, title.lower()):
                made.append(one)
    return made


def _gates(run: Run) -> list[Figure]:
    made = []
    for task in _names(d.gates for d in run.diagnoses):
        rows = [(d.step, d.gates[task], d.gate_entropy.get(task)) for d in run.diagnoses if d.gates.get(task)]
        experts = max((len(weights) for _, weights, _ in rows), default=0)
        rows = [row for row in rows if len(row[1]) == experts]
        if not experts:
            continue
        weights_KN = np.array([[w or 0.0 for w in weights] for _, weights, _ in rows]).T
        x = np.array([step for step, _, _ in rows], dtype=np.float64)
        entropy = rows[-1][2]
        note = f"Entropy {percent(entropy, 0)} of that of an even gate." if known(entropy) else ""
        names = [f"expert {k}" for k in range(experts)]
        made.append(
            areas(f"Gate of {task}", names, x, weights_KN, lambda v: percent(v / 100), restarts(run), True, note)
        )
    return made


def _gradients(run: Run) -> list[Figure]:
    made = []
    charts = (
        ("Cosine of the tasks' gradients", lambda d: d.gradient_cosine, 2, [Rule(0.0, "independent")], False),
        ("Norm of the gradients", lambda d: d.gradient_norm, 4, [], True),
        ("Pairs that violate their margin", lambda d: d.violated, 3, [], False),
        (
            "Cosine of the representations",
            lambda d: {f"{p} {k}": getattr(s, k) for p, s in d.similarity.items() for k in ("positive", "negative")},
            3,
            [],
            False,
        ),
    )
    for title, read, digits, rules, log in charts:
        found = []
        for k, name in enumerate(_names(map(read, run.diagnoses)), start=1):
            one = series(name.replace("|", " · "), [(d.step, read(d).get(name)) for d in run.diagnoses], tone(k))
            found += [one] if one else []
        if found:
            positive = all((one.y > 0).all() for one in found)
            spread = max(one.y.max() for one in found) / min(one.y.min() for one in found) if positive else 1.0
            say = percent if title.startswith("Pairs") else significant if log else lambda v, n=digits: fixed(v, n)
            made.append(lines(title, found, say, rules=rules, marks=restarts(run), log=log and spread > LOG_FROM))
    return made
