"""R8: no verb writes or deletes outside of the folder that it was given, whoever made what stands there."""

import ast
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from zlib import crc32

import pytest

import dist_mtl
from benchmarks.scaling import page as scale_page
from dist_mtl.cli.convert import list_folder
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.bulk import Order, make_logs
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import ConfigError
from dist_mtl.observability.events import write_json
from dist_mtl.observability.run_dir import FILES, FOLDERS, check_outputs, write_file
from dist_mtl.scoring.evaluate import evaluate_run
from dist_mtl.scoring.predict import predict_run
from dist_mtl.tools.convert.parts import STAGED, Conversion
from dist_mtl.tools.report.page import write as report
from dist_mtl.tools.study.run import check_study
from tests.support import samples
from tests.support.harness import run_script
from tests.support.verbs import VERBS, ended, make_run

PACKAGE = Path(dist_mtl.__file__).parent
NAMES = [name.replace("*", "some-cell") for name in (*FILES, *FOLDERS)]
DEEPER = ["checkpoints/.staged-0000000012", "checkpoints/step-0000000099", "predictions/.new-x", "tensorboard/events.x"]


# ------------------------------------------------------------------------------------------------------------- traps
def _link(target: str) -> Callable[[Path, Path], None]:
    return lambda path, away: path.symlink_to(away / target)


TRAPS: dict[str, Callable[[Path, Path], object]] = {
    "folder outside": _link("folder"),
    "file outside": _link("file"),
    "dangling": _link("nothing"),
    "device": lambda path, away: path.symlink_to("/dev/zero"),
    "pipe": lambda path, away: os.mkfifo(path),
    "own device": lambda path, away: os.mknod(path, 0o20666, os.makedev(1, 5)),
}
HARMLESS = [name for name in TRAPS if name != "own device" or os.geteuid() == 0]  # mknod is root's
ALL = os.environ.get("GUARD") == "all"  # every trap in every place, 9 minutes; else a link and another one in turn


def set_trap(kind: str, path: Path, away: Path) -> None:
    """Put a trap in the place of whatever stands there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    TRAPS[kind](path, away)


def outside(folder: Path) -> Path:
    """Somebody's folder, with names in it that our own staging has."""
    (folder / "away" / "folder" / ".old-step-0000000008").mkdir(parents=True)
    for name in ("mine", ".staged-x", "step-0000000001"):
        (folder / "away" / "folder" / name).write_text("mine")
    (folder / "away" / "file").write_text("mine")
    return folder / "away"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below, with its size and the time of its last change."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def copied(place: Path, to: Path) -> Path:
    """The logs are not changed by anyone, so they are linked; the run is a copy."""
    to.mkdir(exist_ok=True)
    for name in ("train", "test", "held"):
        (to / name).symlink_to(place / name)
    shutil.copytree(place / "run", to / "run")
    return to


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("guard"))


# -------------------------------------------------------------------------------------------------- every verb of a run
@pytest.mark.parametrize("name", [*NAMES, *DEEPER])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_follows_a_trap_out_of_the_run(place: Path, tmp_path: Path, verb: str, name: str) -> None:
    home, away = copied(place, tmp_path / "home"), outside(tmp_path)
    before = snapshot(away)
    other = HARMLESS[1 + crc32(f"{verb} {name}".encode()) % (len(HARMLESS) - 1)]
    for kind in HARMLESS if ALL else (HARMLESS[0], other):
        set_trap(kind, home / "run" / name, away)
        code, told = ended(lambda: VERBS[verb](home))
        assert code == 64 and str(home / "run" / name) in told and "remove it" in told, (verb, name, kind, code, told)
    assert snapshot(away) == before and not (home / "scores").exists()


