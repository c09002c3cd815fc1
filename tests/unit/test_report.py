"""The report's history: restarts, damaged streams, errors in words, and the script."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.errors import CheckpointError, ConfigError, DataError
from dist_mtl.tools.report import event_log, page
from tests.support.report_run import Document, evaluation, full_run, rendered, start_event, step_event, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "shop-esmm", full_run())


# ------------------------------------------------------------------------------------------------------------- restarts
def test_a_step_trained_twice_counts_once_and_the_later_wins(full: Path) -> None:
    run = event_log.read(str(full))
    steps = [e.step for e in run.steps]
    assert steps == list(range(12, 1464 + 1, 12))
    assert len(run.attempts) == 3 and run.restarts == 2 and run.repeated_steps == 60 + 120
    assert [a.from_step for a in run.attempts] == [0, 480, 840]
    assert [a.last_step for a in run.attempts] == [540, 960, 1464]
    second_start = run.attempts[1].began
    assert all((e.time > second_start) == (e.step > 480) for e in run.steps)
    assert [e.step for e in run.evaluations] == [240, 480, 720, 960, 1200, 1440, 1464]
    assert run.finished and run.seconds == pytest.approx(sum(a.ended - a.began for a in run.attempts))


def test_what_an_abandoned_attempt_did_beyond_the_restart_is_gone(tmp_path: Path) -> None:
    """Killed at 540, taken up at 480, killed again at 504: 516 to 540 never happened."""
    rng = np.random.default_rng(1)
    first = [start_event(900), *(step_event(s, 900, rng) for s in range(12, 541, 12)), evaluation(540, 900, rng)]
    second = [{"event": "resume", "step": 480}, start_event(900), step_event(492, 900, rng), step_event(504, 900, rng)]
    run = event_log.read(str(write(tmp_path, [*first, *second])))
    assert run.last_step == 504 and not run.evaluations and not run.finished
    again = event_log.read(str(write(tmp_path, [*first, start_event(900), step_event(12, 900, rng)])))
    assert [e.step for e in again.steps] == [12]  # no commit was found: the run began anew


def test_a_finished_run_started_again_is_no_restart(tmp_path: Path) -> None:
    events = full_run()
    events += [{"event": "resume", "step": 1464}, start_event(1464), {"event": "done", "steps": 0, "seconds": 0.1}]
    run = event_log.read(str(write(tmp_path, events)))
    assert run.restarts == 2 and run.last_step == 1464 and len(run.steps) == 122


def test_states(tmp_path: Path) -> None:
    events = full_run()
    stopped = [
        *events[:-1],
        {"event": "early_stop", "step": 1464, "best_step": 1200, "best_score": 0.877, "stale": 3},
        events[-1],
    ]
    document = Document(rendered(write(tmp_path / "stopped", stopped)))
    assert "stopped early" in document.text and "the best was step 1,200" in document.text
    assert "3 evaluations without a gain, best was step 1,200, score 0.8770" in document.text
    again = [
        *stopped,
        {"event": "resume", "step": 1464},
        start_event(1464),
        {"event": "done", "step": 1464, "steps": 0},
    ]
    assert "stopped early" in Document(rendered(write(tmp_path / "again", again))).text  # it stays what it was
    document = Document(rendered(write(tmp_path / "killed", events[:-20])))
    assert "unfinished" in document.text and "of 1,464 steps" in document.text


# ----------------------------------------------------------------------------------------------------- a damaged stream
def test_a_line_cut_short_at_the_end_is_ignored(full: Path, tmp_path: Path) -> None:
    text = (full / event_log.STREAM).read_text(encoding="utf-8")
    (tmp_path / event_log.STREAM).write_text(text + '{"event": "step", "time": 17950', encoding="utf-8")
    assert event_log.read(str(tmp_path)).steps == event_log.read(str(full)).steps
    assert not event_log.read(str(tmp_path)).unreadable


def test_a_line_cut_short_before_a_restart_costs_that_event_only(tmp_path: Path) -> None:
    """The next process appends its first event to the half line."""
    lines = [json.dumps({"event": "start", "steps": 30}), json.dumps({"event": "step", "step": 10})]
    glued = '{"event": "step", "time": 17' + json.dumps({"event": "resume", "step": 10})
    text = "\n".join([*lines, glued, json.dumps({"event": "start"}), json.dumps({"event": "step", "step": 20})]) + "\n"
    (tmp_path / event_log.STREAM).write_text(text, encoding="utf-8")
    run = event_log.read(str(tmp_path))
    assert [e.step for e in run.steps] == [10, 20] and run.restarts == 1
    assert run.unreadable == ("line 3 is cut short: the process was killed while it wrote",)
    assert "1 line of events.jsonl left out" in Document(page.render(run)).text


def test_events_of_newer_versions_are_passed_over_and_wrong_ones_told(tmp_path: Path) -> None:
    events = [
        {"event": "start"},
        {"event": "of_tomorrow", "x": 1},
        {"event": "step", "step": "twelve"},
        {"event": "step", "step": 2},
    ]
    run = event_log.read(str(write(tmp_path, events)))
    assert [e.step for e in run.steps] == [2]
    assert len(run.unreadable) == 1 and run.unreadable[0].startswith("line 3, step.step")


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; name the run.dir"):
        event_log.read(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        event_log.read(str(tmp_path))
    (tmp_path / event_log.STREAM).write_text("")
    with pytest.raises(DataError, match="no event in it; train first"):
        event_log.read(str(tmp_path))
    write(tmp_path, [{"event": "sample_logs"}])
    with pytest.raises(DataError, match="did not start"):
        event_log.read(str(tmp_path))
    write(tmp_path, [{"event": "start"}])
    with pytest.raises(ConfigError, match="choose with --out"):
        page.write(str(tmp_path), str(tmp_path / "no/such/folder/x.html"))


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dist_mtl", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_script(full: Path, tmp_path: Path) -> None:
    done = launch(str(full))
    assert done.returncode == 0 and done.stdout == f"{full}/report.html\n", done.stderr
    done = launch(str(full), "--out", str(tmp_path / "x.html"))
    assert done.returncode == 0 and (tmp_path / "x.html").read_text() == (full / "report.html").read_text()
    done = launch(str(tmp_path / "nowhere"))
    assert done.returncode == 66 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert launch(str(full), "--what").returncode == 64


def test_no_torch(full: Path, tmp_path: Path) -> None:
    """A report is made in a moment, and where torch does not run."""
    code = "import sys; from dist_mtl.cli import main\ntry: main()\n" \
           "finally: print(sorted({'torch', 'torchrec', 'pyarrow', 'pandas'} & set(sys.modules)))"  # fmt: skip
    command = [sys.executable, "-c", code, "report", str(full), "--out", str(tmp_path / "x.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("x.html\n[]\n"), done.stdout + done.stderr


def test_the_stream_has_one_name() -> None:
    """history.py can not import observe.py, which needs torch; so the name stands twice."""
    name = re.search(
        r'^STREAM = "(.*)"$', (ROOT / "dist_mtl/observability/events.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert name and name[1] == event_log.STREAM
