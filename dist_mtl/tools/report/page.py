"""A run -> one HTML file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dist_mtl import __version__
from dist_mtl.errors import ConfigError
from dist_mtl.observability.run_dir import check_named, check_outputs, write_file
from dist_mtl.terminal.printable import printable
from dist_mtl.tools.report import headline, quality, system, training
from dist_mtl.tools.report.event_log import Run, read

NAME = "report.html"


def write(run_dir: str, out: str | None = None) -> Path:
    """Write the report of a run to `out`, by default into its folder.

    CheckpointError or DataError where there is no run to tell of, ConfigError where `out` can not be written.
    """
    check_outputs(run_dir)
    run = read(run_dir)
    path = Path(out) if out is not None else Path(run_dir) / NAME
    check_named(path, run_dir)
    try:
        if out is None:
            write_file(path, render(run))
        else:
            path.write_text(render(run), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose with --out a file that can be written") from None
    return path


def html(template: str, **values: Any) -> str:
    """A template of this folder, filled. The page refers to nothing outside of itself, and holds no script.

    Characters that steer or hide are shown escaped: a browser turns the direction of what stands around them.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of columns, slices and folders come from data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return printable(environment.get_template(template).render(version=__version__, **values), keep="\n")


def render(run: Run) -> str:
    """The page of a run."""
    sections = (*quality.sections(run), *training.sections(run), *system.sections(run))
    word, tone = headline.state(run)
    return html(
        "page.html",
        kind="Training report",
        title=run.name,
        folder=run.folder,
        state=word,
        tone=tone,
        story=f"{headline.story(run)} {headline.verdict(run)}".strip(),
        findings=headline.findings(run),
        tiles=headline.tiles(run),
        figures=headline.figures(run),
        sections=[section for section in sections if section.blocks or section.missing],
    )
