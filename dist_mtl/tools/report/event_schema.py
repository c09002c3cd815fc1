"""One line of events.jsonl, typed. Every field may be absent: older versions wrote fewer, newer ones write more."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

LARGEST = 1e100  # beyond what a run measures, which is float32's mostly; above 1e300 an axis would have no finite end


def _drawable(number: float) -> float:
    return 0.0 if abs(number) < 1 / LARGEST else number


# None: not measured, or not finite.
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST), AfterValidator(_drawable)] | None


class Record(BaseModel):
    """A part of an event. Null is the same as absent; unknown keys belong to a newer version and are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields


# ------------------------------------------------------------------------------------------------------------- metrics
class Auc(Record):
    value: Number = None
    error: Number = None
    low: Number = None
    high: Number = None


class Bin(Record):
    weight: float = 0.0
    predicted: Number = None
    observed: Number = None


class TaskMetrics(Record):
    rows: Number = None
    positives: Number = None
    auc: Auc = Auc()
    logloss: Number = None
    normalised_entropy: Number = None
    pcoc: Number = None
    calibration_error: Number = None
    logloss_interval: tuple[Number, ...] = ()  # low, high: 95 %
    pcoc_interval: tuple[Number, ...] = ()
    reliability: tuple[Bin, ...] = ()


class GroupMetrics(Record):
    groups: Number = None
    groups_with_positive: Number = None
    groups_total: Number = None
    rows: Number = None
    gauc: Number = None
    gauc_error: Number = None
    gauc_unweighted: Number = None
    gauc_unweighted_error: Number = None
    ndcg: dict[str, Number] = {}
    ndcg_error: dict[str, Number] = {}
    mrr: Number = None
    mrr_error: Number = None


class Window(Record):
    """A sliding window of training rows."""

    rows: Number = None
    auc: Number = None
    auc_low: Number = None
    auc_high: Number = None
    normalised_entropy: Number = None
    pcoc: Number = None


# ---------------------------------------------------------------------------------------------------------- description
class Shard(Record):
    rank: int | None = None
    offset: tuple[int, ...] = ()
    size: tuple[int, ...] = ()


class Placement(Record):
    """Where a table lives."""

    table: str = ""
    sharding: str = ""
    kernel: str = ""
    shards: tuple[Shard, ...] = ()


class DataFolder(Record):
    folder: str = ""
    rows: Number = None
    files: Number = None
    bytes: Number = None
    digest: str = ""
    columns: dict[str, str | None] = {}


class Memory(Record):
    host_bytes: Number = None
    device_bytes: Number = None


class Counted(Record):
    """A histogram: K + 1 edges, K counts."""

    edges: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()


# --------------------------------------------------------------------------------------------------------------- events
class Event(Record):
    time: float = 0.0  # Unix seconds


class SampleLogs(Event):
    event: Literal["sample_logs"]
    seconds: Number = None


class Resume(Event):
    event: Literal["resume"]
    step: int = 0
    folder: str = ""


class Start(Event):
    event: Literal["start"]
    rows: Number = None
    steps: Number = None
    global_batch: Number = None
    world: int | None = None
    device: str = ""
    idle_gpus: int = 0
    table_bytes: Number = None
    plan: tuple[Placement, ...] = ()
    config: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    data: dict[str, DataFolder | None] = {}


class DynamicTable(Record):
    rows: Number = None
    occupied: Number = None
    lookups: Number = None  # these three since the run began
    fallback: Number = None
    evicted: Number = None


class Step(Event):
    event: Literal["step"]
    step: int
    steps: Number = None
    loss: Number = None
    losses: dict[str, Number] = {}
    rows_per_second: Number = None
    data_wait: Number = None
    seconds: dict[str, Number] = {}
    pauses: dict[str, Number] = {}  # seconds beside the steps since the last event
    memory: Memory = Memory()
    window: dict[str, Window | None] = {}
    dynamic: dict[str, DynamicTable] = {}


class Evaluation(Event):
    event: Literal["evaluation"]
    step: int
    seconds: Number = None
    data: str = ""
    final: bool = False
    score: Number = None
    tasks: dict[str, TaskMetrics] = {}
    slices: dict[str, dict[str, dict[str, TaskMetrics]]] = {}
    groups: dict[str, dict[str, GroupMetrics]] = {}
    ceiling: dict[str, Number] = {}
    rows: Number = None
    dropped: Number = None
    clamped: Number = None


class Similarity(Record):
    positive: Number = None
    negative: Number = None


class Diagnosis(Event):
    event: Literal["diagnosis"]
    step: int
    gates: dict[str, tuple[Number, ...]] = {}
    gate_entropy: dict[str, Number] = {}
    gradient_cosine: dict[str, Number] = {}
    gradient_norm: dict[str, Number] = {}
    temperature: dict[str, Counted] = {}
    relatedness: dict[str, Counted] = {}
    similarity: dict[str, Similarity] = {}
    violated: dict[str, Number] = {}


class Commit(Event):
    event: Literal["commit"]
    step: int
    seconds: Number = None
    folder: str = ""
    reason: str = ""


class EarlyStop(Event):
    event: Literal["early_stop"]
    step: int
    best_step: int | None = None
    best_score: Number = None
    stale: int | None = None  # evaluations without a gain


class Skip(Event):
    event: Literal["skip"]
    step: int
    reason: str = ""


class Quarantine(Event):
    event: Literal["quarantine"]
    step: int
    path: str = ""
    row_group: int = 0
    rows: int = 0
    reason: str = ""


class Counts(Event):
    event: Literal["counts"]
    dropped: int = 0
    clamped: int = 0
    quarantined: int = 0  # rows
    lost: int = 0  # row groups that they are of


class Done(Event):
    event: Literal["done"]
    steps: Number = None
    seconds: Number = None


AnyEvent = Annotated[
    SampleLogs
    | Resume
    | Start
    | Step
    | Evaluation
    | Diagnosis
    | Commit
    | EarlyStop
    | Skip
    | Quarantine
    | Counts
    | Done,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
