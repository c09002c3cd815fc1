"""What one has to know first: the state of the run, its numbers, and what stands out."""

from collections.abc import Iterator

import numpy as np

from dist_mtl.tools.report.blocks import Finding, Tile
from dist_mtl.tools.report.charts import ruler
from dist_mtl.tools.report.event_log import Run, lost, skips
from dist_mtl.tools.report.event_schema import TaskMetrics, Window
from dist_mtl.tools.report.number_format import NBSP, count, duration, fixed, interval, known, listing, percent, plural
from dist_mtl.tools.report.svg import tone

ACRONYMS = ("ctr", "cvr", "ctcvr")
PCOC_NOISE = 2.0  # standard errors, where there is no interval: 1 / sqrt(positives) is that of a ratio of counts
SURE = 0.02  # width of an interval of an AUC from which on more rows would say the same
PCOC_OFF = 0.05  # a smaller bias than this is not worth a line, however certain
WAIT = 0.2  # share of the step from which on waiting for data is worth a line
ONE_EXPERT = 0.1  # entropy of a gate, of 1, below which it has all but chosen one expert
APART = -0.1  # cosine of two tasks' gradients below which they work against each other


def label(task: str) -> str:
    """CTR for ctr; the names of longer funnels as they are."""
    return task.upper() if task in ACRONYMS else task


def reached(auc: float | None, ceiling: float | None) -> float | None:
    """The share of the way from chance to the ceiling."""
    return (auc - 0.5) / (ceiling - 0.5) if known(auc) and known(ceiling) and ceiling > 0.5 else None


def state(run: Run) -> tuple[str, str]:
    """The state in a word, and the tone of it."""
    if run.finished:
        return ("stopped early" if run.early_stop else "finished"), "good"
    return "unfinished", "look"


def story(run: Run) -> str:
    """One sentence: how the run went."""
    took = duration(run.seconds)
    total = f" of {count(run.start.steps)}" if known(run.start.steps) and run.last_step < run.start.steps else ""
    steps = plural(run.last_step, "step") if not total else f"{count(run.last_step)}{total} steps"
    if run.early_stop:
        best = run.early_stop.best_step
        kept = f"; the best was step {count(best)}" if best is not None else ""
        return f"Stopped early after {steps} in {took}{kept}."
    if not run.finished:
        return f"Reached {steps} in {took}; the events end there, so the run was ended or is still going on."
    return f"Trained {steps} in {took}."


def verdict(run: Run) -> str:
    """One sentence: how good the model is, by the last task of the funnel."""
    if run.final is None or not run.final.tasks:
        return ""
    task, m = list(run.final.tasks.items())[-1]
    share = reached(m.auc.value, run.final.ceiling.get(task))
    way = (
        f", {percent(share)} of the way from chance to the best that any model could reach" if share is not None else ""
    )
    between = interval(m.auc.low, m.auc.high)
    early = known(run.final.step) and run.final.step != run.last_step
    subject = f"The best commit, of step {count(run.final.step)}," if early else "It"
    return (
        f"{subject} ranks {label(task)} at an AUC of {fixed(m.auc.value)} (95{NBSP}% interval {between}){way}."
        if known(m.auc.value)
        else ""
    )


def tiles(run: Run) -> tuple[Tile, ...]:
    """One a task, from the final evaluation."""
    if run.final is None:
        return ()
    made = []
    for k, (task, m) in enumerate(run.final.tasks.items(), start=1):
        ceiling = run.final.ceiling.get(task)
        share = reached(m.auc.value, ceiling)
        notes = [f"NE {fixed(m.normalised_entropy)}", f"PCOC {fixed(m.pcoc, 3)}"]
        svg = {} if m.auc.value is None else {"svg": ruler(m.auc.value, m.auc.low, m.auc.high, ceiling, tone(k))}
        made.append(
            Tile(
                f"{label(task)} AUC",
                fixed(m.auc.value),
                f"95{NBSP}% {interval(m.auc.low, m.auc.high)}",
                tuple(notes + ([f"{percent(share)} of the ceiling"] if share is not None else [])),
                **svg,
            )
        )
    return tuple(made)


