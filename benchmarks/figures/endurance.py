"""A long run with a commit every 50 steps and kills at random: memory, open files and the disk stay flat.

    python -m benchmarks.figures.endurance --steps 10000 --kills 20

Prints what each life of the run held, and the slopes; exits 1 if something grows, or if the bits at the end are not
those of a run without kills.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.staging import complete
from dist_mtl.checkpoint.verify import verify
from dist_mtl.config import Config
from tests.support import samples
from tests.support.harness import Cluster, Running, events
from tests.support.workers import train

SLOPE_MB = 1.0  # of resident memory per 1,000 steps, within one life of a rank
WARM_STEPS = 1_000  # after a start: caches and pools fill


@dataclass(frozen=True)
class Sample:
    """What a rank held at a step."""

    life: int
    step: int
    rss_mb: float
    files: int
    disk_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples.write_logs(folder / "train", 20_000)
        killed = endure(folder, "run", options.steps, options.kills, random.Random(options.seed))
        alone = endure(folder, "alone", options.steps, 0, random.Random())
        same = last(folder, "alone") == last(folder, "run")
    sys.exit(report(killed, alone, options.kills, same))


def settings(folder: Path, run: str, steps: int) -> Config:
    epochs = -(-steps * 64 // 20_000)
    fixed = (f"train.epochs={epochs}", f"train.max_steps={steps}", "train.checkpoint_every=50", "train.log_every=50")
    return samples.config(folder, f"run.dir='{folder / run}'", *fixed, "run.attempts=1000", "model.dropout=0.2")


def last(folder: Path, run: str) -> str | None:
    """The digest of the state that a run ended with."""
    return verify(complete(folder / run / store.FOLDER)[-1]).state


def endure(folder: Path, run: str, steps: int, kills: int, draw: random.Random) -> list[Sample]:
    """Train to the end through the kills, which come after about equal numbers of steps."""
    config, taken = settings(folder, run, steps), []
    for life in range(kills + 1):
        running = Cluster(2).start(train, config)
        until = None if life == kills else int(steps * (life + draw.uniform(0.6, 1.4)) / (kills + 1))
        while running.alive:
            step = max((e["step"] for e in events(config.run.dir, "step")), default=0)
            if (one := look(running, life, step, folder / run)) is not None and (not taken or taken[-1].step != step):
                taken.append(one)
            if until is not None and step >= until:
                running.kill(draw.randrange(2))
                break
            time.sleep(0.05)
        running.wait(600)
    return taken


def look(running: Running, life: int, step: int, run: Path) -> Sample | None:
    """The larger of the two ranks; None while they come or go."""
    try:
        rss, files = zip(*(held(process.pid) for process in running.processes), strict=True)
        disk = sum(f.stat().st_size for f in (run / store.FOLDER).rglob("*") if f.is_file()) if step else 0
    except (OSError, ValueError):  # a commit has gone between two looks, or a rank
        return None
    return Sample(life, step, max(rss), max(files), disk / 1e6)


def held(pid: int) -> tuple[float, int]:
    """Resident MB and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [text for text in status.splitlines() if text.startswith("VmRSS")]
    return int(line.split()[1]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def report(killed: list[Sample], alone: list[Sample], kills: int, same: bool) -> int:
    """The table, and 1 if something grows."""
    settled = [s for s in alone if s.step >= WARM_STEPS]
    steps, rss = [s.step for s in settled], [s.rss_mb for s in settled]
    slope = float(np.polyfit(steps, rss, 1)[0]) * 1000
    lives = [[s for s in killed if s.life == life] for life in range(kills + 1)]
    ends = [life[-1] for life in lives if life]
    opened, closed = [s.files for s in settled], [s.files for s in ends]
    print("| | resident MB | MB per 1,000 steps | open files | disk, MB |\n|---|---|---|---|---|")
    print(
        f"| never killed, steps {steps[0]:,} to {steps[-1]:,} | {rss[0]:.0f} at first, {rss[-1]:.0f} at last "
        f"| {slope:+.3f} | {min(opened)} to {max(opened)} | {max(s.disk_mb for s in settled):.1f} |"
    )
    low, high = min(s.rss_mb for s in ends), max(s.rss_mb for s in ends)
    print(
        f"| {kills} kills, the same steps | {low:.0f} to {high:.0f} at the end of {len(ends)} lives | "
        f"| {min(closed)} to {max(closed)} | {max(s.disk_mb for s in killed):.1f} |"
    )
    print(f"The last commits of both have {'the same bits' if same else 'OTHER BITS'}.")
    return int(slope >= SLOPE_MB or max(opened + closed) - min(opened + closed) > 6 or not same)


if __name__ == "__main__":
    main()
