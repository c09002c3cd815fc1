"""R8: files of a run, a dataset or a study that somebody else has made end a verb in one message, at once."""

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_mtl import bounded
from dist_mtl.bounded import BeyondBounds, parse_json, read_bytes, read_lines
from dist_mtl.checkpoint import durable_io
from dist_mtl.checkpoint import format as commits
from dist_mtl.config.file import read_toml
from dist_mtl.config.plan_file import read_plan
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.bulk import TOLD, _told_of
from dist_mtl.errors import CheckpointError, ConfigError, DataError
from dist_mtl.scoring.predict import ABOUT, read_about
from dist_mtl.tools.convert.lines import first_line
from dist_mtl.tools.study.cell_results import About, Code, write_about
from dist_mtl.tools.study.cell_results import read as read_cell
from dist_mtl.tools.study.cells import Cell
from dist_mtl.tools.study.run import _told
from dist_mtl.torchx_components import planned
from tests.security.test_guard import APART, copied
from tests.support.verbs import VERBS, config, ended, make_run

DEEP = b"[" * 200_000 + b"]" * 200_000
BEYOND = {
    "deep": DEEP,
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "never closed": b"[" * 200_000,
    "digits": b'{"step": ' + b"9" * 1_000_000 + b"}",
    "infinite": b'{"step": 1e999}',
}
NONE = {
    "twice": b'{"version": 4, "version": 4}',
    "nan": b'{"step": NaN}',
    "surrogate": rb'{"step": "\ud800"}',
    "no text": b"\xff\xfe{}",
    "mark": b"\xef\xbb\xbf{}",
    "empty": b"",
    "zeros": bytes(4_096),
    "a number": b"7",
    "a list": b"[]",
    "null": b"null",
}


def sparse(path: Path) -> None:
    """40 GB that take no room."""
    with path.open("wb") as file:
        file.truncate(40 << 30)


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "sparse": sparse,
    "folder": Path.mkdir,
}


# ----------------------------------------------------------------------------------------------------------- the reader
@pytest.mark.parametrize("kind", BEYOND)
def test_json_beyond_bounds(kind: str) -> None:
    with pytest.raises(BeyondBounds):
        parse_json(BEYOND[kind])


@pytest.mark.parametrize("kind", ["twice", "nan", "surrogate", "no text", "mark", "empty", "zeros"])
def test_what_is_no_json(kind: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(NONE[kind])
    assert not isinstance(caught.value, BeyondBounds)


def test_json_within_bounds_is_what_the_standard_library_reads() -> None:
    texts = [
        b"[" * bounded.DEPTH + b"]" * bounded.DEPTH,
        json.dumps({"a": ["]", "[" * 500, '"', "\\", '\\"]', "{"] * 50, "b": -1, "c": 1e300, "d": "😀\x00"}).encode(),
        ('{"größe": "[' + "{" * 300 + '"}').encode(),
        b"9" * bounded.DIGITS,
    ]
    for text in texts:
        assert parse_json(text) == json.loads(text)
    assert parse_json(b"[NaN, -Infinity]", constant=lambda _: None) == [None, None]


@pytest.mark.parametrize("kind", ODD)
def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path, kind: str) -> None:
    ODD[kind](tmp_path / "x")
    for action in (lambda: read_bytes(tmp_path / "x", 1_000), lambda: list(read_lines(tmp_path / "x", 1_000, 1_000))):
        with pytest.raises((BeyondBounds, IsADirectoryError)):
            action()


def test_lines_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one\ntwo\nthree")
    assert list(read_lines(tmp_path / "x", 10, 100)) == [b"one\n", b"two\n", b"three"]
    with pytest.raises(BeyondBounds, match="line 3 has more than 4 bytes"):
        list(read_lines(tmp_path / "x", 4, 100))


# ------------------------------------------------------------------------------------------------------ files of a run
@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize(("name", "verb"), [("events.jsonl", "report"), ("attempts.json", "train")])
def test_json_beyond_bounds_in_a_run_is_66(place: Path, tmp_path: Path, name: str, verb: str) -> None:
    home = copied(place, tmp_path)
    for kind, text in BEYOND.items():
        (home / "run" / name).write_bytes(text + b"\n")
        code, told = ended(lambda: VERBS[verb](home))
        assert code == 66 and f"{home / 'run' / name}: " in told and len(told) < 500, (kind, code, told)


