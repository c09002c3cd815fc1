"""Where the impressions are, and how their columns become features and tables."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dist_mtl.config.section import Dim, Population, Positive, Section, Seed, Share


class SampleLogs(Section):
    """Sample logs with planted truth, made where `data.train` does not exist yet (see `data/synthetic.py`)."""

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


class DataConfig(Section):
    """Where the impressions are and in which order they are trained.

    `labels` is the funnel: each label implies the one before it. A row that breaks this is refused or dropped (weight
    0). With `funnel` false no label implies another, and every row is as good as the next.
    """

    train: str
    test: str | None = None  # evaluated once, at the end
    validation: str | None = (
        None  # evaluated on the way, for `select`; none: data.test, whose metrics are then optimistic
    )
    labels: Annotated[tuple[str, ...], Field(min_length=1)] = ("click", "conversion")
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
    sample: SampleLogs | None = None


class TableConfig(Section):
    """An embedding table. Its name is a name in torch, too: `rules` says which ones can not be."""

    rows: Positive
    dim: Dim = 16
    pooling: Literal["sum", "mean"] = "sum"
    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"] = (
        "auto"
    )


class Feature(Section):
    """What every feature has: the Parquet column it comes from, by default its own name."""

    column: str | None = None


class TableFeature(Feature):
    """A feature that is looked up in a table, by default the table of its own name."""

    table: str | None = None


class IdFeature(TableFeature):
    """One id a row (integer or string; null: no id, the zero vector)."""

    kind: Literal["id"]
    # hash: any id, by a seeded hash modulo rows. clamp: below 0 -> 0, beyond the last row -> the last row.
    # reject: an id outside the table stops the run. Strings can only be hashed.
    policy: Literal["hash", "clamp", "reject"] = "hash"


class BagFeature(TableFeature):
    """A list of ids a row, pooled; optionally weighted, optionally cut to `max_length`."""

    kind: Literal["bag"]
    policy: Literal["hash", "clamp", "reject"] = "hash"
    weights: str | None = None  # column with a list of numbers, as long as the ids
    max_length: Positive | None = None
    keep: Literal["first", "last"] | None = None  # which end of a longer list stays; none: last, where histories grow

    @model_validator(mode="after")
    def _keep_needs_a_length(self) -> Self:
        if self.keep is not None and self.max_length is None:
            raise ValueError("`keep` says which end of a longer list stays, so it needs `max_length`")
        return self


class BucketFeature(TableFeature):
    """A number looked up by bucket: len(boundaries) + 1 rows, bucket k holds boundaries[k-1] <= x < boundaries[k]."""

    kind: Literal["bucket"]
    boundaries: Annotated[tuple[float, ...], Field(min_length=1)]
    dim: Dim = 16

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must be strictly ascending")
        return self


class DenseFeature(Feature):
    """A number for the network: (f(x) - mean) / std with f = sign(x) log(1 + |x|) if `log`, else x; null -> `fill`."""

    kind: Literal["dense"]
    log: bool = False
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    fill: float = 0.0


AnyFeature = Annotated[IdFeature | BagFeature | BucketFeature | DenseFeature, Field(discriminator="kind")]
