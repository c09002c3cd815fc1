"""Parts of a model that are defined outside of the package, passed as Python objects. No file can name one.

A checkpoint records the name of each part and a digest of its source, never the code. Without the same parts its run
can be neither resumed nor scored.
"""

import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from dist_mtl.errors import ConfigError

HOW = "it is passed from Python: dist_mtl.train(config, extensions=dist_mtl.Extensions(...))"


@dataclass(frozen=True)
class Part:
    """What a checkpoint keeps of a part: where it belongs (`backbone`, `losses[0]`, `features.NAME`), which it is."""

    place: str
    name: str
    digest: str  # sha256 of its source, and of what is bound to it

    def __str__(self) -> str:
        return f"{self.place} `{self.name}` (source {self.digest[:12]})"


@dataclass(frozen=True)
class Feature:
    """A feature that a function computes from columns of the logs.

    `function(table)`: a pyarrow Table of N rows with these columns -> N numbers. With `rows` they are ids, from 0 to
    `rows` - 1 or -1 for none, and are looked up in a table of the feature's name, of `rows` x `dim`; else the network
    reads them as they are. Each row by itself: how many rows come at once differs from call to call.
    """

    function: Callable[[Any], Any]
    columns: tuple[str, ...]
    rows: int | None = None
    dim: int = 16


@dataclass(frozen=True)
class Extensions:
    """The parts of a run.

    `backbone(inputs, num_tasks, dropout)`: a torch module with `outputs`, the width of what it makes; see
    `dist_mtl.TaskInputs`. `losses`: each `loss(config)` is a `dist_mtl.Term`. `features`: by name.
    What a part depends on is bound with `functools.partial`, so that it is in the digest.
    """

    backbone: Callable[[int, int, float], Any] | None = None
    losses: tuple[Callable[[Any], Any], ...] = ()
    features: Mapping[str, Feature] = field(default_factory=dict)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What a checkpoint keeps. Raises ConfigError if a source cannot be read."""
        return tuple(_part(place, code) for place, code in self._codes())

    def _codes(self) -> Iterator[tuple[str, Callable]]:
        if self.backbone is not None:
            yield "backbone", self.backbone
        yield from ((f"losses[{number}]", loss) for number, loss in enumerate(self.losses))
        yield from ((f"features.{name}", feature.function) for name, feature in sorted(self.features.items()))

    def feature(self, name: str) -> Feature:
        """The feature of a name. Raises ConfigError if there is none."""
        if name not in self.features:
            raise ConfigError(f"features.{name}: a function makes it, and none is here; {HOW}")
        return self.features[name]


def _part(place: str, code: Callable) -> Part:
    bound = ""
    if isinstance(code, partial):
        try:
            bound = json.dumps([code.args, code.keywords], sort_keys=True)
        except (TypeError, ValueError):
            raise ConfigError(f"{place}: bind numbers, texts and lists to it, which a digest can be made of") from None
        code = code.func
    if not (inspect.isclass(code) or inspect.isfunction(code)):
        raise ConfigError(f"{place}: pass a class or a function, or a functools.partial of one; got {code!r:.80}")
    source = textwrap.dedent(_source(place, code))
    return Part(place, code.__qualname__, hashlib.sha256(f"{source}{bound}".encode()).hexdigest())


def _source(place: str, code: Callable) -> str:
    """Of a class that was typed into a notebook Python finds the methods' source alone, before 3.13."""
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        functions = [value for _, value in sorted(vars(code).items()) if inspect.isfunction(value)]
    try:
        if functions:
            return "".join(map(inspect.getsource, functions))
    except (OSError, TypeError):
        pass
    raise ConfigError(f"{place}: the source of `{code.__qualname__}` cannot be read; define it in a module or a cell")
