"""Where a dataset is, in words: a path or a URL, and behind `?` the partitions that are taken of it.

    logs                                    every file that the manifest of the folder lists
    logs?day=2024-01-01..2024-01-07         the files in day=2024-01-01 to day=2024-01-07, both included
    s3://bucket/logs?region=eu-west-1&day=2024-01-01..2024-01-07&country=DE..DE

One string names the rows, so wherever a folder can be written (configuration or command line) a range can, too. What
behind the `?` is no KEY=FIRST..LAST belongs to the filesystem.
"""

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from dist_mtl.errors import ConfigError

Range = tuple[str, str]  # first and last value; whole numbers are compared as such (data/files/partition.py)
RANGE = re.compile(r"([^=]+)=(.+?)\.\.(.+)")
WHOLE = re.compile(r"-?\d{1,18}")
# What a URL must not hold: user:password@, and parameters that are keys or signatures.
PASSWORD = re.compile(r"//[^/@\s]*:[^/@\s]*@")
SECRETS = "secret|token|passw|signature|credential|access_?key|api_?key"
KEY = re.compile(rf"([?&;][^=&;]*(?:{SECRETS})[^=&;]*|[?&;]sig)=[^&;\s]+", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A folder by its path or URL, and the range of each partition key that is taken."""

    url: str
    ranges: dict[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.is_local and without_secrets(self.url) != self.url:
            raise ConfigError(
                f"{without_secrets(self.url)}: a key or a password stands in the URL, from where it would come into "
                f"logs, commits and reports; leave it to the environment (AWS_ACCESS_KEY_ID, "
                f"GOOGLE_APPLICATION_CREDENTIALS, ...) or to the files of the store's own tools"
            )
        for key, (first, last) in self.ranges.items():
            if not (key and first and last):
                raise ConfigError(f"{self.url}: {key or 'a range'} needs a name, a first and a last value")
            low, high = compared((first, last))
            if low > high:
                raise ConfigError(f"{self.url}: {key} from {first} to {last} is no range; write the first value first")

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read the notation above. Raises ConfigError: a key stands there twice, or a range goes backwards."""
        url, _, query = text.rpartition("?")
        items = query.split("&") if url else []
        found = [match for item in items if (match := RANGE.fullmatch(item))]
        if not found:
            return cls(text)
        ranges: dict[str, Range] = {}
        for key, first, last in (map(unquote, match.groups()) for match in found):
            if key in ranges:
                raise ConfigError(f"{text}: two ranges of `{key}`; write one, KEY=FIRST..LAST")
            ranges[key] = (first, last)
        rest = "&".join(item for item in items if not RANGE.fullmatch(item))
        return cls(f"{url}?{rest}" if rest else url, ranges)

    def __str__(self) -> str:
        ranges = "&".join(f"{_told(key)}={_told(first)}..{_told(last)}" for key, (first, last) in self.ranges.items())
        return f"{self.url}{'&' if '?' in self.url else '?'}{ranges}" if ranges else self.url

    @property
    def is_local(self) -> bool:
        """Whether it is a path on this machine, not a URL."""
        return "://" not in self.url


def without_secrets(text: str) -> str:
    """`text` with every user:password@ and every key in a URL as ***, for a message."""
    return KEY.sub(r"\1=***", PASSWORD.sub("//***@", text))


def normal(text: str) -> str:
    """A place in a form in which two spellings of one path are equal."""
    place = Place.parse(text)
    return str(Place(os.path.normpath(place.url) if place.is_local else place.url.rstrip("/"), place.ranges))


def with_ranges(text: str, ranges: Mapping[str, tuple[int | str, int | str]]) -> str:
    """The place `text`, cut to `ranges` as well. Raises ConfigError for a key that has another range there already."""
    place, more = Place.parse(text), {key: (str(first), str(last)) for key, (first, last) in ranges.items()}
    if twice := [key for key in more if place.ranges.get(key, more[key]) != more[key]]:
        raise ConfigError(f"{text}: has another range of `{twice[0]}` already, {' to '.join(more[twice[0]])}; keep one")
    return str(Place(place.url, place.ranges | more))


def overlap(a: str, b: str) -> bool:
    """Whether two places can have a row in common: one folder, and no key whose two ranges lie apart."""
    left, right = Place.parse(normal(a)), Place.parse(normal(b))
    shared = left.ranges.keys() & right.ranges.keys()
    return left.url == right.url and not any(_apart(left.ranges[key], right.ranges[key]) for key in shared)


def compared(values: tuple[str, ...]) -> tuple[int, ...] | tuple[str, ...]:
    """The values as what they are compared as: whole numbers if all of them are, else text."""
    return tuple(map(int, values)) if all(WHOLE.fullmatch(value) for value in values) else values


def _apart(a: Range, b: Range) -> bool:
    first_a, last_a, first_b, last_b = compared((*a, *b))
    return last_a < first_b or last_b < first_a


def _told(text: str) -> str:
    quoted = quote(text, safe=" :+,")
    # A dot beside the two that part first from last, or two in a value, would be read as those.
    return quoted.replace(".", "%2E") if f".{text}.".count("..") else quoted
