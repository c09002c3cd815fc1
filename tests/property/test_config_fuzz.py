"""R8: whatever stands in a configuration or behind `--set=`, it is a Config again, or one ConfigError at once.

`make config-fuzz` runs 5,000 cases and prints the figures, `make test` some of them (CONFIG_FUZZ_CASES).
"""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling.scale_file import read_scale
from dist_mtl.config import Config
from dist_mtl.config.file import load, parse
from dist_mtl.errors import ConfigError
from dist_mtl.tools.study.study_file import read_study
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
NUM_CASES = int(os.environ.get("CONFIG_FUZZ_CASES", "400"))
MOST_SECONDS = 0.05  # of CPU time, from the file to the error
TRIES = 5  # another process of the machine may cost a case its caches, but not five times
FILES = sorted((ROOT / "configs").glob("*.toml"))
LINE = re.compile(r"^(\s*)([\w.\"-]+)(\s*=\s*)([^#\n]+)", re.M)

VALUES = [
    "0", "-1", "1", "2", "63", "0.5", "1e308", "5e-324", "-0.0", "inf", "-inf", "nan", "true", "false", "1_000",
    f"{2**63}", f"-{10**30}", "9" * 4_000, "9" * 5_000, "0x" + "f" * 6_000, "0o777", "1e400", "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", '""', '"x"', '"$HOME/x"', '"~/x"', '"${AWS_SECRET_ACCESS_KEY}"', '"$(touch canary)"',
    '"__import__(\'os\').system(\'true\')"', '"!!python/object/apply:os.system"', '"../../x"', '"/dev/null"',
    r'"\u0000"', r'"\u001b[2J"', r'"\U0001F600"', r'"\ud800"', '"é\u202e\u2028"', '"' + "a" * 100_000 + '"', "'''\n'''",
    "[]", "[[]]", "[1, 'x']", '["a", "a"]', "[" * 500 + "]" * 500, "[" * 5_000, "{}", "{ kind = 'id' }", "{ kind = 3 }",
    "{ a = " * 300 + "1" + " }" * 300, "{ kind = 'mmoe', experts = 1 }", "{ a.b.c = 1, a.b = 2 }", "{ kind = ['x'] }",
    ".".join(["{ a"] + ["a"] * 3_000) + " = 1 }", "",
]  # fmt: skip
WORDS = ["kind", "rows", "model", "train.epochs", "run.dir", "features.x.kind", "optim.dense", "a" * 5_000, '"a.b"',
         '"\\u0000"', "__class__", "model_config", "é", "-", "1", "tables.items", ".".join("a" * 300)]  # fmt: skip
