"""What a status line tells: means over the rows since the line before."""

import math
from pathlib import Path

import pytest

from dist_mtl.metrics.mean import Mean
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.workers import train


def test_a_mean_weighs_steps_by_their_rows_and_begins_anew() -> None:
    mean = Mean(2)
    assert all(map(math.isnan, mean.take()))
    mean.add([0.1, 7.3], 3.0)
    assert mean.take() == [0.1, 7.3]  # of a single step to the bit
    for value, weight in ((1.0, 64.0), (4.0, 32.0), (9.0, 0.0), (2.0, 0.5)):
        mean.add([value, -value], weight)
    wanted = (64 + 128 + 1) / 96.5
    assert mean.take() == pytest.approx([wanted, -wanted])
    assert all(map(math.isnan, mean.take()))


def test_the_loss_of_a_line_is_that_of_the_rows_since_the_line_before(tmp_path: Path) -> None:
    """A step a line, seven steps a line on two ranks: the last step of an epoch has 40 rows, the others 64."""
    samples.write_logs(tmp_path / "train", 1_000)
    fixed = ("train.epochs=2", "model.counterfactual={kind='ips'}")
    for world, every in ((1, 1), (2, 7)):
        run = (f"run.dir='{tmp_path / str(every)}'", f"train.log_every={every}")
        Cluster(world).run(train, samples.config(tmp_path, *fixed, *run))
    single = events(tmp_path / "1", "step")
    assert [e["step"] for e in events(tmp_path / "7", "step")] == [7, 14, 21, 28, 32]
    for line, first in zip(events(tmp_path / "7", "step"), (0, 7, 14, 21, 28), strict=True):
        part = single[first : line["step"]]
        rows = [40 if e["step"] % 16 == 0 else 64 for e in part]
        for read in (lambda e: e["loss"], lambda e: e["losses"]["conversion"]):
            wanted = sum(n * read(e) for n, e in zip(rows, part, strict=True)) / sum(rows)
            assert read(line) == pytest.approx(wanted, rel=1e-4)
