"""The stream of events, and what a full disk does to it and to TensorBoard's files."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import ConfigError
from dist_mtl.observability.events import STREAM, Observer
from tests.support.report_run import step_event


@contextmanager
def room(most_bytes: int) -> Iterator[None]:
    """A disk on which no file is larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The disk is full in the middle of the third event, and has room again for the sixth."""
    observer = Observer(RunConfig(dir=str(tmp_path)), speaking=True)
    for number in (1, 2):
        observer.event("note", number=number, text="x" * 100)
    with room((tmp_path / STREAM).stat().st_size + 40):
        for number in (3, 4, 5):
            observer.event("note", number=number, text="x" * 100)
    observer.event("note", number=6, text="x" * 100)
    observer.close()
    *whole, cut, last = (tmp_path / STREAM).read_text().splitlines()
    assert [json.loads(line)["number"] for line in (*whole, last)] == [1, 2, 6] and len(cut) == 40
    told = capsys.readouterr().err.splitlines()
    print("\n".join(told))
    assert len(told) == 2 and f"{tmp_path / STREAM}: File too large; events are lost" in told[0]
    assert "3 events could not be written" in told[1]


def test_a_folder_that_can_not_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / STREAM).mkdir()
    with pytest.raises(ConfigError, match="a folder, where a file is written"):
        Observer(RunConfig(dir=str(tmp_path)), speaking=True)


def test_tensorboard_ends_with_its_first_fault(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """More scalars than any queue holds: training would wait for ever for a thread that has died."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    os.symlink("/dev/null", tmp_path / STREAM)
    observer, rng = Observer(RunConfig(dir=str(tmp_path), tensorboard=True), speaking=True), np.random.default_rng(0)
    with room(5_000):
        for step in range(1, 101):
            observer.event(**{"name" if key == "event" else key: x for key, x in step_event(step, 100, rng).items()})
    observer.close()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    print(warnings)
    assert warnings == ["warning      TensorBoard: File too large; its scalars end here, training goes on"]
