"""What is wrong with a dataset, in plain words with what to do next; `bad` is what stops training or spoils it."""

from collections.abc import Iterator

import numpy as np

from dist_mtl.config import BagFeature, Config, DenseFeature
from dist_mtl.data.features.labels import LEAST_WEIGHT, MOST_WEIGHT
from dist_mtl.data.features.numbers import extreme, squeezed
from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.description import Description, longer_than, mean_std
from dist_mtl.tools.describe.drift import MOVED, OTHER, middle
from dist_mtl.tools.describe.leaks import LIMIT
from dist_mtl.tools.describe.suggested_config import suggested_rows
from dist_mtl.tools.report.blocks import Finding
from dist_mtl.tools.report.number_format import listing, percent, plural, significant

MANY_COPIES, SOME_COPIES = 0.05, 1e-4  # of the rows; MovieLens' sampled non-clicks have 1.7 %, by chance
CROWDED = 0.5  # share of the ids that share a row
SPARSE = 20  # rows of a table for each id, from which on most of them are for nothing ...
LARGE = 1_000_000  # ... if it has so many rows
CUTS_MUCH = 0.1  # of the lists
MOSTLY_MISSING = 0.9
FEW = 1_000  # positives: an AUC of 0.75 is then known within 0.015
ODD_DAY = 0.5  # rows of a day over those of the middle one
FAR, WIDE = 3.0, 10.0  # standard deviations, and ratio of two, at which a dense feature is not standardised

HOW = {
    "number": "its value orders the rows",
    "value": "its values, learned on one half of the rows, tell the other half",
    "missing": "it is missing, or empty, where the label says so",
    "certain": "it is there, or has some value, only where the label is set",
}


def findings(description: Description) -> tuple[Finding, ...]:
    """All of them, the worst first; one that says that there is none."""
    rules = (_unfit, _labels, _suspects, _copies, _ids, _tables, _features, _columns, _days, _drift, _weight)
    found = [finding for rule in rules for finding in rule(description)]
    found.sort(key=lambda one: ("bad", "look", "plain", "good").index(one.tone))
    return tuple(found) or (Finding("good", "Nothing was found that would stop or spoil the training."),)


def has_bad(description: Description) -> bool:
    """Whether anything would stop or spoil a training."""
    return any(one.tone == "bad" for one in findings(description))


def _unfit(d: Description) -> Iterator[Finding]:
    for name in d.repeated:
        yield Finding("look", f"Several columns have the name `{name}`, so none of them is looked at.", "Rename them.")
    for line in d.unfit:
        yield Finding("bad", f"{line}.", "Training would stop before step 1: correct the column or the configuration.")


def _labels(d: Description) -> Iterator[Finding]:
    labels = d.outcomes.labels
    if not labels:
        yield Finding(
            "look",
            "No label is known, so label rates, suspects and the funnel are not told.",
            "Name them with --labels click,conversion, or give a configuration.",
        )
    for place, (name, count) in enumerate(zip(labels, d.counts.labels, strict=True)):
        if count.nulls or count.bad:
            yield Finding(
                "bad",
                f"Label `{name}` is null in {plural(count.nulls, 'row')} and neither 0 nor 1 in {count.bad:,}.",
                "Training stops at the first of them (exit 65): mend or remove these rows.",
            )
        if count.broken:
            before, dropped = labels[place - 1], d.config is not None and d.config.data.violations == "drop"
            share = count.broken / max(1, count.positives)
            yield Finding(
                "look" if dropped else "bad",
                f"`{name}` is 1 where `{before}` is 0 in {plural(count.broken, 'row')}, {percent(share, 3)} of its "
                f"positives.",
                "They are dropped and counted (data.violations)."
                if dropped
                else "Training stops at the first one: mend them, set data.violations = 'drop', or, if no label "
                "implies another, data.funnel = false.",
            )
    for task in d.outcomes.tasks:
        positives, negatives = (int(x) for x in task.split(d.counts.class_rows))
        if not positives or not negatives:
            yield Finding(
                "bad",
                f"`{task.name}` is {'never' if not positives else 'always'} set: there is nothing to learn.",
                "Correct the label's column, or take rows that hold both.",
            )
        elif positives < FEW:
            yield Finding(
                "look",
                f"`{task.name}` has {plural(positives, 'positive')}: its AUC will not be known well.",
                "Take more days, or compare models by their paired difference.",
            )


def _suspects(d: Description) -> Iterator[Finding]:
    used = None if d.config is None else used_columns(d.config)
    for name, signal in d.suspects.items():
        is_used = used is None or name in used
        yield Finding(
            "bad" if is_used else "plain",
            f"`{name}` tells `{signal.task}` with an AUC of {signal.auc:.4f}: {HOW[signal.how]} "
            f"(suspect beyond 0.5 ± {LIMIT}).",
            "It is made from the label, or known only after it: leave the column out."
            if is_used
            else "No feature of this configuration reads it.",
        )