BYTES = [b"", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\x1b[2J", b"[", b"]]", b'"', b'"""', b"=", b"#", b"\n", b"\r",
         b"\\", b"{", b"9" * 30, "\ufeff".encode(), b".", b"'"]  # fmt: skip


def _value(text: str, draw: random.Random) -> str:
    """Another value for some key."""
    found = list(LINE.finditer(text))
    return text if not found else _spliced(text, draw.choice(found).span(4), draw.choice(VALUES))


def _near_miss(text: str, draw: random.Random) -> str:
    """A key with a letter more, less, or of another case."""
    found = list(LINE.finditer(text))
    if not found:
        return text
    one = draw.choice(found)
    key, place = one.group(2), draw.randrange(len(one.group(2)))
    return _spliced(text, one.span(2), draw.choice([key[:place] + key[place + 1 :], key + "s", key.upper(), f"x{key}"]))


def _other_number(text: str, draw: random.Random) -> str:
    """A number of the same type, mostly in range."""
    found = list(re.finditer(r"(?<=[ \[])\d+(?=[,\s\]])", text))
    if not found:
        return text
    one = draw.choice(found)
    return _spliced(text, one.span(), str(draw.choice([int(one.group()) * 2, int(one.group()) + 1, 0, 7])))


def _spliced(text: str, span: tuple[int, int], new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


def _moved_line(text: str, draw: random.Random) -> str:
    """A line twice, away, or elsewhere: a key that is there already, a value without its section."""
    lines = text.splitlines(keepends=True) or [""]
    line = draw.choice(lines)
    match draw.randrange(3):
        case 0:
            lines.insert(draw.randrange(len(lines)), line)
        case 1:
            lines.remove(line)
        case _:
            lines.append(f"\n{line}")
    return "".join(lines)


def _new_key(text: str, draw: random.Random) -> str:
    """A key more, at the top, at the end, or in a section of its own."""
    pair = f"{draw.choice(WORDS)} = {draw.choice(VALUES)}\n"
    return draw.choice([pair + text, f"{text}\n{pair}", f"{text}\n[{draw.choice(WORDS)}]\n{pair}"])


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)]


def _endings(text: str, draw: random.Random) -> str:
    """As editors of other systems write it; or nothing, or blanks."""
    endings = [
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        text.replace("\n", "\r"),
        text.replace(" ", "\t"),
        "",
        "  \n",
    ]
    return draw.choice(endings)


def _damaged(raw: bytes, draw: random.Random) -> bytes:
    """Bytes exchanged anywhere."""
    content = bytearray(raw)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(content) + 1)
        content[place : place + draw.randrange(3)] = draw.choice(BYTES)
    return bytes(content)


CHANGES = (
    _value,
    _value,
    _other_number,
    _other_number,
    _other_number,
    _near_miss,
    _moved_line,
    _new_key,
    _endings,
    _cut,
)


def mutated(path: Path, draw: random.Random) -> bytes:
    """A configuration with 0 to 3 changes of its text, and now and then of its bytes."""
    text = path.read_text()
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        text = draw.choice(CHANGES)(text, draw)
    raw = text.encode(errors="surrogatepass")
    return _damaged(raw, draw) if draw.random() < 0.15 else raw


def overrides_of(path: Path, draw: random.Random) -> list[str]:
    """0 to 3 of what can stand behind `--set=`."""
    keys = ["train.epochs", "train.global_batch", "run.dir", "data.train", "model.backbone", "features.user.kind"]
    keys += [one.group(2) for one in LINE.finditer(path.read_text())]
    pairs = [f"{draw.choice([*keys, *WORDS])}={draw.choice(VALUES)}" for _ in range(draw.choice((0, 0, 1, 2)))]
    return [
        draw.choice([pair, pair, pair, pair.replace("=", ""), f"{pair}\nseed = 2", pair + "\udcff"]) for pair in pairs
    ]


def outcome(action: Callable[[], Any]) -> tuple[Any, float]:
    """What `action` returns or the ConfigError that it raises, and its CPU time, the best of some if it is long."""
    best = float("inf")
    for _ in range(TRIES):
        started = time.process_time()
        try:
            found = action()
        except ConfigError as error:
            found = error
        best = min(best, time.process_time() - started)
        if best < MOST_SECONDS:
            break
    return found, best


def check_words(error: ConfigError, path: Path) -> None:
    """A message is words: bounded, without control characters, and it says where."""
    text = str(error)
    assert error.exit_code == 64 and text.strip() and len(text) < 60_000
    assert all(line.isprintable() for line in text.split("\n")), repr(text[:500])
    assert str(path) in text or "--set=" in text


def one_case(seed: int, folder: Path) -> tuple[str, float]:
    """What became of case `seed`, and how long it took."""
    draw = random.Random(seed)
    source = draw.choice(FILES)
    path = folder / source.name
    path.write_bytes(mutated(source, draw))
    # A study and a scaling run have files of their own kind.
    own = {"study": read_study, "scale": read_scale}.get(source.stem.partition("_")[0])
    overrides = [] if own else overrides_of(source, draw)
    found, seconds = outcome(lambda: own(str(path)) if own else load(path, overrides))
    if isinstance(found, ConfigError):
        check_words(found, path)
        return "refused", seconds
    if isinstance(found, Config):
        assert parse(json.loads(json.dumps(found.model_dump(mode="json")))) == found
    return "of another kind" if own else "valid", seconds


def test_a_mutated_configuration_is_refused_at_once_or_round_trips(tmp_path: Path) -> None:
    """Seeds 0, 1, ...: `one_case(SEED, folder)` repeats one."""
    ended, took = Counter(), []
    for seed in range(NUM_CASES):
        try:
            end, seconds = one_case(seed, tmp_path)
        except Exception as error:
            raise AssertionError(f"case {seed}: {type(error).__name__}: {str(error)[:300]}") from error
        ended[end] += 1
        took.append((seconds, seed))
    took.sort()
    p50, p99 = (took[int(share * (len(took) - 1))][0] * 1e3 for share in (0.5, 0.99))
    slow, worst = took[-1]
    print(f"{NUM_CASES:,} configurations: {dict(ended)}; CPU ms median {p50:.1f}, p99 {p99:.1f}, most {slow * 1e3:.1f}")
    assert slow < MOST_SECONDS, f"case {worst} took {slow * 1e3:.0f} ms"
    assert 0.05 < ended["valid"] / NUM_CASES < 0.8 and ended["refused"] > 0.2 * NUM_CASES, ended


def _many(count: int) -> dict[str, str]:
    """Configurations of a kind that a careless reader takes quadratic time for, `count` of each."""
    user = '[run]\ndir = "r"\n[data]\ntrain = "t"\n'
    ids = "".join(f"[tables.t{k}]\nrows = 9\n[features.t{k}]\nkind = 'id'\n" for k in range(count))
    buckets = "".join(f"[features.f{k}]\nkind = 'bucket'\nboundaries = [1.0]\n" for k in range(count))
    return {
        "features": user + ids,
        "bucketised features": user + buckets,
        "tables of no valid name": user + ids.replace("tables.t", "tables._t"),
        "unknown keys": user + "".join(f"[x{k}]\n" for k in range(count)),
        "parts of a key": user + ".".join(["a"] * 10 * count) + " = 1\n",
        "parts in quotes": user + '."=".'.join(["a"] * 5 * count) + " = 1\n",
        "quotes in a string": user + 'x = "' + '\\"' * 10 * count + '"\n',
        "values of a list": user + f"x = [{'1, ' * 10 * count}]\n",
        "tables of a list": user + "[[x]]\n" * count,
        "long word": user + "[" + "a" * 50 * count + "]\n",
        "deep list": user + "x = " + "[" * 10 * count,
    }


@pytest.mark.parametrize("kind", list(_many(1)))
def test_twice_as_much_takes_about_twice_as_long(kind: str, tmp_path: Path) -> None:
    """From 300 to 1,200: 4 times as long if linear, 16 times if quadratic."""
    seconds = []
    for count in (300, 1_200):
        path = tmp_path / f"{count}.toml"
        path.write_text(_many(count)[kind])
        seconds.append(min(outcome(lambda path=path: load(path))[1] for _ in range(3)))
    print(f"{kind}: {seconds[0] * 1e3:.1f} ms, then {seconds[1] * 1e3:.1f} ms")
    assert seconds[1] < 9 * seconds[0] + 0.02


def test_the_largest_configuration_ends(tmp_path: Path) -> None:
    """1 MB of the worst that is known is refused within seconds."""
    path = tmp_path / "large.toml"
    for content in (".".join(["a"] * 490_000) + " = 1", '"' + '\\"' * 490_000, "[" * 990_000, "a=1\n" * 240_000):
        path.write_text(content)
        started = time.process_time()
        with pytest.raises(ConfigError, match="not TOML"):
            load(path)
        assert time.process_time() - started < 10


def test_a_valid_file_with_a_mark_or_other_line_ends_is_the_same_configuration(tmp_path: Path) -> None:
    plain = samples.write_toml(tmp_path / "plain.toml", samples.tree("x"))
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path / "marked.toml") == load(plain)
