"""Where the impressions are, and the tables that their ids are looked up in."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dist_mtl.config.dataset_uri import Place, with_ranges
from dist_mtl.config.section import Dim, PathText, Population, Positive, Section, Seed, Share
from dist_mtl.config.sharding import SHARDINGS, Sharding, Traits
from dist_mtl.errors import ConfigError

Ranges = dict[str, tuple[int | str, int | str]]  # partition key -> first and last value


class LogStream(Section):
    """What both kinds of sample logs can add: an order of time, ids that come and go, late conversions."""

    rows_per_day: Positive | None = None  # rows are ordered by time, from day 0 on; none: in no order
    new_ids_per_day: Share = 0.0  # share of the living ids that new ones replace every day
    delayed: bool = False  # a column conversion_time: a third comes within an hour, half within a day, all in 30
    cutoff_day: Positive | None = None  # a column conversion_seen: what is known of them when this day begins

    @model_validator(mode="after")
    def _have_their_time(self) -> Self:
        if self.new_ids_per_day and self.rows_per_day is None:
            raise ValueError("new_ids_per_day: ids come and go in time, so set rows_per_day")
        if self.cutoff_day is not None and not self.delayed:
            raise ValueError("cutoff_day: it hides conversions that come later, so set delayed = true")
        return self


class SampleLogs(LogStream):
    """Sample logs with planted truth, made where `data.train` does not exist yet (see `data/sample/synthetic.py`)."""

    train_rows: Positive
    test_rows: Positive
    seed: Seed = 7
    num_users: Population = 20_000
    num_items: Population = 5_000
    ctr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    cvr: Annotated[float, Field(gt=0, lt=1)] = 0.10
    accidents: Share = 0.2  # share of the clicks that have nothing to do with interest; they never convert
    # How unevenly the accidents fall on items: the standard deviation of the logarithm of an item's accident rate. At 0
    # they tell next to nothing about an item, and so can not mislead a ranking; at 1 some items are clickbait.
    clickbait: Annotated[float, Field(ge=0, le=3)] = 0.0
    accidents_in_test: bool = True  # else an impression of the test split is clicked by interest only
    # Whether all user segments convert equally often once they click. Else the rate differs between segments, whose rho
    # differs, too, and what learns the one seems to have found the other.
    equal_cvr: bool = False


class StreamConfig(Section):
    """Train the partitions of data.train in ascending order of `by`, each once, and test each before it is trained.

    So the model of day d is tested on day d + 1. Within a partition rows are shuffled as `shuffle` says; without it
    they come in the order of the files, window by window (`shuffle_rows` = train.global_batch: step by step).
    """

    by: str  # the key of the partitions: day, where the folders are day=2024-01-01, day=2024-01-02, ...


class DataConfig(Section):
    """Where the impressions are and in which order they are trained.

    `labels` is the funnel: each label implies the one before it. A row that breaks this is refused or dropped (weight
    0). With `funnel` false no label implies another, and every row is as good as the next.
    """

    train: PathText
    test: PathText | None = None  # evaluated once, at the end
    validation: PathText | None = (
        None  # evaluated on the way, for `select`; none: data.test, whose metrics are then optimistic
    )
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=256)] = ("click", "conversion")
    funnel: bool = True
    weight: str | None = None  # column with a weight per row, 0 or 2**-20 to 2**10; none: every row weighs 1
    violations: Literal["reject", "drop"] = "reject"
    leaks: Literal["reject", "warn"] = "reject"  # a feature that tells a label without an error on the first steps
    # Down-sampled training logs, one number a label: the share of the rows that stop short of this label (not clicked;
    # clicked, not converted) that was kept. Scores are corrected for it: test and validation are traffic as it comes.
    kept: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    shuffle: bool = True
    shuffle_rows: Positive = 262_144  # rows of a shuffle window over all ranks; bounds the loader's memory
    verify: Literal["full", "footer"] = "full"  # full: sha256 of every file before step 1 (about 1 GB/s a rank)
    # Hive partitions (day=2024-01-01/part-0.parquet): partitions = { day = ["2024-01-01", "2024-01-07"] } takes the
    # files from the first to the last value, both included. They go over into `train`, `test`, `validation`, where they
    # can be written at once: train = "logs?day=2024-01-01..2024-01-07" (see `config/place.py`).
    partitions: Ranges = {}
    test_partitions: Ranges = {}
    validation_partitions: Ranges = {}
    quarantine: Annotated[int, Field(ge=0)] = 0  # damaged row groups that training may skip; 0: the first one ends it
    stream: StreamConfig | None = None  # none: all rows are one set, shuffled anew in each epoch
    sample: SampleLogs | None = None

    @model_validator(mode="after")
    def _name_the_rows(self) -> Self:
        """One string names the rows of a dataset from here on, wherever it is told or opened."""
        changes: dict[str, Any] = {}
        for key in ("train", "test", "validation"):
            name = "partitions" if key == "train" else f"{key}_partitions"
            folder, ranges = getattr(self, key), getattr(self, name)
            if ranges and folder is None:
                raise ValueError(f"{name}: there is no data.{key} to take partitions of; name its folder, too")
            try:
                Place.parse(folder or "")
            except ConfigError as error:
                raise ValueError(f"{key}: {error}") from None
            try:
                changes |= {key: with_ranges(folder, ranges), name: {}} if ranges else {}
            except ConfigError as error:
                raise ValueError(f"{name}: {error}") from None
        return self.model_copy(update=changes) if changes else self


class DynamicRows(Section):
    """How the rows of a table go to ids that come and go: policy `dynamic` (`data/features/idmap.py`)."""

    admit: Positive = 2  # sightings of an id until it gets a row of its own; most ids of a log come once only
    evict: Literal["lfu", "lru"] = "lfu"  # whose row a new id takes: the one seen least (counts decay), or longest ago
    # lfu: a sighting counts half after so many lookups a row, of distinct ids of a step. None: 4.
    half_life: Annotated[int, Field(gt=0, le=2**20)] | None = None
    # Share of the rows that the ids without one have in common, each by its hash. None: a single row. Of many each is
    # learnt from a few ids, and misleads about the next: 0.01 loses 0.001 of CTCVR AUC. But under admit = 1 a single
    # one is hardly ever trained, and 0.01 is better by 0.0015 (see docs/data.md, dynamic ids).
    fallback: Annotated[float, Field(gt=0, le=0.5)] | None = None


class TableConfig(Section):
    """An embedding table. Its name is a name in torch, too: `rules` says which ones can not be."""

    rows: Positive
    dim: Dim = 16
    pooling: Literal["sum", "mean"] = "sum"
    sharding: Literal["auto", Sharding] = "auto"
    # Where the rows live. auto: in the memory of the device (fused); on CUDA uvm_caching, too, as the planner finds it.
    # The others are CUDA's: uvm in the host's memory, read over the bus; uvm_caching the same with `cache_share` of the
    # rows in the GPU; key_value on SSD, which is refused, since commits can not hold it.
    kernel: Literal["auto", "fused", "uvm", "uvm_caching", "key_value"] = "auto"
    cache_share: Annotated[float, Field(gt=0, lt=1)] | None = None  # of `uvm_caching`; none: TorchRec's own
    # Of the weights; optimizer states are fp32 always. Updates are rounded at random on CUDA; on CPU to the nearest, so
    # that small ones are lost.
    precision: Literal["fp32", "fp16"] = "fp32"
    dynamic: DynamicRows | None = None  # none: an id's row is fixed, by its feature's policy

    @property
    def traits(self) -> Traits:
        """What is true of its sharding; of `auto`, which is table-wise or row-wise, what is true of both."""
        return SHARDINGS["table_wise" if self.sharding == "auto" else self.sharding]

    @property
    def element_bytes(self) -> int:
        """Of a weight."""
        return {"fp32": 4, "fp16": 2}[self.precision]
