"""R2, R5, R7: killed at random moments again and again, a run ends with the bits of one that never was."""

import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.verify import verify
from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import cases
from tests.support.harness import Cluster, RankFailure, Running, events, wait_for
from tests.support.workers import train

STEPS = 94
PATIENCE = 5.0  # seconds that the other rank has to end


def settings(folder: Path, run: str, *overrides: str) -> Config:
    fixed = (
        "train.epochs=2",
        "model.dropout=0.2",
        "train.checkpoint_every=3",
        "run.step_timeout=60",
        "run.attempts=1000",
    )
    return samples.config(folder, f"run.dir='{folder / run}'", *fixed, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    """The digest of a run that never was killed."""
    Cluster(2).run(train, settings(folder, "whole"))
    return verify(complete(folder / "whole" / store.FOLDER)[-1]).state


@pytest.mark.parametrize("commit", ["blocking", "background"])
def test_random_kills(folder: Path, whole: str, commit: str) -> None:
    """At least 30 % of the kills hit a commit, and at least 90 % come before the end; else the case says nothing."""
    draw, number = random.Random(f"{commit} 5"), cases(6, 150)
    landed: Counter[str] = Counter()
    slowest, runs = 0.0, 0
    config = settings(folder, f"{commit}-0", f"train.commit='{commit}'")
    while sum(landed.values()) < number:
        root = Path(config.run.dir) / store.FOLDER
        before = complete(root)[-1].name if root.exists() and complete(root) else ""
        seen = len(events(config.run.dir))
        running = Cluster(2).start(train, config)
        with suppress(RankFailure):  # it had ended: told below
            wait_for(config.run.dir, lambda _, run=config.run.dir, seen=seen: len(events(run)) > seen, running)
            until_hit(draw, root, running)
        rank = draw.randrange(2)
        inside = any(root.glob(".staged-*")) or any(root.glob(".old-*"))
        over = not running.alive
        if not over:
            running.kill(rank)
        killed = time.monotonic()
        exits = running.wait(60)
        slowest = max(slowest, 0.0 if over else time.monotonic() - killed)
        over = over or all(e.code == 0 for e in exits)
        landed["after the end" if over else "in a commit" if inside else "in a step"] += 1
        if not over:
            assert exits[rank].code == -signal.SIGKILL
            assert exits[1 - rank].code not in (None, 0)
        newest = complete(root)
        assert not before or newest[-1].name >= before, "the newest commit went back"
        finished = newest and newest[-1].name == f"step-{STEPS:010d}"
        if finished:
            verdict = verify(newest[-1])
            assert verdict.damage is None and verdict.state == whole, f"run {runs} ended with other bits"
            shutil.rmtree(config.run.dir)
            runs += 1
            config = settings(folder, f"{commit}-{runs}", f"train.commit='{commit}'")
    Cluster(2).run(train, config)  # the last one to its end
    verdict = verify(complete(Path(config.run.dir) / store.FOLDER)[-1])
    assert verdict.state == whole
    resumes = len(events(config.run.dir, "resume"))
    print(
        f"{commit}: {number} kills {dict(landed)}, {runs + 1} runs to the end with the bits of the one that was not "
        f"killed; 0 hung ranks, the slowest ended {slowest:.2f} s after its peer; the last run resumed {resumes} times"
    )
    assert slowest < PATIENCE
    assert landed["in a commit"] >= 0.3 * number
    assert landed["after the end"] <= 0.1 * number


def until_hit(draw: random.Random, root: Path, running: Running) -> None:
    """Half of the kills wait for a moment of their own, half for a commit to be in the making, and then a bit."""
    if draw.random() < 0.5:
        time.sleep(draw.random() * 0.6)
        return
    time.sleep(draw.random() * 0.4)
    deadline = time.monotonic() + 3
    while running.alive and time.monotonic() < deadline and not any(root.glob(".staged-*")):
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.01)