def test_the_verbs_write_what_is_checked_and_nothing_else(place: Path, tmp_path: Path) -> None:
    home = copied(place, tmp_path / "home")
    for verb in VERBS:
        assert ended(lambda verb=verb: VERBS[verb](home))[0] == (64 if verb == "relatedness" else 0), verb
    written = {path.name for path in (home / "run").iterdir()}
    assert written >= {"events.jsonl", "checkpoints", "predictions", "report.html"}
    assert not [name for name in written if not any(fnmatch(name, known) for known in (*FILES, *FOLDERS))]


def test_a_script_ends_with_64_and_the_other_folder_is_as_it_was(place: Path, tmp_path: Path) -> None:
    """The case of the issue: RUN_A/predictions leads elsewhere, and `compare` staged and removed there."""
    home, away = copied(place, tmp_path / "home"), outside(tmp_path)
    set_trap("folder outside", home / "run" / "predictions", away)
    before = snapshot(away)
    [compared] = run_script(1, "compare.py", str(home / "run"), str(home / "run"), "--data", str(home / "test"))
    assert compared.code == 64 and "predictions: a link that leads out" in compared.stderr, compared.stderr
    assert snapshot(away) == before


def test_a_file_named_below_the_run_is_of_the_run(place: Path, tmp_path: Path) -> None:
    home, away = copied(place, tmp_path / "home"), outside(tmp_path)
    set_trap("file outside", home / "run" / "mine.json", away)
    code, _ = ended(lambda: report(str(home / "run"), str(home / "run" / "mine.json")))
    assert code == 64
    evaluation = evaluate_run(str(home / "run"))[0]
    with pytest.raises(ConfigError, match="leads out"):
        write_json(str(home / "run" / "mine.json"), evaluation, str(home / "run"))
    assert (away / "file").read_text() == "mine"
    write_json(str(home / "linked.json"), evaluation, str(home / "run"))


def test_links_within_the_run_and_to_nowhere_are_fine(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "other").mkdir(parents=True)
    (run / "tensorboard").symlink_to("other")
    (run / "events.jsonl").symlink_to("/dev/null")
    check_outputs(run)
    (run / "checkpoints").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="leads out"):
        check_outputs(run)


@pytest.mark.parametrize(("name", "kind"), [("events.jsonl", "folder"), ("checkpoints", "file")])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).mkdir() if kind == "folder" else (tmp_path / name).write_text("x")
    with pytest.raises(ConfigError, match=f"a {kind}, where a"):
        check_outputs(tmp_path)