def figures(run: Run) -> tuple[Tile, ...]:
    """The small numbers of the run itself."""
    speeds = [e.rows_per_second for e in run.steps if known(e.rows_per_second)]
    ranks = run.start.world
    where = f"{plural(ranks, 'rank')}, {run.start.device}" if ranks else run.start.device
    made = [Tile("Training time", duration(run.seconds), _pauses(run) or plural(len(run.attempts), "start"))]
    if speeds:
        made.append(Tile("Speed", f"{count(float(np.median(speeds)))}", f"rows/s, median; {where}".rstrip("; ")))
    batch = f"of {plural(run.start.global_batch, 'row')}" if known(run.start.global_batch) else ""
    made.append(Tile("Steps", count(run.last_step), batch))
    lost = run.repeated_steps
    made.append(
        Tile("Restarts", count(run.restarts), f"{plural(lost, 'step')} trained again" if lost else "nothing lost")
    )
    return tuple(made)


def _pauses(run: Run) -> str:
    """Where the time beside the steps went."""
    spent = {name: sum(e.pauses.get(name) or 0.0 for e in run.steps) for name in ("evaluation", "commit")}
    words = {"evaluation": "evaluating", "commit": "committing"}
    return ", ".join(f"{duration(seconds)} {words[name]}" for name, seconds in spent.items() if seconds >= 0.05)


# -------------------------------------------------------------------------------------------------------------- verdict
def findings(run: Run) -> tuple[Finding, ...]:
    """What stands out, the grave first."""
    found = [*_of_length(run), *_of_tasks(run), *_of_slices(run), *_of_training(run), *_of_data(run)]
    if run.final is None:
        steps = "set data.test" if not run.configured("data", "test") else "let the run finish"
        found.append(
            Finding("look", "No evaluation yet, so nothing is known about unseen rows.", f"To get one, {steps}.")
        )
    if run.unreadable:
        lines = plural(len(run.unreadable), "line")
        found.append(Finding("look", f"{lines} of events.jsonl left out of this report: {listing(run.unreadable, 2)}."))
    if not found:
        found.append(Finding("good", "Nothing stands out: no bias, no bottleneck, no skipped step."))
    order = ("bad", "look", "plain", "good")
    return tuple(sorted(found, key=lambda one: order.index(one.tone)))


def _of_length(run: Run) -> Iterator[Finding]:
    if few := run.few_steps:
        short, remedy = few.split(": ", 1)
        yield Finding("bad", f"{short}.", f"{remedy[:1].upper()}{remedy[1:]}.")


def _of_tasks(run: Run) -> Iterator[Finding]:
    longer = "Train more steps first." if run.few_steps else None
    for task, m in run.final.tasks.items() if run.final else ():
        name = label(task)
        if known(m.normalised_entropy) and m.normalised_entropy >= 1:
            what = "Look at its reliability: ranking may be fine where the level is off."
            told = f"{name} predicts worse than a constant: NE {fixed(m.normalised_entropy)}."
            yield Finding("bad", told, longer or what)
        if known(m.auc.low) and m.auc.low <= 0.5:
            between = interval(m.auc.low, m.auc.high)
            told = f"{name} cannot be told apart from chance: its AUC lies within {between}."
            is_wide = known(m.auc.high) and m.auc.high - m.auc.low > SURE
            what = "Evaluate on more rows." if is_wide else "It did not learn: see its loss below."
            yield Finding("bad", told, longer or what)
        if (bias := bias_of(m)) is not None:
            way = "too high" if bias > 0 else "too low"
            yield Finding(
                "look",
                f"{name} is predicted {percent(abs(bias))} {way} on average (PCOC {fixed(m.pcoc, 3)} "
                f"on {plural(m.positives, 'positive')}).",
                longer or "Recalibrate before the probabilities are used as prices.",
            )
        window = _window(run, task)
        if window and known(window.auc_low) and known(m.auc.high) and window.auc_low > m.auc.high:
            yield Finding(
                "look",
                f"{name} ranks rows it trains on better than unseen ones: AUC {fixed(window.auc)} against "
                f"{fixed(m.auc.value)}, and the intervals do not meet.",
                "It overfits, or the test rows are of another time.",
            )


