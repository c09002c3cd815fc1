"""The description as one HTML file, in the frame and the style of the reports."""

from pathlib import Path

from dist_mtl.errors import ConfigError
from dist_mtl.tools.describe import summary_tables
from dist_mtl.tools.describe.description import Description
from dist_mtl.tools.describe.findings import findings
from dist_mtl.tools.describe.suggested_config import shown
from dist_mtl.tools.report.blocks import Block, Cell, Code, Figures, Finding, Section, Table, Tile, Tone
from dist_mtl.tools.report.charts import Bar, bars
from dist_mtl.tools.report.number_format import count, percent, plural, size
from dist_mtl.tools.report.page import html

LEDES = {
    "suspects": "The strongest first. What tells a label too well was made from it, or is known only after it.",
    "days": "The population stability index compares a day with the first one: below 0.1 the same, above 0.25 another.",
    "tables": "How many ids each table will be asked for, and how many of them will share a row.",
}
CHARTED_DAYS = 31


def write(description: Description, path: str) -> Path:
    """Write the page. Raises ConfigError where it can not be written."""
    target = Path(path)
    try:
        target.write_text(render(description), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose with --html a file that can be written") from None
    return target


def render(description: Description) -> str:
    """The page."""
    found = findings(description)
    word, tone = _state(found)
    return html(
        "page.html",
        kind="Dataset report",
        title=Path(description.folder).name or description.folder,
        folder=description.folder,
        state=word,
        tone=tone,
        story=f"{summary_tables.headline(description)}.",
        findings=found,
        tiles=(),
        figures=_figures(description),
        sections=[*_sections(description), _suggested(description)],
    )


def _state(found: tuple[Finding, ...]) -> tuple[str, Tone]:
    bad = sum(one.tone == "bad" for one in found)
    if bad:
        return f"{plural(bad, 'thing')} to mend", "bad"
    return ("worth a look", "look") if any(one.tone == "look" for one in found) else ("ready", "good")


def _figures(d: Description) -> tuple[Tile, ...]:
    tiles = [
        Tile("rows", count(d.counts.rows), plural(len(d.manifest.files), "file")),
        Tile("bytes", size(sum(file.bytes for file in d.manifest.files)), plural(len(d.columns), "column")),
    ]
    for task in d.outcomes.tasks:
        positives, negatives = (int(x) for x in task.split(d.counts.class_rows))
        if positives + negatives:
            tiles.append(
                Tile(task.name, percent(positives / (positives + negatives), 2), plural(positives, "positive"))
            )
    return tuple(tiles)


def _sections(d: Description) -> list[Section]:
    sections = []
    for table in summary_tables.tables(d):
        rows = tuple(tuple(Cell(text) for text in row) for row in table.rows)
        blocks: tuple[Block, ...] = (Table(table.columns, rows, note=table.note),)
        if table.anchor == "days" and len(d.days) > 1:
            blocks = (_charts(d), *blocks)
        sections.append(Section(table.anchor, table.title, blocks, LEDES.get(table.anchor, "")))
    return sections


def _charts(d: Description) -> Figures:
    days, word = d.days[-CHARTED_DAYS:], d.counts.plan.day.word
    figures = [bars("Rows a day", [Bar(word(day.key), day.rows, count(day.rows)) for day in days])]
    for place, task in enumerate(d.outcomes.tasks):
        rates = [(word(day.key), day.rates[place]) for day in days if day.rates[place] == day.rates[place]]
        figures.append(bars(f"Rate of {task.name}", [Bar(name, rate, percent(rate, 2)) for name, rate in rates]))
    return Figures(tuple(figures))


def _suggested(d: Description) -> Section:
    lines = tuple(shown(d).splitlines())
    lede = "Save it, edit it, and train: dist-mtl train mine.toml"
    return Section("config", "A configuration to start from", (Code("Show it", lines),), lede)
