"""The configuration that a described dataset suggests: which columns become which features, and how to train."""

import os.path
from collections import Counter

from dist_mtl.config.dataset_uri import Place
from dist_mtl.config.file import MAX_BYTES
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.terminal.printable import printable
from dist_mtl.tools.describe.beside import TRAIN, Beside
from dist_mtl.tools.describe.column_stats import Seen
from dist_mtl.tools.describe.description import Description, quantile
from dist_mtl.tools.describe.names import IDS, MEASURES
from dist_mtl.tools.describe.recipe import Recipe, recipe
from dist_mtl.tools.describe.suggested_training import settings_of
from dist_mtl.tools.starter_config import Suggested, Use, toml

CUT = 0.99  # share of the lists that keep all their ids
UNIQUE = 0.9  # an id that so many of the rows have for themselves tells nothing of later rows
RARE = 4  # rows of each value in the mean, below which a table learns its rows by heart
FEW_VALUES = 256  # a whole number of at most so many values is an id, whatever it is called ...
RECURRING = 4  # ... and one of more values, if each has so many rows in the mean
TAIL = 10  # standard deviations from the mean to the farthest number: a normal column of 10**9 rows reaches 6
HUGE = 1e300  # squares beyond it come near the end of float64
# Columns of sample logs, of which the first three are always there, that no log would have (`data/sample/`).
PLANTED = ("true_ctr", "true_cvr", "true_ctcvr", "rho", "conversion_seen")
APART = 0.1  # share of a label's positives that break the funnel, from which on it is none


def suggestion(description: Description, by: Recipe | None = None) -> str:
    """A configuration as TOML that parses and trains as it is. `by`: another recipe than that for these rows.

    Raises DataError with every reason, where no configuration can train on these rows.
    """
    labels, notes, against = _labels(description)
    held_out, more = _held_out(description)
    columns, left_out = _columns(description)
    by = by or recipe(description.counts.rows)
    uses = {seen.column.name: _uses(seen, by) for seen in columns}
    if not uses:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items()) or "it has no column besides the labels"
        against.append(f"no column can be a feature: {reasons}")
    if against:
        raise DataError("\n".join(f"{description.folder}: no configuration can be suggested: {one}" for one in against))
    funnel = description.outcomes.funnel and not _breaks(description)
    broken = sum(count.broken for count in description.counts.labels)
    data = []
    if funnel and broken and len(labels) > 1:
        data.append(f'violations = "drop"  # {broken:,} rows break the funnel')
    if not funnel and len(labels) > 1:
        data.append("funnel = false  # no label implies another")
    text = toml(
        Suggested(
            uses=uses,
            left_out=left_out,
            train=description.folder,
            held_out=held_out,
            labels=labels,
            name=_name(description.folder),
            data=tuple(data),
            notes=(*notes, *more),
            settings=settings_of(description, by, labels, funnel, held_out),
        )
    )
    if len(text.encode()) > MAX_BYTES:
        raise DataError(f"{description.folder}: {len(uses):,} columns make a configuration beyond {MAX_BYTES:,} bytes")
    return text


def shown(description: Description) -> str:
    """The suggestion for a reader; where there is none, the reasons as comments."""
    try:
        return suggestion(description)
    except DataError as error:
        return "".join(f"# {printable(line)}\n" for line in str(error).splitlines())


def save(text: str, path: str) -> None:
    """Write a suggestion; never over a file that is there. Raises ConfigError."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose with --suggest a file that does not exist yet") from None


def suggested_rows(seen: Seen) -> int:
    """Rows for a table of this column's ids."""
    return table_rows(seen.cardinality.count)


def table_rows(ids: int) -> int:
    """Rows for so many hashed ids: few enough share one, at a size that is cheap.

    Up to 100 ids, chance gives any two of them one row in 1 of 20 tables. Beyond, 6 % of the ids share a row, above
    1,000 ids 22 %, above 100,000 ids 39 %.
    """
    rows = max(16, ids * (10 * ids if ids <= 100 else 16 if ids <= 1_000 else 4 if ids <= 100_000 else 2))
    scale = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // scale) * scale