def _copies(d: Description) -> Iterator[Finding]:
    copies = d.counts.duplicates
    if copies.extra:
        share, about = copies.share, "" if copies.is_exact else "about "
        yield Finding(
            "bad" if share >= MANY_COPIES else "look" if share >= SOME_COPIES else "plain",
            f"{about}{plural(copies.extra, 'row')} ({percent(share, 3)}) are exact copies of another one.",
            "They are trained more than once, and a copy in the test set is a leak: remove them at their source.",
        )


def _ids(d: Description) -> Iterator[Finding]:
    for table in d.tables:
        if not table.outside:
            continue
        reject = "reject" in table.policies
        yield Finding(
            "bad" if reject else "look",
            f"tables.{table.name}: {plural(table.outside, 'id')} of {listing([f'`{c}`' for c in table.columns])} "
            f"are not in 0 ... {table.rows - 1:,}.",
            "Training stops at the first one (policy reject): give the table more rows, or use policy `hash`."
            if reject
            else "They are moved to its first or last row (policy clamp), which then means nothing.",
        )


def _tables(d: Description) -> Iterator[Finding]:
    for table in d.tables:
        ids, about = table.ids.count, "" if table.ids.is_exact else "about "
        if table.sharing is not None and table.sharing > CROWDED:
            yield Finding(
                "look",
                f"tables.{table.name}: {about}{ids:,} ids in {table.rows:,} rows; {percent(table.sharing)} of them "
                f"share a row.",
                f"Give it {suggested_rows(max(table.seen, key=lambda s: s.cardinality.count)):,} rows, or policy "
                f"`dynamic`.",
            )
        elif table.rows > SPARSE * ids and table.rows > LARGE:
            yield Finding(
                "look",
                f"tables.{table.name}: {table.rows:,} rows for {about}{ids:,} ids; most of its memory is never read.",
                "Give it fewer rows, unless many new ids are to come.",
            )


def _features(d: Description) -> Iterator[Finding]:
    """What features of the configuration will meet."""
    for name, feature in () if d.config is None else d.config.features.items():
        column = getattr(feature, "column", None) or name
        seen = d.columns.get(column)
        if seen is None:
            continue
        if isinstance(feature, BagFeature):
            if seen.null_elements:
                yield Finding(
                    "bad", f"`{column}`: {seen.null_elements:,} nulls inside lists.", "Training refuses them."
                )
            over = longer_than(seen, feature.max_length) if feature.max_length else 0
            if over is not None and over > CUTS_MUCH * seen.rows:
                told = (
                    f"features.{name}: max_length = {feature.max_length} cuts {percent(over / seen.rows)} of the lists."
                )
                yield Finding("look", told, "Raise it, if the history is worth the time.")
        if isinstance(feature, DenseFeature):
            yield from _dense(name, feature, column, d)


def _dense(name: str, feature: DenseFeature, column: str, d: Description) -> Iterator[Finding]:
    seen = d.columns[column]
    missing = seen.nulls + seen.nan
    if seen.infinite and feature.clip is None:
        yield Finding("bad", f"`{column}` is infinite in {plural(seen.infinite, 'row')}.", "Set `clip`, or mend them.")
    if missing and feature.null == "reject":
        told = f"`{column}` is missing in {plural(missing, 'row')}, and features.{name} has null = 'reject'."
        yield Finding("bad", told, "Training stops at the first one: mend them, or use `fill` or `indicator`.")
    if far := _far(feature, seen):
        yield Finding("bad", f"features.{name}: numbers from {seen.lowest:.6g} to {seen.highest:.6g}.", f"Here {far}.")
    moments = None if feature.log or feature.clip or feature.scale or feature.ends else mean_std(seen)
    if moments is None or not moments[1]:
        return
    mean, std = moments
    if abs(mean - feature.mean) > FAR * max(std, feature.std) or not 1 / WIDE < std / feature.std < WIDE:
        yield Finding(
            "look",
            f"features.{name}: the data have mean {significant(mean)} and standard deviation {significant(std)}, the "
            f"configuration says {significant(feature.mean)} and {significant(feature.std)}.",
            "Take those of the data, or scale = 'standard': a network learns slowly from numbers far from 0 and 1.",
        )


def _far(feature: DenseFeature, seen: Seen) -> str | None:
    """What is said of a feature whose largest number, once it is scaled, is beyond reason."""
    own = feature.scale == "standard" and not feature.is_fitted
    if seen.lowest is None or feature.ends or (own and feature.log) or feature.scale == "minmax":
        return None
    mean, std = mean_std(seen) if own else feature.moments
    if own and not np.isfinite(std):
        return "they have no standard deviation in float64; set `clip`, or log = true"
    ends = (squeezed(np.array([seen.lowest, seen.highest], np.float64), feature) - mean) / (std or 1.0)
    return extreme(float(ends[np.abs(ends).argmax()]), seen.finite if own else 0)


