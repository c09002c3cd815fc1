"""TOML file + dotted overrides -> `Config`, or one `ConfigError` that names every wrong key."""

import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dist_mtl.bounded import BeyondBounds, read_bytes
from dist_mtl.config import Config
from dist_mtl.config.dataset_uri import without_secrets
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.recipes import names, resolved
from dist_mtl.config.rules import MOST_TOLD
from dist_mtl.config.section import Section
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.terminal.printable import printable
from dist_mtl.terminal.wording import plural

S = TypeVar("S", bound=Section)
Overrides = Sequence[str] | Mapping[str, Any]  # "train.epochs=2", or the same as {"train.epochs": 2}
MAX_BYTES = 1_000_000  # a configuration is written by hand; more is a mistake or an attack
MAX_LINE = 1_000  # characters of a message's line: a key or a value may be of any length
# a.b.c ... with more than 64 parts: tomllib takes a time that grows with their square, minutes for a file of 1 MB.
PART = r"""(?:[\w+-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')"""
CHAIN = re.compile(rf"""(?<![\w+\\-]){PART}(?:[ \t]*+\.[ \t]*+{PART}){{64}}""")

SURROGATE = re.compile(r"[\ud800-\udfff]")  # also what Python makes of an argument's bytes that are not UTF-8
ODD = re.compile(r"""[\s.="']""")  # in a key: it is written in quotes
# A part of an override's key, up to the dot, the equals sign or the end behind it.
KEY = re.compile(
    r"""\s*+(?:(?P<quoted>"(?:\\.|[^"\\\n])*+")|(?P<literal>'[^'\n]*+')|(?P<bare>(?!["'])[^.=]*+))\s*+(?=[.=]|$)"""
)