# ---------------------------------------------------------------------------------------------------- labels and rows
def _labels(d: Description) -> tuple[tuple[str, ...], list[str], list[str]]:
    """(the labels to train, notes, what speaks against any training)."""
    against = [
        f"label `{name}` is null or neither 0 nor 1 in {count.nulls + count.bad:,} rows, which training refuses"
        for name, count in zip(d.outcomes.labels, d.counts.labels, strict=True)
        if count.nulls or count.bad
    ]
    if not d.outcomes.labels:
        return (), [], ["no label is known; name them with --labels, e.g. --labels click,conversion"]
    kept, notes = [], []
    for place, name in enumerate(d.outcomes.labels):
        if why := _nothing_to_learn(d, place, kept):
            notes.append(f"Label `{name}` is left out: {why}.")
        else:
            kept.append(place)
    labels = tuple(d.outcomes.labels[place] for place in kept)
    counts = ", ".join(f"{d.counts.labels[place].positives:,} {d.outcomes.labels[place]}" for place in kept)
    if not labels and not against:
        against.append("no label has both values, so there is nothing to learn: " + " ".join(notes))
    return labels, [f"{d.counts.rows:,} rows: {counts}; digest {d.manifest.digest[:16]}", *notes], against


def _nothing_to_learn(d: Description, place: int, kept: list[int]) -> str:
    """Why a label is no task beside those that are kept; empty: it is one."""
    if d.outcomes.funnel and not _breaks(d):
        # Class k has the first k labels set; the last class is of rows that no task counts.
        rows, given = d.counts.class_rows[:-1], kept[-1] if kept else None
        positives = int(rows[place + 1 :].sum())
        negatives = int(rows[0 if given is None else given + 1 : place + 1].sum())
        where = "" if given is None else f" where `{d.outcomes.labels[given]}` is set"
        return f"it is never set{where}" if not positives else f"it is always set{where}" if not negatives else ""
    positives = d.counts.labels[place].positives
    if positives in (0, d.counts.rows):
        return "it is never set" if not positives else "it is always set"
    if d.outcomes.funnel:
        return ""
    for other in kept:
        if not sum(n for k, n in enumerate(d.counts.class_rows[:-1]) if (k >> place & 1) != (k >> other & 1)):
            return f"it is `{d.outcomes.labels[other]}` in every row"
    return ""


def _breaks(d: Description) -> bool:
    """Whether the labels are no funnel, whatever was said of them."""
    later = sum(count.positives for count in d.counts.labels[1:])
    return sum(count.broken for count in d.counts.labels) > APART * later


def _held_out(d: Description) -> tuple[dict[str, str], list[str]]:
    """(`validation` and `test` as far as they can be used, notes)."""
    good = {name: beside.folder for name, beside in d.beside.items() if not beside.fault}
    notes = [f"{name} is left out: {beside.fault}" for name, beside in d.beside.items() if beside.fault]
    if "validation" not in good:
        notes.append(
            "There are no validation rows, so the run cannot stop by them: it makes few epochs. Rows of their own "
            "(convert --validation) make the better model."
        )
    return good, notes


def _name(folder: str) -> str:
    """Of a dataset, from its folder."""
    parts = [part for part in os.path.normpath(Place.parse(folder).url).split("/") if part not in ("", ".", "..")]
    return "-".join((parts[:-1] if len(parts) > 1 and parts[-1] == TRAIN else parts)[-1:])


# ------------------------------------------------------------------------------------------------------------ columns
def _columns(d: Description) -> tuple[list[Seen], dict[str, str]]:
    """(the columns that can be features, column -> why it can be none)."""
    kept: list[Seen] = []
    left_out: dict[str, str] = {}
    twice = {name for name, count in Counter(seen.column.name for seen in d.counts.columns).items() if count > 1}
    for name, seen in d.columns.items():
        if name in d.outcomes.labels:
            continue
        odd = "it has no name" if not name else "its name stands there twice" if name in twice else ""
        if why := odd or _out(seen, d):
            left_out[name] = why
        else:
            kept.append(seen)
    lasting = [seen for seen in kept if _rows_a_value(seen) >= RARE] or kept  # of logs that have nothing else
    for seen in kept:
        if not any(seen is one for one in lasting):
            rows = f"{_rows_a_value(seen):.1f}"
            left_out[seen.column.name] = f"its values come in {rows} rows each, which teach nothing that lasts"
    return lasting, left_out


def _rows_a_value(seen: Seen) -> float:
    """Of an id, in the mean."""
    return (seen.rows - seen.nulls) / seen.cardinality.count if _is_id(seen) else float("inf")