def _columns(d: Description) -> Iterator[Finding]:
    used = None if d.config is None else used_columns(d.config)
    for name, seen in d.columns.items():
        if (used is not None and name not in used) or seen.column.kind == "label" or name in d.suspects:
            continue
        missing = (seen.nulls + seen.nan) / max(1, seen.rows)
        ids = seen.cardinality
        if missing == 1 or (ids is not None and not missing and ids.is_exact and ids.count == 1):
            yield Finding(
                "look", f"`{name}` is {'always missing' if missing else 'the same in all rows'}.", "Leave it out."
            )
        elif missing > MOSTLY_MISSING:
            yield Finding(
                "look", f"`{name}` is missing in {percent(missing)} of the rows.", "Is its source still there?"
            )
        if seen.column.kind == "other":
            yield Finding(
                "look", f"`{name}` is {seen.column.type}, which is not looked at.", "Flatten it to be a feature."
            )


def _days(d: Description) -> Iterator[Finding]:
    if d.counts.too_many_days:
        told = f"`{d.counts.plan.day.name}` has more values than days, so that no drift is told."
        yield Finding("look", told, "Name the column that tells the day with --day.")
    if d.counts.no_day:
        told = f"{plural(d.counts.no_day, 'row')} have no `{d.counts.plan.day.name}`, so no day."
        yield Finding("look", told, "They are trained, but in no day's figures.")
    if len(d.days) < 2:
        return
    word, usual_rows = d.counts.plan.day.word, float(np.median([day.rows for day in d.days]))
    if short := [day for day in d.days if day.rows < ODD_DAY * usual_rows]:
        names = listing([f"{word(day.key)} ({day.rows:,})" for day in short])
        told = f"{plural(len(short), 'day has', 'days have')} not half of the usual {usual_rows:,.0f} rows: {names}."
        yield Finding("look", told, "Are their logs complete?")
    for place, task in enumerate(d.outcomes.tasks):
        if odd := [day for day in d.days if day.odd[place]]:
            names = listing([f"{word(day.key)} ({percent(day.rates[place], 2)})" for day in odd])
            usual = percent(middle([day.rates[place] for day in d.days]), 2)
            yield Finding(
                "look",
                f"The rate of `{task.name}` is not the usual {usual} on {plural(len(odd), 'day')}: {names}.",
                "Late labels, another traffic, or a fault in the logs? Train without these days, or know why.",
            )


def _drift(d: Description) -> Iterator[Finding]:
    names = list(d.columns)
    steady = [i for i, seen in enumerate(d.counts.columns) if not seen.column.is_time and seen.column.kind != "label"]
    if len(d.days) < 2 or not steady:
        return
    worst = np.nan_to_num(np.stack([day.psi for day in d.days])).max(axis=0)
    moved = sorted((i for i in steady if worst[i] > OTHER), key=lambda i: -worst[i])
    if moved:
        word, psi = d.counts.plan.day.word, np.nan_to_num(np.stack([day.psi for day in d.days]))
        told = [f"`{names[i]}` ({worst[i]:.2f} on {word(d.days[int(psi[:, i].argmax())].key)})" for i in moved]
        yield Finding(
            "look",
            f"{plural(len(moved), 'column has', 'columns have')} another distribution than on the first day (PSI above "
            f"{OTHER}): {listing(told)}.",
            "See the days below. If that is no fault, train in the order of time and test on the next day.",
        )
    elif slightly := [names[i] for i in steady if worst[i] > MOVED]:
        told = f"{plural(len(slightly), 'column moves', 'columns move')} a little from day to day (PSI above {MOVED}): "
        yield Finding("plain", f"{told}{listing([f'`{name}`' for name in slightly])}.")


def _weight(d: Description) -> Iterator[Finding]:
    name = None if d.config is None else d.config.data.weight
    seen = d.columns.get(name) if name else None
    if seen is None or seen.lowest is None:
        return
    if seen.nulls or seen.nan or seen.infinite or seen.lowest < 0 or seen.highest > MOST_WEIGHT:
        yield Finding(
            "bad",
            f"The weight `{name}` goes from {significant(seen.lowest)} to {significant(seen.highest)}; missing in "
            f"{plural(seen.nulls + seen.nan, 'row')}.",
            f"A weight is 0 or {LEAST_WEIGHT:.2g} to {MOST_WEIGHT:g}; training stops at the first other one.",
        )


def used_columns(config: Config) -> frozenset[str]:
    """The columns that features read."""
    return frozenset(column for name in config.features for column in config.columns_of(name))