def load(path: str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Config:
    """Read `path`, or take the tree that a file would hold, and apply overrides: `train.epochs=2`, or a dict of them.

    A part of an override's key may stand in quotes: `features."my column".log=true`. The value is read as TOML where it
    is TOML (`2`, `true`, `[1, 2]`, `"x"`), else as a plain string, unless it begins as only TOML does, with a quote or
    a bracket. Raises ConfigError: no such file, not TOML, an unknown key, a wrong type, values that do not fit.
    """
    if isinstance(path, Mapping):
        return parse(plain(path), overrides)
    return parse(read_toml(path), overrides, source=str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError if it is absent, too large, or not TOML."""
    path = resolved(path)
    try:
        return _toml(read_bytes(path, MAX_BYTES).decode("utf-8-sig"))  # with the mark that some editors put first
    except BeyondBounds as error:
        raise ConfigError(f"{path}: no configuration: {error}") from None
    except OSError as error:
        siblings = [str(p) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        siblings += names() if path.parent == Path() and not path.suffix else []
        raise ConfigError(f"{path}: {error.strerror}. {nearest(str(path), siblings)}".strip()) from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or an integer of more than 4,300 digits
        raise ConfigError(f"{path}: not TOML: {readable(str(error))}") from None


def _toml(text: str) -> dict[str, Any]:
    """Raises ValueError or RecursionError for what is not TOML, or nested deeper than any configuration."""
    if CHAIN.search(text):
        raise ValueError("a key of more than 64 parts; no key of a configuration has more than 5")
    return tomllib.loads(text)


def parse(tree: dict[str, Any], overrides: Overrides = (), source: str = "config") -> Config:
    """Validate `tree` with `overrides` on top. `source` names it in errors."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: {readable(overrides)!r} is one text; pass a list of them, or a dict")
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            source_of_key = f"overrides[{readable(str(key))!r}]"
            keys, end = _keys(str(key), source_of_key)
            if end < len(str(key)):
                raise ConfigError(f"{source_of_key}: a key is written as section.key, without an equals sign")
            tree = _with(tree, keys, plain(value), source_of_key)
    else:
        for text in overrides:
            tree = _override(tree, text)
    return validated(Config, tree, source)


def extended(config: Config, extensions: Extensions) -> Config:
    """The configuration with parts from outside of the package. Raises ConfigError if one does not fit in it."""
    if not isinstance(extensions, Extensions):
        raise ConfigError(f"extensions: pass a dist_mtl.Extensions, not a {type(extensions).__name__}")
    _ = extensions.parts  # that of one that has none is told now, not at the first checkpoint
    tree = config.model_dump(mode="json")
    for name, feature in extensions.features.items():
        if name in config.features and config.features[name].kind != "custom":
            raise ConfigError(f"extensions: features.{name} is in the configuration already; choose another name")
        columns = [feature.columns] if isinstance(feature.columns, str) else list(feature.columns)
        made = {"kind": "custom", "columns": columns, "rows": feature.rows, "dim": feature.dim}
        tree["features"][name] = made
    if extensions.backbone is not None:
        tree["model"]["backbone"] = {"kind": "custom"}
    return with_extensions(parse(tree, source="extensions"), extensions)


def with_extensions(config: Config, extensions: Extensions) -> Config:
    """A configuration that was `extended` before, with the same parts again."""
    whole = config.model_copy()
    whole._extensions = extensions
    return whole


def validated(kind: type[S], tree: dict[str, Any], source: str) -> S:
    """The tables of a file as a section of this kind, nothing unknown in it and nothing converted.

    Raises ConfigError, one line for each mistake, with the dotted key and the nearest that there is.
    """
    try:
        # JSON in strict mode: lists become tuples, an int may stand for a float, and nothing else is converted.
        # A TOML date is its ISO text, as which the folders of partitions are named and compared.
        return kind.model_validate_json(json.dumps(tree, default=_iso), strict=True)
    except ValidationError as error:
        lines = [line for item in error.errors(include_url=False)[:MOST_TOLD] for line in _explain(item, kind)]
        more = error.error_count() - MOST_TOLD
        lines += [f"and {plural(more, 'mistake')} more; correct these first"] if more > 0 else []
        raise ConfigError("\n".join(f"{source}: {readable(line)}" for line in lines)) from None
    except RecursionError:
        deep = "values are nested too deeply; no value of a configuration is deeper than 5"
        raise ConfigError(f"{source}: {deep}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {readable(str(error))}") from None


def readable(text: str) -> str:
    """`text` for a terminal and a log: no secrets of URLs, control characters as their escapes, of bounded length."""
    safe = without_secrets(text)
    shown = safe if len(safe) <= MAX_LINE else f"{safe[: MAX_LINE // 2]} ... {safe[-MAX_LINE // 2 :]}"
    return printable(shown)


def _iso(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no value of a configuration")


def _override(tree: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy of `tree` with one `a.b.c=value` applied."""
    source = f"--set={readable(text)}"
    if not text.isascii() and SURROGATE.search(text):
        raise ConfigError(f"{source}: it is not UTF-8; write it anew")
    keys, end = _keys(text, source)
    if end == len(text):
        raise ConfigError(f"{source}: write it as --set=section.key=value")
    return _with(tree, keys, _value(text[end + 1 :], text), source)


def _keys(text: str, source: str) -> tuple[list[str], int]:
    """The parts of the dotted key that `text` begins with, and where it ends: at an equals sign, or with the text.

    A part is written as in TOML, in quotes where it has a dot, an equals sign or a quote in it.
    """
    keys, end = [], -1
    while end < 0 or text[end : end + 1] == ".":
        part = KEY.match(text, end + 1)
        if part is None:
            raise ConfigError(f"{source}: a quote of the key is not closed, or not where a part of it begins and ends")
        end, quoted, literal = part.end(), part["quoted"], part["literal"]
        try:
            bare = quoted is None and literal is None
            keys.append(part["bare"].rstrip() if bare else _toml(f"x={quoted or literal}")["x"])
        except ValueError as error:
            raise ConfigError(f"{source}: `{readable(quoted or literal)}`: {readable(str(error))}") from None
    if not all(keys):
        raise ConfigError(f"{source}: a key is written as section.key, as in --set=section.key=value")
    return keys, end


def _with(tree: dict[str, Any], keys: list[str], value: Any, source: str) -> dict[str, Any]:
    """A copy of `tree` with `value` at the key `a.b.c`."""
    root = node = dict(tree)
    for key in keys[:-1]:
        below = node.get(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{source}: `{readable(key)}` is a value, it has no keys below it")
        node[key] = dict(below)
        node = node[key]
    node[keys[-1]] = value
    return root


def plain(value: Any) -> Any:
    """A value of Python as a TOML file would hold it: a path as its text, a number of numpy as Python's own."""
    if isinstance(value, Mapping):
        return {str(key): plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [plain(below) for below in value]
    if isinstance(value, PurePath):
        return str(value)
    return value.item() if hasattr(value, "item") and not isinstance(value, type) else value


def _value(raw: str, text: str) -> Any:
    """What stands behind the `=` of the override `text`. A quote that is not closed would else be part of a path."""
    try:
        read = _toml(f"value = {raw}")
        if len(read) == 1:
            return read["value"]
        problem = "more than one value"  # behind a line break
    except (ValueError, RecursionError) as error:  # see read_toml
        problem = str(error)
    if raw.strip().startswith(('"', "'", "[", "{")):
        raise ConfigError(
            f'--set={readable(text)}: the value is not TOML: {readable(problem)}; write a text as "...", with \\" for '
            f"a quote within, or with no quotes at all (the shell takes one pair: --set='key=\"text\"')"
        )
    return raw


def _explain(item: Any, root: type[BaseModel]) -> list[str]:
    """One pydantic error as lines for a reader: the dotted key, what is wrong, the nearest key."""
    keys, model = _walk(item["loc"], root)
    where = ".".join(json.dumps(key, ensure_ascii=False) if ODD.search(key) else key for key in keys)
    match item["type"]:
        case "extra_forbidden":
            known = list(model.model_fields) if model is not None else []
            hint = nearest(keys[-1], known) or (f"known keys: {', '.join(known)}" if known else "")
            return [f"{where} is not a key; {hint}".rstrip("; ")]
        case "json_invalid":  # json.dumps has written it, so it is JSON but for this
            return ["a key or a value is not UTF-8; write it anew"]
        case "missing":
            return [f"{where} is missing"]
        case "value_error" if not keys:
            return str(item["ctx"]["error"]).splitlines()
        case "value_error":
            return [f"{where}: {item['ctx']['error']}"]
        case _:
            return [f"{where or 'the whole'}: {item['msg']}; got {_brief(item['input'])}"]


def _brief(value: Any) -> str:
    """A value for a message, at most 80 characters; secrets go before the cut could hide what they are."""
    text = without_secrets(repr(value[:1000] if isinstance(value, str) else value))
    return text if len(text) < 80 else text[:77] + "..."


def _walk(loc: Sequence[str | int], root: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Follow an error's location through the sections: the keys as the user wrote them, and the last section met.

    Pydantic puts the tag of a union (`id`, `mmoe`, ...) into the location; the user did not write that.
    """
    keys: list[str] = []
    here: Any = root
    section: type[BaseModel] | None = root
    for part in loc:
        kinds = _sections(here)
        tagged = [
            k for k in kinds if typing.get_args(getattr(k.model_fields.get("kind"), "annotation", None)) == (part,)
        ]
        if len(kinds) > 1 and tagged:
            here = section = tagged[0]
            continue
        keys.append(str(part))
        if typing.get_origin(here) is dict:
            here = typing.get_args(here)[1]
            continue
        section = kinds[0] if len(kinds) == 1 else None
        field = section.model_fields.get(str(part)) if section else None
        here = field.annotation if field else None
    return keys, section


def _sections(hint: Any) -> list[type[BaseModel]]:
    """The section classes that a type hint allows."""
    if typing.get_origin(hint) in (typing.Annotated, typing.Union, types.UnionType):
        return [k for arg in typing.get_args(hint) for k in _sections(arg)]
    return [hint] if isinstance(hint, type) and issubclass(hint, BaseModel) else []
