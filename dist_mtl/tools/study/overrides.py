"""Dotted configuration overrides as a study file has them -> the texts that `--set=` takes."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

Overrides = dict[str, Any]  # "model.backbone" = { kind = "mmoe" }; the value replaces all that stands there


def texts(overrides: Overrides) -> tuple[str, ...]:
    """`KEY=VALUE` for each, in the order of the file; `config.file.load` reads them back as the same values."""
    return tuple(f"{key}={toml(value)}" for key, value in overrides.items())


def toml(value: Any) -> str:
    """A value as TOML on one line. Raises ValueError for what JSON has not either: dates and times."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)  # TOML has no surrogate pairs
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {toml(below)}' for key, below in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            raise ValueError(f"{value!r} is nothing that a configuration holds")


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)


def problems(overrides: Overrides, taken: Iterable[str]) -> Iterator[str]:
    """What is wrong with the keys: written without quotes, or one of `taken`, which the study sets itself."""
    for key, value in overrides.items():
        if isinstance(value, dict) and "." not in key:
            inner = next(iter(value), "key")
            yield f'{key}: write dotted keys in quotes, "{key}.{inner}" = ..., else all of [{key}] would be replaced'
        for mine in taken:
            if key == mine or key.startswith(f"{mine}.") or mine.startswith(f"{key}."):
                yield f"{key}: the study sets `{mine}` itself; remove it"
