"""The documentation: what it names exists, and its lines can be read in an editor."""

import re
import string
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from dist_mtl.cli import VERBS
from dist_mtl.config import Config
from dist_mtl.config.features import AnyFeature

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
FOLDERS = "dist_mtl|tests|configs|benchmarks|launch|docs|requirements"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """What stands in backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    kept = set(string.ascii_lowercase + string.digits + "-_ ")
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {"".join(c for c in h.lower() if c in kept or c.isalpha()).replace(" ", "-") for h in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(prose(page)):
        link = match[1] or match[2]
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_paths_exist(page: Path) -> None:
    """A path in backticks, alone or as a word of a command."""
    words = [word.removeprefix("./") for span in spans(page) for word in span.split()]
    words += page.read_text().replace("`", " ").split()
    for word in words:
        if path := re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*\w/?", word.strip("(),;:'\"")):
            made = page.name == "extending.md"  # its diffs add files
            assert (ROOT / path[0]).exists() or made and path[0] in page.read_text().partition("/dev/null")[2], path[0]


@every_page
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    verbs = set(re.findall(r"(?:\bdist-mtl|python -m dist_mtl)\s+([a-z][\w-]*)", text))
    assert verbs <= VERBS.keys(), verbs - VERBS.keys()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*spans(page), *FENCE.findall(text)]
    named = {name for part in code for name in re.findall(r"(?:^|\n|; )make ([a-z][a-z-]*)", part)}
    assert named <= targets, named - targets
    for module in re.findall(r"python -m ((?:benchmarks|tests|dist_mtl)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def models(annotation: object) -> list[type[BaseModel]]:
    """Every section that a field may hold, in unions and as the values of a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models(argument)]


def is_key(dotted: str) -> bool:
    sections: list[type[BaseModel]] = [Config]
    for name in dotted.split("."):
        fields = [section.model_fields[name].annotation for section in sections if name in section.model_fields]
        if not fields:
            return False
        sections = [model for field in fields for model in models(field)]
    return True


def test_a_wrong_key_is_none() -> None:
    assert is_key("data.sample.ctr") and is_key("optim.dense.lr") and is_key("model.alignment")
    assert not is_key("data.sample.ctrl") and not is_key("train.epoch") and models(AnyFeature)


@every_page
def test_configuration_keys_exist(page: Path) -> None:
    keys = [match[1] for span in spans(page) if (match := re.match(r"([a-z_]+(?:\.[a-z_]+)+)(?= ?=|$)", span))]
    keys += re.findall(r"--set[= ]([a-z_]+(?:\.[a-z_]+)+)=", page.read_text())
    for key in keys:
        section = key.partition(".")[0]
        free = section in ("tables", "features")  # their next word is a name of the user's
        added = page.name == "extending.md" and key.startswith("model.confidence")  # by a diff of that page
        file = key.endswith((".json", ".toml", ".py", ".csv"))
        if section in Config.model_fields and not (free or added or file):
            assert is_key(key), key


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


@every_page
def test_lines_wrap(page: Path) -> None:
    """Prose ends at 120 columns; tables, code and what cannot be broken may be longer."""
    for line in prose(page).splitlines():
        table_or_code = line.startswith(("|", "    "))
        assert len(line) <= 120 or table_or_code or " " not in line.strip() or "](" in line, line


@every_page
def test_words_are_those_of_the_field(page: Path) -> None:
    assert not re.findall(r"\b(?:told|mends?|can\s+not|went\s+on|judges?)\b", prose(page), re.IGNORECASE)
