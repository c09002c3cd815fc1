"""An outlook as tables for a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType

from dist_mtl.terminal.console import Console, Table, styled
from dist_mtl.tools.planning.device import GB
from dist_mtl.tools.planning.diff import Differences
from dist_mtl.tools.planning.estimate import Outlook
from dist_mtl.tools.planning.memory import RankMemory, mean, worst
from dist_mtl.tools.planning.roofline import bottleneck, lookups_of
from dist_mtl.tools.planning.what_if import Turned

SHOWN_TABLES = 60
PLACES = {"hbm": "HBM", "host": "host"}


def show(found: Outlook, console: Console) -> None:
    """The plan, the memory, the step."""
    console.print(Group(*_told(found)))


def _told(found: Outlook) -> Iterator[RenderableType]:
    yield _plan(found)
    yield _memory(found)
    yield _step(found)
    if found.fits:
        yield styled(f"It fits {found.cluster.told}.", "bold green")
    yield from (styled(f"note: {note}") for note in found.load.notes)


def show_knobs(
    start: Outlook, tried: list[Turned], nodes: Turned | None, turned: Turned | None, console: Console
) -> None:
    """What each knob does, and the nearest fits."""
    places = list(start.cluster.capacity)
    table = _table(
        "What would make it fit, each alone: GB of the fullest rank",
        ["knob", *_places(places), "", "step, ms"],
        words=("knob", ""),
    )
    for one in tried:
        table.add_row(*_figures(one.words, one.found, places))
    if nodes is not None:
        table.add_row(*_figures(f"{nodes.found.cluster.nodes} nodes", nodes.found, places))
    console.print(table)
    if start.config.sharding.plan is not None:
        line = f"All of it without sharding.plan = {start.config.sharding.plan}; remove that key to try it."
        console.print(styled(line))
    if nodes is None:
        console.print(styled("Nearest fit by nodes alone: none, however many; see the reason below."))
    else:
        console.print(styled(f"Nearest fit by nodes alone: {nodes.found.cluster.told}, nothing else changed."))
    if turned is None:
        console.print(styled("Nearest fit on these nodes: none of these knobs, alone or together."))
    else:
        console.print(styled(f"Nearest fit on these nodes: {turned.words}."))
        console.print(styled("  " + " ".join(f"--set={text}" for text in turned.overrides[:3])))
        if len(turned.overrides) > 3:
            console.print(styled(f"  and {len(turned.overrides) - 3} more of the kind"))


def show_differences(differences: Differences, console: Console) -> None:
    """What is not the same in two plans."""
    table = _table(f"Against {differences.other}", ["", "here", "there"], words=("",))
    for name, here, there in differences.rows:
        table.add_row(name, here, there)
    console.print(table)
    if not differences.rows:
        console.print(styled("Nothing differs."))


def _plan(found: Outlook) -> Table:
    title = "Sharding plan" if found.fits else "Tables spread evenly (there is no plan that fits)"
    table = _table(title, ["table", "rows", "dim", "sharding", "kernel", "ranks", "GB"], words=("sharding", "kernel"))
    rows = sorted(found.plan, key=lambda row: -_bytes(found, row["table"]))
    for row in rows[:SHOWN_TABLES]:
        of = found.load.tables[row["table"]]
        gb = f"{_bytes(found, row['table']) / GB:,.3f}"
        table.add_row(row["table"], f"{of.rows:,}", str(of.dim), row["sharding"], row["kernel"], ranks_of(row), gb)
    if len(rows) > SHOWN_TABLES:
        rest = sum(_bytes(found, row["table"]) for row in rows[SHOWN_TABLES:]) / GB
        table.add_row(f"and {len(rows) - SHOWN_TABLES} more", "", "", "", "", "", f"{rest:,.3f}")
    return table


def ranks_of(row: dict) -> str:
    """Where a table is, in short: `all`, `3`, `0-7`, `0,4`."""
    ranks = sorted({shard["rank"] for shard in row["shards"]})
    if not ranks:
        return "all"
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(map(str, ranks))


def _bytes(found: Outlook, table: str) -> int:
    of = found.load.tables[table]
    return of.weight_bytes(of.rows, of.dim)


def _memory(found: Outlook) -> Table:
    """What fills the fullest rank, beside the mean of all; GB."""
    places = [place for place in found.cluster.capacity]
    columns = [
        f"{PLACES[place]}, {which}" for place in places for which in (f"rank {worst(found.memory, place)}", "mean")
    ]
    table = _table("Memory of a rank, GB (the fullest, and the mean)", ["", *columns])
    parts = list(dict.fromkeys(part for one in found.memory for place in places for part in getattr(one, place)))
    for part in parts:
        cells = []
        for place in places:
            fullest: RankMemory = found.memory[worst(found.memory, place)]
            amounts = [getattr(one, place).get(part, 0.0) for one in found.memory]
            here = getattr(fullest, place).get(part, 0.0)
            cells += [_gb(here), _gb(sum(amounts) / len(amounts))]
        table.add_row(part, *cells)
    table.add_section()
    totals = [total for place in places for total in (found.most(place), mean(found.memory, place) / GB)]
    table.add_row("total", *(f"{total:,.3f}" for total in totals))
    room = [cell for place in places for cell in (f"{found.cluster.capacity[place] / GB:,.1f}", "")]
    table.add_row("room", *room)
    work = lookups_of(found.plan, found.load, len(found.memory))
    shares = [max(work) * len(work) / sum(work) if sum(work) else 1.0]
    memory = " and ".join(
        f"{found.most(place) * GB / mean(found.memory, place):.2f} of {PLACES[place]} memory" for place in places
    )
    table.caption = f"max/mean over the ranks: {memory}, {shares[0]:.2f} of the lookups"
    table.caption_justify = "left"
    return table


def _step(found: Outlook) -> Table:
    table = _table("A step, estimated (a roofline, not a measurement)", ["part", "ms", "of it hidden", "share"])
    slowest, total = bottleneck(found.parts), found.seconds
    for part in found.parts:
        mark = " <- bottleneck" if part is slowest else ""
        hidden = f"{part.hidden * 1e3:,.2f}" if part.hidden else ""
        table.add_row(f"{part.name}{mark}", f"{part.seconds * 1e3:,.2f}", hidden, f"{part.visible / total:.0%}")
    table.caption = "launches of kernels, Python and reading the data are not counted: small steps take longer"
    table.caption_justify = "left"
    table.add_section()
    table.add_row("step", f"{total * 1e3:,.2f}", "", f"{found.config.train.global_batch / total:,.0f} rows/s")
    return table


def _figures(words: str, found: Outlook, places: list[str]) -> list[str]:
    sizes = [f"{found.most(place):,.1f}" for place in places]
    return [words, *sizes, "fits" if found.fits else "too large", f"{found.seconds * 1e3:,.2f}"]


def _places(places: list[str]) -> list[str]:
    return [f"{PLACES[place]}, GB" for place in places]


def _gb(amount: float) -> str:
    return f"{amount / GB:,.3f}" if amount else ""


def _table(title: str, columns: list[str], words: tuple[str, ...] = ()) -> Table:
    table = Table(title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or column in words else "right", no_wrap=True)
    return table
