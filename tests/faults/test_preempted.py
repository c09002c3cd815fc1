"""Preempted at random moments: every rank commits the same step and ends with 75; the run ends with the same bits."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.verify import verify
from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import cases
from tests.support.guard_workers import run_cli
from tests.support.harness import Cluster, events, wait_for
from tests.support.workers import train

STEPS = 94


def settings(folder: Path, run: str) -> Config:
    fixed = ("train.epochs=2", "model.dropout=0.2", "train.checkpoint_every=7", f"run.dir='{folder / run}'")
    return samples.config(folder, *fixed)


def test_sigterm_at_any_moment(tmp_path: Path) -> None:
    """In a step, in a commit, at the start; to one rank or both, once or twice."""
    samples.write_logs(tmp_path / "train", 3_000)
    Cluster(2).run(train, settings(tmp_path, "whole"))
    whole = verify(complete(tmp_path / "whole" / store.FOLDER)[-1]).state
    draw, number, landed, runs = random.Random(11), cases(4, 20), Counter(), 0
    config = settings(tmp_path, "run-0")
    for _ in range(number):
        root, seen = Path(config.run.dir) / store.FOLDER, len(events(config.run.dir))
        running = Cluster(2).start(run_cli, config)
        if draw.random() < 0.8:
            wait_for(config.run.dir, lambda _, run=config.run.dir, seen=seen: len(events(run)) > seen, running)
        time.sleep(draw.random() * 0.5)
        inside = any(root.glob(".staged-*"))
        ranks = draw.choice([(0,), (1,), (0, 1), (0, 1, 0, 1)])
        for rank in ranks:
            if running.processes[rank].is_alive():
                os.kill(running.processes[rank].pid, signal.SIGTERM)
        codes = [e.code for e in running.wait(60)]
        told = events(config.run.dir)[seen:]
        began = any(e["event"] in ("start", "resume") for e in told)
        if codes == [0, 0]:
            landed["after the end"] += 1
        else:
            assert codes == [75, 75] or (not began and set(codes) <= {75, -signal.SIGTERM}), codes
            landed["in a commit" if inside else "in a step" if began else "at the start"] += 1
            last = max((e["step"] for e in told if e["event"] == "step"), default=None)
            if last is not None:
                assert complete(root)[-1].name == f"step-{last:010d}", "the last step was not committed"
        newest = complete(root)
        if newest and newest[-1].name == f"step-{STEPS:010d}":
            assert verify(newest[-1]).state == whole
            runs += 1
            config = settings(tmp_path, f"run-{runs}")
    Cluster(2).run(train, config)
    assert verify(complete(Path(config.run.dir) / store.FOLDER)[-1]).state == whole
    print(
        f"{number} SIGTERMs {dict(landed)}: same step on all ranks, exit 75; {runs + 1} runs ended with the same bits"
    )
    assert landed["after the end"] <= number // 4
