"""Sample logs as a command line asks for them: options of both kinds -> a spec, or one message for each wrong one."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from dist_mtl.config import LogStream, SampleLogs, Section
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import ConfigError

Kind = Literal["shop", "benchmark"]
KINDS: dict[Kind, type[SampleLogs] | type[BenchmarkLogs]] = {"shop": SampleLogs, "benchmark": BenchmarkLogs}


@dataclass(frozen=True)
class Option:
    """A number that a spec can take. `kind` None: either kind. The default stands in the spec's class."""

    name: str
    field: str
    words: str
    kind: Kind | None = None

    @property
    def help(self) -> str:
        """The words, with the default."""
        owner: type[Section] = LogStream if self.kind is None else KINDS[self.kind]
        default = owner.model_fields[self.field].default
        return self.words if default is None else f"{self.words} (default {default:,})"


OPTIONS = (
    Option("--rows-per-day", "rows_per_day", "order the rows by time; the test rows follow the train rows"),
    Option("--new-ids-per-day", "new_ids_per_day", "share of the ids that new ones replace, e.g. 0.05"),
    Option("--cutoff-day", "cutoff_day", "a column conversion_seen: what is known when this day begins"),
    Option("--users", "num_users", "users", "shop"),
    Option("--items", "num_items", "items", "shop"),
    Option("--ids", "ids", "id columns c0, c1, ...", "benchmark"),
    Option("--dense", "dense", "dense columns d0, d1, ...", "benchmark"),
    Option("--rows-per-table", "rows_per_table", "ids of each column", "benchmark"),
    Option("--histories", "histories", "list columns h0, h1, ...", "benchmark"),
    Option("--history-length", "history_length", "mean length of a list; log-normal", "benchmark"),
)


def spec_of(kind: Kind, given: dict[str, float | None], values: dict[str, Any]) -> SampleLogs | BenchmarkLogs:
    """The spec of OPTIONS' `given` numbers by field (None: its default) and of further `values`.

    Raises ConfigError for values that can not be, and for options of the other kind.
    """
    for option in OPTIONS:
        if given[option.field] is not None and option.kind not in (None, kind):
            raise ConfigError(f"{option.name} belongs to --kind {option.kind}, and this is --kind {kind}")
    numbers = {field: int(x) if x.is_integer() else x for field, x in given.items() if x is not None}
    known = KINDS[kind].model_fields
    try:
        return KINDS[kind](**{field: value for field, value in (numbers | values).items() if field in known})
    except ValidationError as error:
        names = {option.field: option.name for option in OPTIONS}
        lines = [
            f"{names.get(str(place[0]), f'--{place[0]}')} {item['input']}: {item['msg']}" if place else item["msg"]
            for item in error.errors()
            for place in [item["loc"]]
        ]
        raise ConfigError("\n".join(lines)) from None
