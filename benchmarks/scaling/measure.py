"""Every series measured: its points in processes that wait while the others run, a few steps of each in turn.

So a noisy machine hits all points of a series alike. Where they do not fit into the memory of this machine together,
they run one after the other, and the page says so.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.scaling.points import Point, Series
from benchmarks.scaling.scale_file import Logs, Scale
from benchmarks.speed.memory import Memory
from benchmarks.speed.ranks import Ranks
from dist_mtl.checkpoint.memory_check import free_host_bytes
from dist_mtl.data.files import manifest
from dist_mtl.data.synthetic.logs import write_logs
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.tools.planning.device import GB, Cluster, Profile, load_profile
from dist_mtl.tools.planning.estimate import Outlook, outlook

SHARE = 0.7  # of the memory that is free, for the tables of one series
STATES = 1.25  # weights with their optimizer's states, of row-wise Adagrad at least
PROCESS = 700e6  # bytes of a rank without its tables: torch and torchrec, the window of rows


@dataclass
class Measured:
    """A point in a series: a step's seconds (of the slowest rank), one value a round, and what each rank holds."""

    series: Series
    point: Point
    interleaved: bool
    seconds: list[float] = field(default_factory=list)
    split: list[dict[str, float]] = field(default_factory=list)  # by rank: phase -> seconds of a step
    collectives: list[dict[str, float]] = field(default_factory=list)  # by rank: seconds of a step
    facts: list[dict[str, Any]] = field(default_factory=list)  # by rank
    predicted: Outlook | None = None
    memory: list[Memory] = field(default_factory=list)  # by rank


def measure(scale: Scale, series: Sequence[Series]) -> list[Measured]:
    """All series, one after the other; a line on stderr for each. Makes the sample logs if they are not there.

    Raises InternalError: a rank has ended.
    """
    if scale.logs is not None:
        _make_logs(scale.logs)
    _, profile = load_profile(scale.device, None, None, None)
    found = []
    for number, one in enumerate(series, 1):
        fits = _fit_together(one.points, profile)
        print(f"series {number}: {one.name}, {len(one.points)} points", file=sys.stderr)
        groups = [one.points] if fits else [(point,) for point in one.points]
        for points in groups:
            found += _together([Measured(one, p, fits, predicted=_outlook(p, scale, profile)) for p in points], scale)
    return found


def _make_logs(logs: Logs) -> None:
    """The benchmark's logs, where they are not there yet."""
    if not manifest.exists(f"{logs.folder}/train"):
        spec = BenchmarkLogs(**logs.model_dump(exclude={"folder", "rows"}, exclude_unset=True))
        write_logs(spec, f"{logs.folder}/train", logs.rows, "train")


def _together(points: list[Measured], scale: Scale) -> list[Measured]:
    at_work: list[Ranks] = []
    try:
        for one in points:
            command = [sys.executable, "-m", "benchmarks.scaling.rank", one.point.config.model_dump_json()]
            at_work.append(Ranks(one.point.label, command, one.point.ranks, scale.threads))
        for ranks in at_work:  # a first, unmeasured round warms everything up
            ranks.ask(f"train {scale.steps}")
        for _ in range(scale.rounds):
            for one, ranks in zip(points, at_work, strict=True):
                told = [float(line.split()[0]) for line in ranks.ask(f"train {scale.steps}")]
                one.seconds.append(max(told) / scale.steps)
        for one, ranks in zip(points, at_work, strict=True):
            one.memory = ranks.memory()  # before the profiler takes its own
            one.split = [json.loads(line) for line in ranks.ask(f"split {2 * scale.steps}")]
            one.facts = [json.loads(line) for line in ranks.ask("facts")]
            one.collectives = [json.loads(line) for line in ranks.ask(f"look {scale.steps}")]
    finally:
        for ranks in at_work:
            ranks.close()
    return points


def _outlook(point: Point, scale: Scale, profile: Profile) -> Outlook | None:
    """What was to be expected; None: it was not to fit."""
    expected = outlook(point.config, Cluster(scale.device, profile, 1, point.ranks))
    return expected if expected.fits else None


def _fit_together(points: Sequence[Point], profile: Profile) -> bool:
    """Whether all of them can be in memory at once: the host's, or that of each GPU, which is every point's."""
    if profile.device == "cuda":
        return sum(STATES * one.weight_bytes / one.ranks + PROCESS for one in points) <= SHARE * GB * profile.hbm_gb
    free = free_host_bytes()
    return free is None or sum(STATES * one.weight_bytes + PROCESS * one.ranks for one in points) <= SHARE * free
