"""The end of a study: DIR/study.json, DIR/study.md and DIR/study.html, and the answer on stdout."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_mtl.errors import DataError, InternalError
from dist_mtl.observability.run_dir import write_file
from dist_mtl.terminal.console import Console, Table, stacked
from dist_mtl.tools.report.blocks import Section
from dist_mtl.tools.report.blocks import Table as Block
from dist_mtl.tools.report.number_format import moment, plural
from dist_mtl.tools.report.page import html
from dist_mtl.tools.study.cells import Plan
from dist_mtl.tools.study.markdown import code, markdown
from dist_mtl.tools.study.results import Results, collect
from dist_mtl.tools.study.run import Worked
from dist_mtl.tools.study.sections import sections

NAME = "study"  # .json, .md, .html


def conclude(plan: Plan, worked: Worked, command: str) -> None:
    """Write what the finished cells say and print it. `command`: what the study was started with.

    Raises DataError if the disk refuses; InternalError, after all is written, if a cell has failed.
    """
    found = collect(plan, worked, command)
    parts, title = sections(found), Path(plan.path).stem
    story = _story(found)
    folder = Path(plan.study.dir)
    texts = {
        "json": json.dumps(_json(asdict(found)), indent=1, allow_nan=False) + "\n",
        "md": markdown(title, (Section("about", "What this is", lede=f"{story} {code(command)}"), *parts)),
        "html": html("base.html", kind="Study", title=title, story=story, sections=parts, folder=plan.study.dir),
    }
    for suffix, text in texts.items():
        path = folder / f"{NAME}.{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, text)
        except OSError as error:
            raise DataError(f"{path}: can not be written: {error.strerror}; the cells are intact") from None
    _print(parts, folder)
    if found.failures:
        lines = (f"{one.name}: {one.reason}; see {one.log}" for one in found.failures)
        told = f"{plural(len(found.failures), 'job')} failed; what is finished stands, run the study again for the rest"
        raise InternalError("\n".join((told, *lines)))


def _story(found: Results) -> str:
    study = found.study
    numbers = plural(len(study["backbones"]), "backbone"), plural(len(study["methods"]), "method")
    finished = sum(cell.seconds is not None and cell.stage == "final" for cell in found.cells)
    return (
        f"{' x '.join(numbers)} x {plural(len(study['seeds']), 'seed')}, {plural(finished, 'run')} finished; each "
        f"method against {found.baseline}, paired by seed. {moment(found.made)}."
    )


def _print(parts: Sequence[Section], folder: Path) -> None:
    """The tables of the summary and of every metric."""
    console = Console(wide=160)
    tables = [(part.title, block) for part in parts for block in part.blocks if isinstance(block, Block)]
    details = next(place for place, (title, _) in enumerate(tables) if title == "Every difference")
    for title, block in tables[:details]:
        table = Table(title)
        for column in block.columns:
            table.add_column(column.name, justify="right" if column.numeric else "left")
        for row in block.rows:
            table.add_row(*(stacked(cell.text, *filter(None, [cell.note])) for cell in row))
        console.print(table)
    console.print(f"{folder / NAME}.md, .html, .json", soft_wrap=True)


def _json(value: Any) -> Any:
    """`value` with what JSON can not say (NaN: not known) as null."""
    if isinstance(value, dict):
        return {str(key): _json(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_json(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
