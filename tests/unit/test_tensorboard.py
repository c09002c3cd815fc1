"""TensorBoard's files, read back: the scalars of the events, and restarts that void what they repeat."""

import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.errors import ConfigError
from dist_mtl.observability.tensorboard import FOLDER, TensorBoard, scalars
from tests.support.report_run import diagnosis, evaluation, full_run, step_event

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="the extra `tensorboard` is not installed")


def records(path: Path) -> list:
    """The events of a file: length (8 bytes), its checksum (4), the message, its checksum (4)."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    assert at == len(data)
    return found


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: files by name; a session that starts at a step voids all from there on."""
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        for record in records(path):
            if record.HasField("session_log"):
                curves = {tag: {s: x for s, x in curve.items() if s < record.step} for tag, curve in curves.items()}
            for value in record.summary.value:
                curves.setdefault(value.tag, {})[record.step] = value.simple_value
    return curves


def tell(board: TensorBoard, events: list[dict]) -> None:
    for event in events:
        board.event(event["event"], {key: value for key, value in event.items() if key != "event"})


def test_the_scalars_of_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    step, judged, inside = step_event(50, 100, rng), evaluation(50, 100, rng), diagnosis(50, 100, rng)
    final = evaluation(100, 100, rng, final=True)
    board = TensorBoard(str(tmp_path))
    tell(board, [{"event": "start"}, step, judged, inside, {"event": "commit", "step": 50}, final, {"event": "done"}])
    board.close()
    curves = shown(tmp_path / FOLDER)
    print(f"{len(curves)} curves")
    expected = {
        "train/loss/click": step["losses"]["click"],
        "window/ctr/auc": step["window"]["ctr"]["auc"],
        "speed/rows_per_second": step["rows_per_second"],
        "speed/seconds/backward": step["seconds"]["backward"],
        "memory/host_bytes": step["memory"]["host_bytes"],
        "evaluation/ctcvr/auc": judged["tasks"]["ctcvr"]["auc"]["value"],
        "evaluation/ctcvr/auc_low": judged["tasks"]["ctcvr"]["auc"]["low"],
        "evaluation/cvr/pcoc": judged["tasks"]["cvr"]["pcoc"],
        "gates/click/0": inside["gates"]["click"][0],
        "gradient_cosine/click-conversion": inside["gradient_cosine"]["click|conversion"],
    }
    for tag, value in expected.items():
        assert curves[tag] == {50: pytest.approx(value, rel=1e-6)}, tag
    assert curves["final/ctcvr/auc"] == {100: pytest.approx(final["tasks"]["ctcvr"]["auc"]["value"])}
    assert "memory/device_bytes" not in curves  # None
    assert not [tag for tag in curves if "reliability" in tag or "rows/" in tag]


def test_a_restart_voids_what_it_repeats(tmp_path: Path) -> None:
    """Three processes, of which two were killed: one value a step, the later one."""
    events = full_run(1464, every=12)
    starts = [k for k, e in enumerate(events) if e["event"] == "resume"]
    for a, b in zip([0, *starts], [*starts, len(events)], strict=True):
        board = TensorBoard(str(tmp_path))
        tell(board, events[a:b])
        board.close()
    files = sorted((tmp_path / FOLDER).iterdir())
    assert len(files) == 3
    last = {e["step"]: e["losses"]["click"] for e in events if e["event"] == "step"}
    curve = shown(tmp_path / FOLDER)["train/loss/click"]
    assert curve == pytest.approx(last, rel=1e-6)
    assert sorted(curve) == list(range(12, 1465, 12))
    steps = [record.step for path in files for record in records(path) if record.HasField("session_log")]
    assert steps == [1, 481, 841]


def test_a_start_without_a_commit_begins_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for last in (100, 30):
        board = TensorBoard(str(tmp_path))
        tell(board, [step_event(step, 100, rng) for step in range(10, last + 1, 10)])
        board.close()
    assert sorted(shown(tmp_path / FOLDER)["speed/rows_per_second"]) == [10, 20, 30]


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    step = {"losses": {"click": math.nan, "conversion": 0.5}, "rows_per_second": math.inf, "data_wait": 0.1, "step": 3}
    board.event("step", step)
    board.close()
    assert sorted(shown(tmp_path / FOLDER)) == ["speed/data_wait", "train/loss/conversion"]


def test_events_without_curves() -> None:
    for name in ("start", "commit", "skip", "early_stop", "counts", "done", "sample_logs"):
        assert not list(scalars(name, {"step": 1}))


def test_a_missing_package_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # how Python marks what can not be imported
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        TensorBoard(str(tmp_path))
    assert not (tmp_path / FOLDER).exists()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(ConfigError, match="choose a folder to write to"):
        TensorBoard(str(tmp_path))
