"""What a finished cell has found, read from its events; and what it was run by."""

import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dist_mtl import __version__
from dist_mtl.bounded import parse_json, read_bytes
from dist_mtl.errors import DataError
from dist_mtl.observability.events import STREAM
from dist_mtl.observability.run_dir import write_file
from dist_mtl.scoring.evaluate import Evaluation
from dist_mtl.tools.report import event_log
from dist_mtl.tools.study.cells import Cell

ABOUT = "cell.json"
MAX_ABOUT = 1 << 24  # bytes of it: a command is at most a few


@dataclass(frozen=True)
class Code:
    """The programs at work: release, and where there is git the commit and whether files differ from it."""

    version: str
    commit: str | None
    changed: bool

    def __str__(self) -> str:
        commit = "no git commit" if self.commit is None else f"commit {self.commit[:12]}"
        return f"dist_mtl {self.version}, {commit}{', with changes' if self.changed else ''}"


@dataclass(frozen=True)
class About:
    """`cell.json`: what a cell was last started with."""

    command: tuple[str, ...]
    code: Code


@dataclass(frozen=True)
class Found:
    """The final evaluation of a cell, by the weights of `step`; `seconds` of all its attempts."""

    evaluation: Evaluation
    step: int
    seconds: float
    versions: dict[str, str]
    about: About


def read(cell: Cell) -> Found | None:
    """What a cell has found; None: it is not finished, or was made with other settings."""
    events = _events(cell.folder / STREAM)
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    if not starts or events[starts[-1]].get("config") != json.loads(cell.config.model_dump_json()):
        return None
    finals = [event for event in events[starts[-1] :] if event["event"] == "evaluation" and event.get("final")]
    if not finals:
        return None
    try:
        evaluation = TypeAdapter(Evaluation).validate_python(_with_nan(finals[-1]))
        step = TypeAdapter(int).validate_python(finals[-1].get("step"))
        versions = TypeAdapter(dict[str, str]).validate_python(events[starts[-1]].get("versions"))
        about = TypeAdapter(About).validate_python(parse_json(read_bytes(cell.folder / ABOUT, MAX_ABOUT)))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{cell.folder}: not a cell of this release: {str(error).splitlines()[0]}; remove the folder, and the "
            f"study trains it again"
        ) from None
    seconds = event_log.read(str(cell.folder)).seconds
    return Found(evaluation, step, seconds, versions, about)


def write_about(cell: Cell, about: About) -> None:
    """Note what a cell is started with. Raises DataError if the disk refuses."""
    path = cell.folder / ABOUT
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(asdict(about), indent=1) + "\n")
    except OSError as error:
        raise DataError(f"{path}: can not be written: {error.strerror}") from None


def code_of(root: Path) -> Code:
    """The code of `root`/dist_mtl, by git where it is a checkout and git is there.

    A repository that only holds the environment in which dist_mtl is installed is not its checkout.
    """
    tracked = ("ls-files", "--error-unmatch", "dist_mtl/__init__.py")
    try:
        _, commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (tracked, ("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return Code(__version__, None, False)
    return Code(__version__, commit, bool(changes))


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        return event_log.read_events(path)
    except FileNotFoundError:
        return []


def _with_nan(value: Any) -> Any:
    """The event's null, which stands for a metric that is not defined, as the number that it was."""
    if isinstance(value, dict):
        return {key: _with_nan(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_with_nan(below) for below in value]
    return math.nan if value is None else value
