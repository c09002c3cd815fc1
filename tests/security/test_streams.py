"""Every verb with streams that are closed, full, broken or narrow, in odd locales, with what others left behind.

The result is that of plain streams: the same exit code, the same files, no traceback. `make stream-fuzz` draws more.
"""

import fcntl
import os
import pty
import random
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.data.files.writer import write_dataset
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
CASES = int(os.environ.get("STREAM_FUZZ_CASES", "0"))  # of each verb; 0: few, and of those that import torch one
NASTY = ["größe", "\xa0", "[/b]", "[red]x", "a\x1b[2Jb", "\u202eltr\u200b", "x\ny", "|", "<b>", "東京"]
HIDDEN = [b"\x1b[2J", "\u202e".encode(), "\u200b".encode()]

LEFT = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1"}
LOCALES: dict[str, dict[str, str]] = {
    "utf-8": {},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C"},
    "POSIX without UTF-8": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
TERMINALS: list[dict[str, str]] = [
    {}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "0"}, {"COLUMNS": "abc"}, {"COLUMNS": "1", "LINES": "1"},
    {"COLUMNS": "²"}, {"FORCE_COLOR": "1"}, {"TERM": ""}, {"TMPDIR": "/nowhere", "HOME": "/nowhere"},
]  # fmt: skip
ALONE = [{}, LEFT, {"RANK": "abc"}, {"WORLD_SIZE": "0"}, {"MASTER_PORT": "abc"}, {"TORCH_DISTRIBUTED_DEBUG": "abc"}]
STREAMS = ("file", "closed", "full", "broken", "narrow")


@dataclass(frozen=True)
class Verb:
    """`words` behind `python`, run in a folder of its own with what `take` names; `code` is the exit code."""

    words: tuple[str, ...]
    code: int = 0
    take: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()  # where the files of a run with plain streams are not looked at
    alone: bool = True  # one process, which ignores ranks
    heavy: bool = True  # imports torch


LABELS = ("--click=click", "--conversion=conversion", "--jobs=1")
VERBS = {
    "convert csv": Verb(("-m", "dist_mtl", "convert", "csv", "a.csv", "out", *LABELS), take=("a.csv",), heavy=False),
    "convert suggest": Verb(
        ("-m", "dist_mtl", "convert", "csv", "a.csv", "out", *LABELS, "--suggest=new.toml"),
        take=("a.csv",),
        heavy=False,
    ),
    "convert manifest": Verb(("-m", "dist_mtl", "convert", "manifest", "train"), take=("train",), heavy=False),
    "convert refuses": Verb(("-m", "dist_mtl", "convert", "csv", "a.csv", "out", "--\x1b[2J\u202e"), 64, heavy=False),
    "describe": Verb(
        ("-m", "dist_mtl", "describe", "train", "--html=d.html", "--suggest=new.toml", "--ranks=1"),
        0,
        ("train",),
        heavy=False,
    ),
    "report": Verb(("-m", "dist_mtl", "report", "run", "--out=r.html"), take=("run",), heavy=False),
    "synthesize": Verb(
        ("-m", "dist_mtl", "synthesize", "out", "--rows=2000", "--test-rows=500", "--ranks=1"), heavy=False
    ),
    "bench refuses": Verb(("-m", "benchmarks.speed", "--batch=5"), 64, heavy=False),
    "scale refuses": Verb(("-m", "benchmarks.scaling", "größe\x1b[2J.toml"), 64, heavy=False),
    "doctor": Verb(("-m", "dist_mtl", "doctor", "--json")),
    "verify": Verb(("-m", "dist_mtl", "verify", "run"), take=("run",)),
    "plan": Verb(
        ("-m", "dist_mtl", "plan", "run.toml", "--device=cpu", "--json=plan.json"),
        take=("run.toml",),
        makes=("plan.json",),
    ),
    "study": Verb(
        ("-m", "dist_mtl", "study", "study.toml", "--report"),
        0,
        ("study.toml", "run.toml", "train", "test"),
        ("study/study.html",),
    ),
    "train": Verb(
        ("launch/train.py", "run.toml"), take=("train", "test", "run.toml"), makes=("run/events.jsonl",), alone=False
    ),
    "evaluate": Verb(("launch/evaluate.py", "run", "--json=e.json"), 0, ("run", "test"), ("e.json",), alone=False),
    "predict": Verb(
        ("launch/predict.py", "run", "test", "out"), 0, ("run", "test"), ("out/_manifest.json",), alone=False
    ),
    "recalibrate": Verb(("launch/recalibrate.py", "run", "test"), take=("run", "test"), alone=False),
    "relatedness": Verb(("launch/relatedness.py", "run", "--truth=age"), 64, ("run", "test"), alone=False),
    "compare": Verb(("launch/compare.py", "run", "run", "--json=c.json"), 0, ("run", "test"), ("c.json",), alone=False),
}
STUDY = """
base = "run.toml"
dir = "study"
seeds = [1]
metrics = ["ctr.auc"]
[backbones.small]
"model.backbone" = { kind = "single_task", hidden = [8] }
[methods.plain]
[methods.other]
"model.dropout" = 0.1
"""


