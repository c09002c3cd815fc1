"""Two plans side by side: what is not the same."""

from dataclasses import dataclass

from dist_mtl.tools.planning.estimate import Outlook
from dist_mtl.tools.planning.memory import Rows


@dataclass(frozen=True)
class Differences:
    """(what, here, there), only where the two differ."""

    other: str
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Side:
    """What is compared of a plan: GB of the fullest rank by place, ms of a step; None where it is not told."""

    plan: Rows
    most: dict[str, float]
    step_ms: float | None


def side_of(found: Outlook) -> Side:
    return Side(found.plan, {place: found.most(place) for place in ("hbm", "host")}, found.seconds * 1e3)


def differences(here: Side, there: Side, other: str) -> Differences:
    """Table by table, then memory and time."""
    mine, theirs = ({row["table"]: row for row in side.plan} for side in (here, there))
    rows = []
    for table in sorted({*mine, *theirs}):
        a, b = _told(mine.get(table)), _told(theirs.get(table))
        if a != b or _shards(mine.get(table)) != _shards(theirs.get(table)):
            rows.append((table, a, b if a != b else f"{b}, other shards"))
    for place, words in (("hbm", "HBM"), ("host", "host memory")):
        rows += _number(f"{words} of the fullest rank, GB", here.most.get(place), there.most.get(place))
    rows += _number("step, ms (estimated)", here.step_ms, there.step_ms)
    return Differences(other, tuple(rows))


def _told(row: dict | None) -> str:
    if row is None:
        return "absent"
    ranks = sorted({shard["rank"] for shard in row["shards"]})
    where = "all ranks" if not ranks else f"rank {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} ranks"
    return f"{row['sharding']}, {row['kernel']}, {where}"


def _shards(row: dict | None) -> list:
    return [] if row is None else [(s["rank"], tuple(s["offset"]), tuple(s["size"])) for s in row["shards"]]


def _number(what: str, here: float | None, there: float | None) -> list[tuple[str, str, str]]:
    """One row, if the two look different."""
    a, b = ("-" if value is None else f"{value:,.3f}" for value in (here, there))
    return [(what, a, b)] if a != b else []