def test_a_file_is_written_in_the_place_of_a_link(tmp_path: Path) -> None:
    away = outside(tmp_path)
    for name in ("x", "x.tmp"):
        (tmp_path / name).symlink_to(away / "file")
    write_file(tmp_path / "x", "ours")
    assert (tmp_path / "x").read_text() == "ours" and not (tmp_path / "x").is_symlink()
    assert (away / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------- other folders
def _predict(place: Path, out: Path) -> None:
    predict_run(str(place / "run"), str(place / "test"), out / "scores")


def _convert(place: Path, out: Path) -> None:
    with Conversion(out, ("train", "test")):
        pass


def _bulk(place: Path, out: Path) -> None:
    make_logs(Order(BenchmarkLogs(), "train", 100), out / "logs")


def _scale(place: Path, out: Path) -> None:
    scale_page.prepared(type("Scale", (), {"dir": str(out)}))


def _list(place: Path, out: Path) -> None:
    samples.write_logs(out / "data", 100) if not (out / "data").exists() else None
    (out / "data" / manifest.NAME).unlink(missing_ok=True)
    list_folder(str(out / "data"), False)


OTHERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "predict": (_predict, ".staged-scores"),
    "convert": (_convert, STAGED),
    "convert, inside": (_convert, f"{STAGED}/train"),
    "convert, its dataset": (_convert, "train"),
    "synthesize": (_bulk, ".making-logs"),
    "list": (_list, f"data/{manifest.NAME}.tmp"),
    **{f"scale, {name}": (_scale, name) for name in scale_page.FILES},
    **{f"study, {name}": (lambda place, out: check_study(out), name) for name in ("study.json", "study.md.tmp")},
    **{f"study, {name}": (lambda place, out: check_study(out), f"cells/a/{name}") for name in NAMES},
    "study, cells": (lambda place, out: check_study(out), "cells"),
    "study, a cell": (lambda place, out: check_study(out), "cells/a"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_no_folder_that_is_made_leads_elsewhere(place: Path, tmp_path: Path, case: str) -> None:
    action, name = OTHERS[case]
    home, away = tmp_path / "out", outside(tmp_path)
    home.mkdir()
    if case == "list":
        _list(place, home)
    before = snapshot(away)
    for kind in HARMLESS:
        set_trap(kind, home / name, away)
        code, told = ended(lambda: action(place, home))
        assert code == 64 and "remove it" in told, (case, kind, code, told)
        (home / name).unlink()
    assert snapshot(away) == before


# ---------------------------------------------------------------------------------------------------- nothing forgotten
# Every module that writes, and what sees to it that it stays below its folder.
WRITERS = {
    "checkpoint.durable_io": "check_outputs: the run's",
    "checkpoint.format": "check_outputs: recalibration.json of a checkpoint",
    "checkpoint.staging": "check_outputs: the run's",
    "checkpoint.store": "the folder of a commit outside of a run",
    "tools.compare.prediction_cache": "check_outputs: RUN/predictions, in scoring.find",
    "cli.new": "a new file that the user names: exclusive, so no link is followed",
    "config.plan_file": "a file that the user names, of no run",
    "tools.convert.aliccp": "Conversion: in its scratch",
    "tools.convert.aliexpress": "Conversion: in its scratch",
    "tools.convert.join": "Conversion: in its scratch",
    "tools.convert.parts": "check, in Conversion",
    "data.files.disk": "the folder of its caller, which has checked it",
    "data.files.folder": "check, in Folder.write",
    "data.files.writer": "mkdtemp: a name that nobody can have made",
    "data.synthetic.bulk": "check, in make_logs",
    "data.synthetic.logs": "write_file, into a folder that it has just made",
    "tools.describe.html": "a file that the user names, of no run",
    "tools.describe.suggested_config": "a new file that the user names: exclusive, so no link is followed",
    "metrics.exchange": "a temporary file without a name",
    "observability.events": "check_outputs, check_named",
    "observability.run_dir": "itself",
    "scoring.predict": "check, in _refuse_existing",
    "tools.report.page": "check_outputs, check_named",
    "tools.study.write": "check_study",
    "tools.study.cell_results": "check_study",
    "tools.study.jobs": "check_study",
    "tools.study.run": "check_study",
    "observability.tensorboard": "check_outputs, in Observer",
    "terminal.streams": "/dev/null alone",
    "training.crash_loop": "check_outputs, in Observer",
    "training.nonfinite": "check_outputs, in Observer",
}
CALLS = {"write_text", "write_bytes", "mkdir", "makedirs", "rmtree", "unlink", "rename", "mkdtemp", "rmdir", "touch"}
CALLS |= {"savefig", "write_file", "TemporaryFile", "ParquetWriter", "RecordWriter", "symlink_to", "removedirs"}
APART = ("tools.doctor", "torchx_components")  # measure and probe; they open no run


def writes(tree: ast.AST) -> bool:
    """Whether a source calls what writes or deletes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [word.value for word in (*node.args, *(k.value for k in node.keywords))
                     if isinstance(word, ast.Constant) and isinstance(word.value, str)]  # fmt: skip
            flags = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} & {"O_CREAT", "O_WRONLY", "O_RDWR"}
            if name in CALLS or (name == "open" and (flags or any(set(m) & set("wax+") and len(m) < 4 for m in modes))):
                return True
    return False


def test_every_module_that_writes_is_under_a_guard() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(APART) and writes(ast.parse(path.read_text())):
            found.add(name)
    assert found == set(WRITERS), found ^ set(WRITERS)
