"""A run over all its restarts: what was kept, what was repeated, and when it ran."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dist_mtl.bounded import BeyondBounds, parse_json, read_lines
from dist_mtl.errors import CheckpointError, DataError
from dist_mtl.terminal.wording import few_steps
from dist_mtl.tools.report.event_schema import (
    EVENT,
    AnyEvent,
    Commit,
    Counts,
    Diagnosis,
    Done,
    EarlyStop,
    Evaluation,
    Quarantine,
    Resume,
    SampleLogs,
    Skip,
    Start,
    Step,
)
from dist_mtl.tools.report.number_format import known

STREAM = "events.jsonl"  # as observe.STREAM, which can not be imported here without torch
HEAD = b'{"event": '  # how every line begins
MAX_LINE = 1 << 28  # bytes: `start` tells the plan, as commit.json does
MAX_EVENTS = 1 << 32  # bytes of the file: four million steps told


@dataclass(frozen=True)
class Attempt:
    """One process of the run, from its start to its end or to whatever killed it."""

    began: float  # Unix seconds
    ended: float  # of its last event
    from_step: int
    last_step: int
    world: int | None = None
    device: str = ""
    finished: bool = False
    track: tuple[tuple[float, int], ...] = ()  # (Unix seconds, step) of all its steps, also of those repeated later


@dataclass(frozen=True)
class Run:
    """Steps, evaluations and diagnoses that count: of a step trained twice, the later one."""

    name: str
    folder: str
    attempts: tuple[Attempt, ...]
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluation, ...]
    diagnoses: tuple[Diagnosis, ...]
    commits: tuple[Commit, ...]
    log: tuple[AnyEvent, ...]  # every event but steps and diagnoses, in order of time
    start: Start  # of the last attempt
    early_stop: EarlyStop | None
    counts: Counts | None
    unreadable: tuple[str, ...] = ()  # what was left out, one reason a line

    @property
    def finished(self) -> bool:
        return self.attempts[-1].finished

    @property
    def restarts(self) -> int:
        """Attempts that took up what an earlier one left unfinished."""
        return sum(not before.finished for before in self.attempts[:-1])

    @property
    def seconds(self) -> float:
        """Time over all attempts, without the gaps between them."""
        return sum(attempt.ended - attempt.began for attempt in self.attempts)

    @property
    def repeated_steps(self) -> int:
        """Steps trained more than once, as far as `step` events tell."""
        later = [attempt.from_step for attempt in self.attempts[1:]]
        return sum(max(before.last_step - step, 0) for before, step in zip(self.attempts, later, strict=False))

    def configured(self, section: str, key: str) -> object:
        """A value of the configuration, None where it is not set."""
        table = self.start.config.get(section)
        return table.get(key) if isinstance(table, dict) else None

    @property
    def few_steps(self) -> str | None:
        """Advice about a run of so few steps that nothing else about it matters yet; None for a longer one."""
        steps, batch = self.start.steps, self.start.global_batch
        if not known(steps) or not known(batch):
            return None
        most = self.configured("train", "max_steps")
        return few_steps(int(steps), int(batch), is_capped=isinstance(most, int) and most <= steps)

    @property
    def last_step(self) -> int:
        return max((e.step for e in (*self.steps, *self.evaluations, *self.commits)), default=0)

    @property
    def final(self) -> Evaluation | None:
        """The evaluation that the run is judged by: the last one marked final, else the last one."""
        finals = [e for e in self.evaluations if e.final]
        return (finals or [*self.evaluations] or [None])[-1]


def read(run_dir: str) -> Run:
    """The history of a run. CheckpointError where there is no run, DataError where its events can not be read."""
    path = Path(run_dir) / STREAM
    try:
        events, unreadable = _parse(read_lines(path, MAX_LINE, MAX_EVENTS))
    except FileNotFoundError:
        what = (
            "no such folder" if not Path(run_dir).is_dir() else f"no {STREAM} in it, so it is not the folder of a run"
        )
        raise CheckpointError(f"{run_dir}: {what}; name the run.dir of a training run, e.g. runs/quickstart") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a report needs to read it") from None
    except BeyondBounds as error:
        raise CheckpointError(f"{path}: not what a run writes there: {error}; remove it, or correct the path") from None
    if not events:
        raise DataError(f"{path}: no event in it; train first ({unreadable[0] if unreadable else 'the file is empty'})")
    return _tell(Path(run_dir), events, unreadable)


def _parse(lines: Iterable[bytes]) -> tuple[list[AnyEvent], list[str]]:
    """Events in the order written, and reasons for the lines left out. Raises OSError, BeyondBounds."""
    events: list[AnyEvent] = []
    unreadable = []
    for number, line in enumerate(lines, start=1):
        if (fields := fields_of(line, number)) is None:
            # A killed process leaves half a line; the next one appends its first event to it.
            fields = fields_of(line[line.rfind(HEAD) :], number) if line.rfind(HEAD) > 0 else None
            if line.endswith(b"\n") and line.strip():
                unreadable.append(f"line {number} is cut short: the process was killed while it wrote")
        if fields is None:
            continue
        if events and not isinstance(fields.get("time"), int | float):
            fields["time"] = events[-1].time
        try:
            events.append(EVENT.validate_python(fields))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["type"].startswith("union_tag"):  # an event that only newer versions know is no fault
                where = ".".join(map(str, first["loc"]))
                unreadable.append(f"line {number}, {where}: {first['msg']}")
    return events, unreadable


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run as they stand there. Raises FileNotFoundError; CheckpointError: a file of no run."""
    events = []
    try:
        for number, line in enumerate(read_lines(path, MAX_LINE, MAX_EVENTS), start=1):
            # A killed process leaves half a line, and the next one appends its first event to it.
            fields = fields_of(line[max(line.rfind(HEAD), 0) :], number)
            events += [fields] if fields is not None and "event" in fields else []
    except FileNotFoundError:
        raise
    except (OSError, BeyondBounds) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: not what a run writes there: {reason}; remove it") from None
    return events


