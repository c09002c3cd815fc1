"""The report's page: complete in itself, safe against what data may hold, and right in what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from dist_mtl.tools.report import event_log, number_format
from dist_mtl.tools.report.event_schema import TaskMetrics
from dist_mtl.tools.report.headline import bias_of
from tests.support.report_run import Document, full_run, hostile_run, rendered, write


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "shop-esmm", full_run())


# --------------------------------------------------------------------------------------------------- complete in itself
def outside(document: Document) -> list[str]:
    """Whatever a browser might fetch."""
    found = [
        tag for tag in document.tags if tag in ("script", "iframe", "img", "object", "embed", "base", "use", "image")
    ]
    for tag, name, value in document.attributes:
        if name in ("src", "srcset", "action", "formaction", "xlink:href", "data", "poster") or name.startswith("on"):
            found.append(f"{tag} {name}={value}")
        if name == "href" and not value.startswith(("#", "data:,")):
            found.append(f"{tag} {name}={value}")
        if "//" in value or "url(" in value or "http" in value.lower().replace("http-equiv", ""):
            found.append(f"{tag} {name}={value}")
    return found + re.findall(r"@import|@font-face|url\((?!data:)|//|https?:", document.css)


def test_the_page_is_well_formed_and_refers_to_nothing(full: Path) -> None:
    html = rendered(full)
    document = Document(html)
    assert not outside(document), outside(document)
    ids = [value for _, name, value in document.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [value[1:] for tag, name, value in document.attributes if tag == "a" and name == "href"]
    assert set(targets) <= set(ids) and len(targets) == 10
    names = {value for tag, name, value in document.attributes if tag == "meta" and name == "name"}
    assert {"viewport", "description", "color-scheme"} <= names
    assert "<title>shop-esmm · training report</title>" in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    print(f"{len(html):,} characters, {len(document.tags):,} tags")


def test_names_from_data_are_words_and_nothing_else(tmp_path: Path) -> None:
    html = rendered(write(tmp_path / "<b>run", hostile_run()))
    document = Document(html)
    assert not {"script", "img", "b>run"} & set(document.tags) and document.tags.count("style") == 1
    assert not [one for one in document.attributes if one[1].startswith("on")]
    assert "{{ 7 * 7 }}" in document.text and "<script>window.pwned=1</script>" in document.text
    assert "<script>window" not in html and "<img" not in html and "<b>run" not in html


# --------------------------------------------------------------------------------------------------- what the page says
def test_the_final_metrics_stand_on_the_page(full: Path) -> None:
    run = event_log.read(str(full))
    text = Document(rendered(full)).text
    assert run.final.final and run.final.step == 1464
    for task, m in run.final.tasks.items():
        assert f"{task.upper()} AUC" in text
        for figure in (
            f"{m.auc.value:.4f}",
            f"{m.auc.low:.4f}–{m.auc.high:.4f}",
            f"{m.pcoc:.3f}",
            f"{m.normalised_entropy:.4f}",
        ):
            assert figure in text, (task, figure)
    share = (run.final.tasks["ctcvr"].auc.value - 0.5) / (0.9261 - 0.5)
    assert f"{100 * share:.1f}{number_format.NBSP}% of the way from chance" in rendered(full)
    print(f"CTCVR reached {share:.1%} of the ceiling")


def test_what_stands_out_is_said(full: Path) -> None:
    text = Document(rendered(full)).text
    assert "CTCVR is predicted 15.4 % too low on average (PCOC 0.846 on 1,408 positives)." in text
    assert "CTR is predicted" not in text  # 1.9 % off: certain, and not worth a line
    assert "2 steps skipped: the gradient is not finite." in text
    assert "14 rows dropped: their labels break the funnel." in text
    assert "180 steps trained again after restarts." in text


def test_a_bias_within_the_noise_is_not_reported() -> None:
    assert bias_of(TaskMetrics(pcoc=0.86, positives=100)) is None  # one standard error is 10 %
    assert bias_of(TaskMetrics(pcoc=0.86, positives=10_000)) == pytest.approx(-0.14)
    assert bias_of(TaskMetrics(pcoc=1.02, positives=10**9)) is None
    assert bias_of(TaskMetrics(pcoc=None, positives=10)) is None
    # Weighted rows: their interval is wider than their number tells.
    assert bias_of(TaskMetrics(pcoc=0.86, positives=10_000, pcoc_interval=(0.7, 1.05))) is None
    assert bias_of(TaskMetrics(pcoc=0.86, positives=100, pcoc_interval=(0.8, 0.9))) == pytest.approx(-0.14)


def test_sections_appear_with_their_data(tmp_path: Path, full: Path) -> None:
    everything = Document(rendered(full)).titles()
    order = [
        "summary",
        "metrics",
        "slices",
        "groups",
        "calibration",
        "curves",
        "inside",
        "data",
        "plan",
        "events",
        "configuration",
    ]
    assert everything == order
    events = [e for e in full_run() if e["event"] != "diagnosis"]
    for event in events:
        if event["event"] == "evaluation":
            event["slices"], event["groups"] = {}, {}
    document = Document(rendered(write(tmp_path / "plain", events)))
    assert document.titles() == [name for name in order if name != "inside"]
    assert 'set metrics.slices, e.g. metrics.slices = ["day", "position"]' in document.text
    untested = [e for e in events if e["event"] != "evaluation"]
    document = Document(rendered(write(tmp_path / "untested", untested)))
    assert document.titles() == ["summary", "metrics", "curves", "data", "plan", "events", "configuration"]
    assert "No evaluation yet" in document.text


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    """Losses, speed, and an evaluation without data, slices and intervals: what the first release wrote."""
    events = [
        {
            "event": "start",
            "rows": 1000,
            "steps": 200,
            "global_batch": 50,
            "world": 1,
            "device": "cpu",
            "config": {"data": "not a table"},
        },
        {
            "event": "step",
            "step": 100,
            "steps": 200,
            "losses": {"click": 0.5},
            "rows_per_second": 100.0,
            "data_wait": 0.4,
        },
        {
            "event": "step",
            "step": 200,
            "steps": 200,
            "losses": {"click": 0.4},
            "rows_per_second": 120.0,
            "data_wait": 0.4,
        },
        {"event": "done", "steps": 200, "seconds": 9.1},
        {"event": "evaluation", "step": 200, "tasks": {"ctr": {"rows": 10.0, "auc": {"value": 0.7}, "pcoc": None}}},
    ]
    document = Document(rendered(write(tmp_path, events)))
    assert "0.7000" in document.text and "finished" in document.text
    assert "A step waits for data 40 % of its time." in document.text


def test_every_event_may_be_alone(tmp_path: Path) -> None:
    """No field is needed but the name and, for some, the step."""
    for name in (
        "resume",
        "start",
        "step",
        "evaluation",
        "commit",
        "early_stop",
        "skip",
        "counts",
        "done",
        "diagnosis",
    ):
        Document(rendered(write(tmp_path / name, [{"event": name, "step": 3}])))
        for pair in ("start", "step", "evaluation", "diagnosis"):
            Document(
                rendered(write(tmp_path / f"{name}-{pair}", [{"event": name, "step": 3}, {"event": pair, "step": 7}]))
            )


def test_null_is_the_same_as_absent(tmp_path: Path) -> None:
    """NaN is written as null: every leaf of a realistic run may be one."""

    def hollow(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: below if key in ("event", "step", "time") else hollow(below) for key, below in value.items()}
        return [hollow(below) for below in value] if isinstance(value, list) else None

    Document(rendered(write(tmp_path / "leaves", [hollow(e) for e in full_run(240)])))
    tops = [{k: v if k in ("event", "step") else None for k, v in e.items()} for e in full_run(240)]
    Document(rendered(write(tmp_path / "tops", tops)))


def test_long_funnels_keep_their_names(tmp_path: Path) -> None:
    events = full_run(240)
    for event in events:
        if event["event"] == "evaluation":
            m = event["tasks"]["ctr"]
            event["tasks"] = {name: m for name in ("click", "cart|click", "cart", "buy|cart", "buy")}
    assert "cart|click AUC" in Document(rendered(write(tmp_path, events))).text
