"""Counts in words, and advice about a run that is too short to say anything else about."""

from pathlib import Path

import pytest

from dist_mtl.terminal.wording import FEWEST_STEPS, few_steps, plural
from dist_mtl.tools.report.event_log import read
from dist_mtl.tools.report.headline import findings, story
from tests.support.report_run import full_run, write


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 steps"), (1, "1 step"), (1.0, "1 step"), (2, "2 steps"), (1500, "1,500 steps")]
)
def test_plural(count: float, text: str) -> None:
    assert plural(count, "step") == text
    assert plural(1, "row is", "rows are") == "1 row is" and plural(3, "row is", "rows are") == "3 rows are"


def test_few_steps_are_named_with_what_limits_them() -> None:
    message = few_steps(11, 4096, is_capped=False)
    assert (
        message.startswith("11 steps; at 4,096 rows a step ") and "train.global_batch or raise train.epochs" in message
    )
    assert "raise train.max_steps" in few_steps(1, 1, is_capped=True) and "1 step; at 1 row a step" in few_steps(
        1, 1, True
    )
    assert few_steps(FEWEST_STEPS, 4096, is_capped=False) is None


def run_of(steps: int) -> list[dict]:
    """A finished run whose figures would call for a faster disk, more rows and a recalibration."""
    events = full_run()
    for event in events:
        if event["event"] == "start":
            event["steps"] = steps
        if event["event"] == "step":
            event["data_wait"] = 0.9
        for m in event.get("tasks", {}).values() if event["event"] == "evaluation" else ():
            m["auc"] |= {"value": 0.51, "low": 0.45, "high": 0.57}
            m |= {"pcoc": 3.0, "pcoc_interval": [2.5, 3.5], "normalised_entropy": 1.4}
    return events


def test_a_report_of_few_steps_says_that_and_nothing_that_does_not_fit(tmp_path: Path) -> None:
    told = {}
    for steps in (11, 5000):
        run = read(write(tmp_path / str(steps), run_of(steps)))
        told[steps] = " ".join(f"{one.text} {one.what or ''}" for one in findings(run))
    unfit = ("faster disk", "Evaluate on more rows", "Recalibrate", "Look at its reliability")
    assert all(words in told[5000] for words in unfit) and "train.epochs" not in told[5000]
    assert not any(words in told[11] for words in unfit)
    assert told[11].startswith("11 steps; at 4,096 rows a step") and "raise train.epochs" in told[11]


def test_a_story_of_one_step_is_singular(tmp_path: Path) -> None:
    events = [e for e in full_run() if e["event"] in ("start", "done")]
    for event in events:
        event["steps"] = 1
    step = {"event": "commit", "time": 1.0, "step": 1, "seconds": 0.1, "folder": "", "reason": "end"}
    assert story(read(write(tmp_path, [events[0], step, events[-1]]))).startswith("Trained 1 step in ")
