"""The configuration that a described dataset suggests."""

import re

from dist_mtl.data import suggest
from dist_mtl.data.suggest import Facts, Sources
from dist_mtl.describe.description import Description, quantile
from dist_mtl.describe.seen import Seen

BUCKETS = 16  # of a number that is looked up
GAPS, ZEROS = 0.05, 0.5  # a number with more missing values, or more zeros, says more by bucket than on a line
CLOSED = 2  # ids from 0 to n - 1 are a closed set if at least n / CLOSED of them were seen
CUT = 0.99  # share of the lists that keep all their ids
# Whole numbers are ids, unless their name says that they count or measure.
MEASURES = re.compile(r"(?:.*_)?(age|count|cnt|num|price|amount|cost|score|size|length|duration|year|ratio)(?:_.*)?")
# Columns of sample logs, of which the first three are always there, that no log would have (`data/sample/`).
PLANTED = ("true_ctr", "true_cvr", "true_ctcvr", "rho", "conversion_seen")
APART = 0.1  # share of a label's positives that break the funnel, from which on it is none


def suggestion(description: Description) -> str:
    """A configuration as TOML, ready to edit, that parses as it is."""
    labels = description.outcomes.labels
    columns = {name: facts(seen, description) for name, seen in description.columns.items() if name not in labels}
    broken = sum(count.broken for count in description.counts.labels)
    later = sum(count.positives for count in description.counts.labels[1:])
    funnel = description.outcomes.funnel and broken <= APART * later
    counts = ", ".join(f"{c.positives:,} {name}" for name, c in zip(labels, description.counts.labels, strict=True))
    note = f"{description.counts.rows:,} rows{': ' if counts else '; no label was named'}{counts}"
    test = None if description.config is None else description.config.data.test
    return suggest.config(columns, Sources(description.folder, test, labels, None, funnel, broken, note))


def facts(seen: Seen, description: Description) -> Facts:
    """What a suggestion needs of a column."""
    column, rows = seen.column, seen.rows
    ids = 0 if seen.cardinality is None else seen.cardinality.count
    common = {"rows": rows, "nulls": seen.nulls + seen.nan, "out": _out(seen, description)}
    if column.kind == "bag":
        cut = int(quantile(seen, CUT) or 0)
        longest = f"; the longest has {seen.highest:,}" if (seen.highest or 0) > cut else ""
        remark = f"99 % of the lists are no longer{longest}"
        return Facts("bag", cardinality=ids, max_length=max(1, cut), remark=remark, **common)
    if column.kind == "name" or (column.kind == "whole" and not MEASURES.fullmatch(column.name.lower())):
        closed = _closed(seen, ids)
        remark = f"0 ... {closed - 1}; another id stops the run, `hash` takes any" if closed else ""
        return Facts("id", cardinality=ids, closed=closed, remark=remark, **common)
    missing = common["nulls"] / max(1, rows)
    edges = boundaries(seen)
    if edges and (column.kind == "whole" or missing > GAPS or seen.zeros > ZEROS * rows):
        remark = f"{missing:.1%} are missing and have no bucket" if missing else ""
        return Facts("bucket", boundaries=edges, remark=remark, **common)
    if not common["out"] and seen.lowest == seen.highest:
        common["out"] = "one value only"
    largest = max(abs(seen.lowest or 0), abs(seen.highest or 0))
    standard = suggest.standard_of(seen.finite, tuple(seen.sums), largest)
    remark = f"{missing:.1%} are missing and become 0, the mean" if missing else ""
    return Facts("dense", standard=standard, remark=remark, **common)


def boundaries(seen: Seen) -> tuple[float, ...]:
    """Up to BUCKETS - 1 edges that cut the numbers into about equal parts."""
    found = {quantile(seen, k / BUCKETS) for k in range(1, BUCKETS)} - {None}
    return tuple(sorted(edge for edge in found if edge > seen.lowest)) if found else ()


def _closed(seen: Seen, ids: int) -> int:
    if seen.column.kind != "whole" or not seen.cardinality.is_exact or not ids or seen.lowest < 0:
        return 0
    size = int(seen.highest) + 1
    return size if size <= CLOSED * ids else 0


def _out(seen: Seen, description: Description) -> str:
    column = seen.column
    if column.name in description.suspects:
        return f"tells `{description.suspects[column.name].task}` too well; see the suspects"
    if column.name in PLANTED and set(PLANTED[:3]) <= description.columns.keys():
        return "the planted truth of sample logs"
    if column.is_time:
        return "tells when the row happened; later rows have other values"
    if column.kind == "vector":
        return "a list of numbers; it may be the `weights` of a bag"
    if column.kind == "other":
        return "no kind of feature takes its type"
    return suggest.infinities(seen.infinite)


def suggested_rows(seen: Seen) -> int:
    """Rows for a table of this column's ids."""
    return suggest.table_rows(seen.cardinality.count)