def _out(seen: Seen, d: Description) -> str:
    """Why a column is no feature; empty: it is one."""
    column, missing = seen.column, seen.nulls + seen.nan
    ids, there = seen.cardinality, seen.rows - missing
    if missing == seen.rows or (column.is_list and not seen.elements):
        return "always missing"
    if column.name in d.suspects:
        return f"tells `{d.suspects[column.name].task}` too well; see the suspects"
    if column.name in PLANTED and set(PLANTED[:3]) <= d.columns.keys():
        return "the planted truth of sample logs"
    if column.is_time:
        return "tells when the row happened, or counts the rows: later rows have other values"
    if column.kind == "vector":
        return "a list of numbers; it may be the `weights` of a bag"
    if column.kind == "other":
        return "no kind of feature takes its type"
    if column.kind == "number" and not seen.finite:
        return "no value is finite"
    if seen.infinite and seen.lowest == seen.highest:
        return "one finite value only"
    if not missing and not seen.infinite and (seen.lowest == seen.highest if ids is None else ids.count == 1):
        return "one value only"
    if column.kind == "whole" and MEASURES.fullmatch(column.name.lower()):
        return ""
    if column.is_id and there > 1 and ids.count > UNIQUE * there:
        return "nearly every row has a value of its own"
    return next(filter(None, (_of_the_split(seen, beside) for beside in d.beside.values())), "")


def _of_the_split(seen: Seen, beside: Beside) -> str:
    if seen.column.is_id and beside.lacks_values_of(seen):
        return f"its values are not those of {beside.folder}: rows were split by it, or it tells the time"
    if seen.column.kind in ("whole", "number") and beside.lies_apart_from(seen):
        return f"its numbers lie apart from those of {beside.folder}: it counts rows, or tells the time"
    return ""


def _is_id(seen: Seen) -> bool:
    """Whether its values are looked up one by one, and nothing else."""
    if seen.column.kind != "whole":
        return seen.column.kind == "name"
    name = seen.column.name.lower()
    return not MEASURES.fullmatch(name) and (bool(IDS.fullmatch(name)) or seen.cardinality.count <= FEW_VALUES)


def _uses(seen: Seen, by: Recipe) -> tuple[Use, ...]:
    ids = 0 if seen.cardinality is None else seen.cardinality.count
    rows = table_rows(ids)
    dim = _dim(ids, by)
    if seen.column.kind == "bag":
        cut = max(1, int(quantile(seen, CUT) or 0))
        longest = f"; the longest has {seen.highest:,}" if (seen.highest or 0) > cut else ""
        remark = f"about {ids:,} ids; 99 % of the lists are no longer{longest}"
        return (Use("bag", (f"max_length = {cut}",), rows, dim, remark),)
    as_id = Use("id", (), rows, dim, f"about {ids:,} ids")
    if _is_id(seen):
        return (as_id,)
    recurs = ids and (ids <= FEW_VALUES or seen.rows >= RECURRING * ids)
    return (*((as_id,) if recurs and not MEASURES.fullmatch(seen.column.name.lower()) else ()), *_number(seen, by))


def _dim(ids: int, by: Recipe) -> int:
    """Of a table of so many ids: wider ones pay where an id has many rows to learn from."""
    return min(by.dim, 4 if ids <= 10 else 8 if ids <= 1_000 else 16)


def _number(seen: Seen, by: Recipe) -> tuple[Use, ...]:
    missing = (seen.nulls + seen.nan) / max(1, seen.rows)
    remark = f"{missing:.1%} are missing" if missing else ""
    gaps = ('null = "indicator"',) if missing else ()
    if seen.lowest == seen.highest:  # what it tells is whether it is there
        return (Use("bucket", (f"boundaries = [{float(seen.lowest)!r}]", f"dim = {by.bucket_dim}"), remark=remark),)
    bucket = Use("bucket", (f"quantiles = {by.buckets}", f"dim = {by.bucket_dim}"), remark=remark)
    if not (width := _width(seen)):  # numbers so small, or so alike, that float64 knows no standard deviation of them
        return (bucket,)
    clip = (f"clip = [{float(seen.lowest)!r}, {float(seen.highest)!r}]",) if seen.infinite else ()
    log = ("log = true",) if width > TAIL else ()
    return (Use("dense", (*clip, *log, 'scale = "standard"', *gaps), remark=remark), bucket)


def _width(seen: Seen) -> float:
    """Standard deviations from the mean to the farthest number; 0: there are none."""
    count = max(1, seen.finite)
    mean, square = float(seen.sums[0]) / count, float(seen.sums[1]) / count
    if not square < HUGE:
        return float("inf")
    std = max(square - mean**2, 0.0) ** 0.5
    return (max(abs(float(seen.lowest)), abs(float(seen.highest))) - abs(mean)) / std if std else 0.0