def _window(run: Run, task: str) -> Window | None:
    """The training window that ends nearest to the weights of the final evaluation, which may be an earlier best."""
    steps = [step for step in run.steps if known(step.step)]
    if not steps:
        return None
    at = run.final.step if known(run.final.step) else steps[-1].step
    return min(steps, key=lambda step: abs(step.step - at)).window.get(task)


def bias_of(m: TaskMetrics) -> float | None:
    """PCOC - 1 where it is more than noise, and worth a line."""
    if not known(m.pcoc) or not known(m.positives) or m.positives < 1:
        return None
    noise = PCOC_NOISE / m.positives**0.5
    low, high = m.pcoc_interval if len(m.pcoc_interval) == 2 else (None, None)
    certain = not low <= 1 <= high if known(low) and known(high) else abs(m.pcoc - 1) > noise
    return m.pcoc - 1 if certain and abs(m.pcoc - 1) > PCOC_OFF else None


def _of_slices(run: Run) -> Iterator[Finding]:
    """Slices whose whole interval lies below that of all rows, a line a task."""
    if run.final is None:
        return
    for task, whole in run.final.tasks.items():
        below = [
            (m.auc.high, f"{column} {value}", m)
            for column, values in run.final.slices.items()
            for value, tasks in values.items()
            if (m := tasks.get(task)) and known(m.auc.high) and known(whole.auc.low) and m.auc.high < whole.auc.low
        ]
        if below:
            names = [f"{name} ({fixed(m.auc.value, 3)})" for _, name, m in sorted(below, key=lambda one: one[0])]
            text = f"{label(task)} ranks clearly worse than overall in {listing(names)}."
            yield Finding(
                "plain", text, "Within one slice the column itself no longer helps; part of this is expected."
            )


def _of_training(run: Run) -> Iterator[Finding]:
    waits = [e.data_wait for e in run.steps if known(e.data_wait)]
    if waits and (wait := float(np.median(waits))) > WAIT and not run.few_steps:  # else it is the start that is seen
        yield Finding(
            "look", f"A step waits for data {percent(wait, 0)} of its time.", "Use a faster disk, or more cores a rank."
        )
    if run.start.idle_gpus:
        yield Finding("look", f"{plural(run.start.idle_gpus, 'GPU')} idle.", "Start one rank a GPU.")
    if again := run.repeated_steps:
        yield Finding(
            "plain", f"{plural(again, 'step')} trained again after restarts.", "Commit more often to lose less."
        )
    if not run.diagnoses:
        return
    last = run.diagnoses[-1]
    for task, entropy in last.gate_entropy.items():
        if known(entropy) and entropy < ONE_EXPERT:
            yield Finding(
                "look", f"The gate of {task} has all but chosen one expert.", "Fewer experts would do, or drop-out."
            )
    late = run.diagnoses[len(run.diagnoses) // 2 :]
    for pair in last.gradient_cosine:
        cosines = [d.gradient_cosine[pair] for d in late if known(d.gradient_cosine.get(pair))]
        if cosines and (middle := float(np.median(cosines))) < APART:
            names = pair.replace("|", " and ")
            yield Finding(
                "look", f"The gradients of {names} point apart: cosine {fixed(middle, 2)} in the second half."
            )


def _of_data(run: Run) -> Iterator[Finding]:
    if left_out := skips(run):
        why = listing(sorted({e.reason for e in left_out if e.reason})) or "no reason given"
        yield Finding("look", f"{plural(len(left_out), 'step')} skipped: {why}.")
    if groups := lost(run):
        trained = f", {plural(run.counts.quarantined, 'row')} over all epochs" if run.counts else ""
        files = listing(sorted({e.path for e in groups}))
        text = f"{plural(len(groups), 'damaged row group')} of {files} skipped{trained}."
        yield Finding("look", text, "Restore the files.")
    if run.counts and run.counts.dropped:
        yield Finding(
            "look", f"{plural(run.counts.dropped, 'row')} dropped: their labels break the funnel.", "Correct the logs."
        )
    if run.counts and run.counts.clamped:
        yield Finding(
            "look", f"{plural(run.counts.clamped, 'id')} clamped into their tables.", "Make the tables larger, or hash."
        )