def ended(verb: Verb, folder: Path, redirect: Callable[[], None] | None = None, **environment: str) -> int:
    """The exit code of a verb in `folder`, with the streams that `redirect` makes in the child."""
    words = [str(ROOT / word) if word.startswith("launch/") else word for word in verb.words]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    started = subprocess.Popen([sys.executable, *words], cwd=folder, env=settings, preexec_fn=redirect)
    return started.wait(timeout=600)


@contextmanager
def opened(kind: str, log: Path) -> Iterator[int | None]:
    """A descriptor to write to; None: a closed one."""
    with ExitStack() as closing:
        if kind == "closed":
            yield None
            return
        if kind == "narrow":  # a terminal of one column, and somebody who reads it
            reader, writer = pty.openpty()
            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 1, 1, 0, 0))
            reading = threading.Thread(target=_drain, args=(reader, log))
            reading.start()
            closing.callback(reading.join)
        elif kind == "broken":
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open("/dev/full" if kind == "full" else log, os.O_WRONLY | os.O_CREAT)
        closing.callback(os.close, writer)
        yield writer


def _drain(reader: int, log: Path) -> None:
    with log.open("wb") as file:
        try:
            while block := os.read(reader, 1 << 16):
                file.write(block)
        except OSError:  # EIO: nobody holds the other end
            pass
    os.close(reader)


def redirected(streams: tuple[int | None, ...]) -> Callable[[], None]:
    """What the child does with its descriptors 1, 2 and 0 before it becomes Python."""

    def redirect() -> None:
        for number, writer in zip((1, 2, 0), streams, strict=True):
            os.dup2(writer, number) if writer is not None else os.close(number)

    return redirect


def files(folder: Path) -> dict[str, int]:
    """What is there; the size of a dataset's files, whose bytes are a function of the rows."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".staged")]
    return {str(p.relative_to(folder)): p.stat().st_size if p.suffix == ".parquet" else 0 for p in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a run whose names and values are as unkind as they can be."""
    folder = tmp_path_factory.mktemp("place")
    lines = [f"u{i % 37},i{i % 11},{'x' if i % 2 else '[/b]'},{i % 3 == 0:d},{i % 6 == 0:d}" for i in range(2_000)]
    (folder / "a.csv").write_text("\n".join(["user,\u202eitem\x1b[2J,größe\xa0[/b],click,conversion", *lines]) + "\n")
    for name, rows in (("train", 1_200), ("test", 400)):
        table = samples.logs(rows, seed=len(name))
        odd = pa.array([NASTY[i % len(NASTY)] for i in range(rows)])
        write_dataset(folder / name, [table.append_column("odd", odd).append_column("x\x1b[2J[/b]", odd)])
    tree = samples.tree(folder) | {"metrics": {"slices": ["odd", "x\x1b[2J[/b]"]}}
    tree["run"]["dir"], tree["data"] = "run", {"train": "train", "test": "test", "shuffle_rows": 640}
    samples.write_toml(folder / "run.toml", tree)
    (folder / "study.toml").write_text(STUDY)
    assert ended(VERBS["train"], folder) == 0
    return folder