@pytest.mark.parametrize(("name", "verb"), [("events.jsonl", "report"), ("attempts.json", "train")])
def test_a_file_of_a_run_that_is_none_is_64_and_too_large_a_one_66(
    place: Path, tmp_path: Path, name: str, verb: str
) -> None:
    home = copied(place, tmp_path)
    path = home / "run" / name
    for kind, make in ODD.items():
        path.unlink(missing_ok=True)
        make(path)
        code, told = ended(lambda: VERBS[verb](home))
        assert code == (66 if kind == "sparse" else 64) and str(path) in told, (kind, code, told)
        path.rmdir() if kind == "folder" else path.unlink()


def test_events_that_lead_to_a_device_without_end_are_not_read(place: Path, tmp_path: Path) -> None:
    """/dev/full is a place for events that nobody wants, and gives zeros for ever."""
    home = copied(place, tmp_path)
    (home / "run" / "events.jsonl").unlink()
    (home / "run" / "events.jsonl").symlink_to("/dev/full")
    assert ended(lambda: VERBS["report"](home))[0] == 66


def test_lines_that_a_killed_process_left_are_still_passed_over(place: Path, tmp_path: Path) -> None:
    home = copied(place, tmp_path)
    with (home / "run" / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "step", "losses": {"a": [1, 2\n\xff\xfe\n[]\n{"event": "done", "a": 1, "a": 2}\n')
    assert ended(lambda: VERBS["report"](home))[0] == 0
    (home / "run" / "attempts.json").write_bytes(b'{"start": "the beg')
    assert ended(lambda: VERBS["train"](home))[0] == 0


@pytest.mark.parametrize("number", [1e300, -1e300, 1.7e308, 5e-324, -0.0, -1, 10**18, 2**64 - 1, "nan", "inf", "1e309"])
def test_a_report_draws_numbers_of_any_size(place: Path, tmp_path: Path, number: float | str) -> None:
    """A run whose losses ran away, or that somebody has edited; a text is not the number that it spells."""
    home = copied(place, tmp_path)
    path = home / "run" / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for step in (event for event in events if event["event"] == "step" and isinstance(number, int)):
        step["step"] = step["seconds"]["backward"] = number
    step = next(event for event in events if event["event"] == "step")
    step["losses"]["click"] = step["rows_per_second"] = step["loss"] = step["seconds"]["forward"] = number
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert ended(lambda: VERBS["report"](home)) == (0, "")


# ----------------------------------------------------------------------------------------------- files of a checkpoint
def rewritten(folder: Path, name: str, content: bytes) -> None:
    """A file of a checkpoint by somebody who knows how to make a list of checksums."""
    (folder / name).write_bytes(content)
    if name not in (commits.RECALIBRATION, durable_io.SUMS):
        sums = durable_io.read_sums(folder) | {name: durable_io.measure(folder / name).checksum}
        (folder / durable_io.SUMS).write_text(durable_io.sums_text(sums))


def tensors(header: bytes) -> bytes:
    """A safetensors file."""
    return len(header).to_bytes(8, "little") + header


MANY = b'{"model/x": {"dtype": "F32", "shape": [' + b"9" * 39 + b", 9" * 100_000 + b'], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize("name", ["commit.json", "index.json", "recalibration.json", "rank-00000.safetensors"])
def test_json_of_a_checkpoint(place: Path, tmp_path: Path, name: str) -> None:
    home = copied(place, tmp_path)
    newest = home / "run" / "checkpoints" / "step-0000000008"
    kept = {path.name: path.read_bytes() for path in newest.iterdir()}
    cases = BEYOND | NONE | ({"many axes": MANY} if name.endswith("safetensors") else {})
    for kind, text in cases.items():
        rewritten(newest, name, tensors(text) if name.endswith("safetensors") else text)
        for verb in ("evaluate", "verify"):
            code, told = ended(lambda verb=verb: VERBS[verb](home))
            if verb == "verify" and code == 0:  # told by its lines
                told = next(one.damage for one in VERBS["verify"](home) if one.folder == newest)
            else:
                assert code == 66, (kind, verb, code, told)
            assert told and f"{newest / name}: " in told and len(told) < 1_000, (kind, verb, told)
        (newest / name).unlink()
        for other, content in kept.items():
            (newest / other).write_bytes(content)


@pytest.mark.parametrize("name", ["commit.json", "index.json", "recalibration.json", "XXH128SUMS"])
def test_a_file_of_a_checkpoint_that_is_none(place: Path, tmp_path: Path, name: str) -> None:
    newest = copied(place, tmp_path) / "run" / "checkpoints" / "step-0000000008"
    for kind in ("sparse", "folder", "zeros without end", "pipe"):
        path = newest / name
        path.unlink(missing_ok=True)
        ODD[kind](path)
        with pytest.raises(CheckpointError, match=f"{name}: "):
            durable_io.read_text(path, 1_000) if name != commits.RECALIBRATION else commits.read_recalibration(newest)
        path.rmdir() if kind == "folder" else path.unlink()


# ------------------------------------------------------------------------------------------------ files of other kinds
def _raises(error: type[Exception], action: Callable[[], object], path: Path, kind: str) -> None:
    with pytest.raises(error) as caught:
        action()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1_000, (kind, str(caught.value)[:300])


READERS: dict[str, tuple[str, type[Exception], Callable[[Path], object]]] = {
    "manifest": (manifest.NAME, DataError, lambda folder: manifest.read(folder)),
    "predictions": (ABOUT, DataError, read_about),
    "order": (TOLD, DataError, lambda folder: _told_of(folder)["kind"]),
    "plan": ("plan.json", ConfigError, lambda folder: read_plan(folder / "plan.json")),
    "plan of a job": ("plan.json", ValueError, lambda folder: planned(str(folder / "plan.json"), "1x1")),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_other_json(tmp_path: Path, reader: str) -> None:
    name, error, action = READERS[reader]
    path = tmp_path / name
    contents = BEYOND | ({} if reader == "order" else NONE)
    for kind, text in contents.items():
        path.write_bytes(text)
        _raises(error, lambda: action(tmp_path), path, kind)
    for kind in ("pipe", "zeros without end", "sparse"):
        path.unlink()
        ODD[kind](path)
        _raises(error, lambda: action(tmp_path), path, kind)


def test_a_comparison_of_a_study_that_is_none_is_made_anew(tmp_path: Path) -> None:
    shapes = (b"[]", b"7", b"{}", b'{"tasks": []}', b'{"tasks": {"ctr": {"auc": {"standard_error": "x"}}}}')
    for text in (*BEYOND.values(), *NONE.values(), *shapes):
        (tmp_path / "x.json").write_bytes(text)
        assert _told(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_bytes(b'{"tasks": {"ctr": {"auc": {"standard_error": null}}}}')
    assert _told(tmp_path / "x.json").tasks["ctr"].auc.standard_error is None


@pytest.mark.parametrize(("event", "key"), [("evaluation", "step"), ("start", "versions"), ("evaluation", "tasks")])
@pytest.mark.parametrize("value", [None, "x", [], {"a": 1}, 1e300])
def test_a_cell_of_a_study_that_somebody_has_edited_is_65(
    place: Path, tmp_path: Path, event: str, key: str, value: object
) -> None:
    home = copied(place, tmp_path)
    cell = Cell("final", "a", "a", 1, 1, (), config(home))
    write_about(cell, About(("x",), Code("1", None, False)))
    path = home / "run" / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for each in events:
        if each["event"] == "start":
            each["config"] = json.loads(cell.config.model_dump_json())
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    assert read_cell(cell) is not None
    for each in events:
        if each["event"] == event:
            each[key] = value
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    assert ended(lambda: read_cell(cell))[0] == 65


@pytest.mark.parametrize("text", [b"a = " + DEEP, b"a = " + b"9" * 10**6, b"\xff", b"a = 1\na = 2", b"x.y = 1\n" * 2])
def test_toml(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(text)
    _raises(ConfigError, lambda: read_toml(tmp_path / "x.toml"), tmp_path / "x.toml", "")


@pytest.mark.parametrize("kind", ["pipe", "zeros without end", "folder"])
def test_a_csv_that_is_no_file_is_65_at_once(tmp_path: Path, kind: str) -> None:
    ODD[kind](tmp_path / "x.csv")
    _raises(DataError, lambda: first_line(tmp_path / "x.csv"), tmp_path / "x.csv", kind)


@pytest.mark.parametrize("kind", ODD)
def test_a_configuration_that_is_no_file(tmp_path: Path, kind: str) -> None:
    ODD[kind](tmp_path / "x.toml")
    _raises(ConfigError, lambda: read_toml(tmp_path / "x.toml"), tmp_path / "x.toml", kind)


# ---------------------------------------------------------------------------------------------------- nothing forgotten
# Modules that parse JSON themselves, and whose it is.
OWN = {
    "bounded": "the reader",
    "config.file": "tables that tomllib has read, as JSON",
    "data.synthetic.bulk": "what it has dumped itself",
    "tools.planning.what_if": "a configuration that it has dumped itself",
    "tools.planning.device": "tables that tomllib has read, as JSON",
    "tools.study.cell_results": "a configuration that it has dumped itself",
}


def test_every_json_goes_through_the_reader() -> None:
    package, found = Path(bounded.__file__).parent, set()
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        calls = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
        if not name.startswith(APART) and calls & {"loads", "load_json", "validate_json", "model_validate_json"}:
            found.add(name)
    assert found - {"config.file"} == set(OWN) - {"config.file"}, found ^ set(OWN)