def fields_of(line: bytes, number: int) -> dict[str, Any] | None:
    """The event of a line; None if it is none. Raises BeyondBounds: no killed process leaves such a line."""
    try:
        fields = parse_json(line, constant=lambda _: None)
    except BeyondBounds as error:
        raise BeyondBounds(f"line {number:,}: {error}") from None
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


@dataclass
class _Story:
    """The run as told so far; a restart takes back what lies beyond its first step."""

    attempts: list[Attempt] = field(default_factory=list)
    steps: dict[int, Step] = field(default_factory=dict)
    evaluations: dict[tuple[int, str], Evaluation] = field(default_factory=dict)
    diagnoses: dict[int, Diagnosis] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    start: Start | None = None
    early_stop: EarlyStop | None = None
    counts: Counts | None = None
    awaits_start: bool = False
    track: list[tuple[float, int]] = field(default_factory=list)

    def begin(self, time: float, step: int) -> None:
        self.close()
        self.attempts.append(Attempt(time, time, step, step))
        if self.early_stop and self.early_stop.step > step:
            self.early_stop = None
        self.steps = {s: e for s, e in self.steps.items() if s <= step}
        self.diagnoses = {s: e for s, e in self.diagnoses.items() if s <= step}
        self.commits = {s: e for s, e in self.commits.items() if s <= step}
        self.evaluations = {key: e for key, e in self.evaluations.items() if key[0] <= step}

    def close(self) -> None:
        if self.attempts:
            self.attempts[-1] = replace(self.attempts[-1], track=tuple(self.track))
        self.track = []

    def change(self, **fields: Any) -> None:
        self.attempts[-1] = replace(self.attempts[-1], **fields)

    def take(self, event: AnyEvent) -> None:
        if isinstance(event, SampleLogs):
            return  # before the first start; making data is not training
        if isinstance(event, Resume):
            self.begin(event.time, event.step)
            self.awaits_start = True
            return
        if isinstance(event, Start) and not self.awaits_start or not self.attempts:
            self.begin(event.time, 0)
        self.awaits_start = False
        self.change(ended=max(event.time, self.attempts[-1].began))
        match event:
            case Start():
                self.start = event
                self.change(world=event.world, device=event.device)
            case Step():
                self.steps[event.step] = event
                self.change(last_step=max(event.step, self.attempts[-1].last_step))
                self.track.append((event.time, event.step))
            case Evaluation():
                self.evaluations.pop((event.step, event.data), None)  # the later one goes last
                self.evaluations[event.step, event.data] = event
            case Diagnosis():
                self.diagnoses[event.step] = event
            case Commit():
                self.commits[event.step] = event
            case EarlyStop():
                self.early_stop = event
            case Counts():
                self.counts = event
            case Done():
                self.change(finished=True)


def _tell(folder: Path, events: list[AnyEvent], unreadable: list[str]) -> Run:
    story = _Story()
    for event in events:
        story.take(event)
    if not story.attempts:
        raise DataError(f"{folder / STREAM}: the run made its sample logs and did not start; train first")
    story.close()
    return Run(
        name=folder.resolve().name,
        folder=str(folder),
        attempts=tuple(story.attempts),
        steps=tuple(story.steps[step] for step in sorted(story.steps)),
        evaluations=tuple(story.evaluations.values()),
        diagnoses=tuple(story.diagnoses[step] for step in sorted(story.diagnoses)),
        commits=tuple(story.commits[step] for step in sorted(story.commits)),
        log=tuple(e for e in events if not isinstance(e, Step | Diagnosis | Counts)),
        start=story.start or Start(event="start"),
        early_stop=story.early_stop,
        counts=story.counts,
        unreadable=tuple(unreadable),
    )


def skips(run: Run) -> list[Skip]:
    """Steps that were left out, over all attempts."""
    return [e for e in run.log if isinstance(e, Skip)]


def lost(run: Run) -> list[Quarantine]:
    """Row groups that were skipped, each once, over all attempts."""
    return list({(e.path, e.row_group): e for e in run.log if isinstance(e, Quarantine)}.values())