@pytest.fixture(scope="module")
def expected(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, int]]:
    """The files of a verb with plain streams; its code is asserted."""
    known: dict[str, dict[str, int]] = {}

    def of(name: str) -> dict[str, int]:
        if name not in known:
            folder = prepared(VERBS[name], place, tmp_path_factory.mktemp("plain"))
            assert ended(VERBS[name], folder) == VERBS[name].code
            known[name] = files(folder)
        return known[name]

    return of


def prepared(verb: Verb, place: Path, folder: Path) -> Path:
    for name in verb.take:
        source = place / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    return folder


def drawn(name: str) -> list[int]:
    """The seeds of a verb's cases."""
    few = 1 if VERBS[name].heavy else 2
    return list(range(CASES or few))


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in VERBS for seed in drawn(name)])
def test_a_verb_ends_as_with_plain_streams(
    name: str, seed: int, place: Path, expected: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    verb, draw = VERBS[name], random.Random(f"{name} {seed}")
    stdout, stderr = draw.choice(STREAMS[1:]), draw.choice(STREAMS)
    stdin, locale = draw.choice(("closed", "file")), draw.choice(sorted(LOCALES))
    left = ALONE[:-1] if name == "doctor" else ALONE  # whose finding the last one is: an error, 70
    environment = LOCALES[locale] | draw.choice(TERMINALS) | (draw.choice(left) if verb.alone else {})
    print(f"stdout {stdout}, stderr {stderr}, stdin {stdin}, {locale}: {environment}")
    work = tmp_path / "work"
    work.mkdir()
    prepared(verb, place, work)
    (tmp_path / "in").touch()
    with ExitStack() as open_streams:
        kinds = {"out": stdout, "err": stderr, "in": stdin}
        streams = tuple(open_streams.enter_context(opened(kind, tmp_path / end)) for end, kind in kinds.items())
        code = ended(verb, work, redirected(streams), **environment)
        open_streams.close()
    told = b"".join((tmp_path / end).read_bytes() for end in ("out", "err") if (tmp_path / end).exists())
    assert code == verb.code, told.decode(errors="replace")
    made = files(work)
    assert made == expected(name) if CASES or not verb.heavy else made.keys() >= {*verb.makes}
    assert b"Traceback" not in told and not [text for text in HIDDEN if text in told], told


RANKS = [name for name, verb in VERBS.items() if not verb.alone]
BAD = [
    ("RANK", {"RANK": ""}), ("RANK", {"RANK": "abc", "WORLD_SIZE": "2"}), ("WORLD_SIZE", {"RANK": "0"}),
    ("MASTER_ADDR", {"RANK": "0", "WORLD_SIZE": "2"}), ("RANK", {"LOCAL_RANK": "0"}),
    ("MASTER_PORT", {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "abc"}),
    ("OMP_NUM_THREADS", {"OMP_NUM_THREADS": "abc"}), ("TORCH_DISTRIBUTED_DEBUG", {"TORCH_DISTRIBUTED_DEBUG": "abc"}),
]  # fmt: skip


@pytest.mark.parametrize("name", RANKS)
def test_a_verb_of_ranks_refuses_what_a_launcher_left(name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    for variable, environment in draw.sample(BAD, min(len(BAD), CASES or 2)):
        with opened("file", tmp_path / "err") as err, opened("file", tmp_path / "out") as out:
            code = ended(VERBS[name], tmp_path, redirected((out, err, None)), **environment)
        told = (tmp_path / "err").read_text()
        assert code == 64 and told.startswith(f"error: {variable}"), told
        (tmp_path / "err").unlink()
