"""How columns become what the model sees: ids and buckets to look up, numbers to read."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dist_mtl.config.data import TableConfig
from dist_mtl.config.section import Dim, Positive, Section

Quantiles = Annotated[int, Field(ge=2, le=10_000)]


class AnyKind(Section):
    """What every kind says of itself, given its name."""

    def columns_of(self, name: str, features: "Mapping[str, AnyFeature]") -> tuple[str, ...]:
        """The columns that it reads."""
        return (name,)

    def table_of(self, name: str) -> str | None:
        """The table that it is looked up in; None for a number."""
        return None

    def own_table(self) -> TableConfig | None:
        """The table that it makes, of its own name; None: it makes none."""
        return None


class Feature(AnyKind):
    """What a feature of one column has: the Parquet column that it comes from, by default its own name."""

    column: str | None = None

    def columns_of(self, name: str, features: "Mapping[str, AnyFeature]") -> tuple[str, ...]:
        return (self.column or name,)


class TableFeature(AnyKind):
    """A feature that is looked up in a table, by default the table of its own name."""

    table: str | None = None

    def table_of(self, name: str) -> str:
        return self.table or name


class IdFeature(Feature, TableFeature):
    """One id a row: an integer, a string, a boolean, a date or a time. Null: no id, the zero vector."""

    kind: Literal["id"]
    # hash: any id, by a seeded hash modulo rows. clamp: below 0 -> 0, beyond the last row -> the last row.
    # reject: an id outside the table stops the run. dynamic: any id gets a row of its own once it is seen often enough,
    # and loses it when the table is full. Clamp and reject take integers and booleans only.
    policy: Literal["hash", "clamp", "reject", "dynamic"] = "hash"


class BagFeature(Feature, TableFeature):
    """A list of ids a row, pooled; optionally weighted, optionally cut to `max_length`. Null: an empty list."""

    kind: Literal["bag"]
    policy: Literal["hash", "clamp", "reject", "dynamic"] = "hash"
    weights: str | None = None  # column with a list of numbers, as long as the ids
    max_length: Positive | None = None  # ids of a row; what is cut off is not looked at
    keep: Literal["first", "last"] | None = None  # which end of a longer list stays; none: last, where histories grow

    def columns_of(self, name: str, features: "Mapping[str, AnyFeature]") -> tuple[str, ...]:
        """The ids, then their weights."""
        return (self.column or name, *([self.weights] if self.weights else []))

    @model_validator(mode="after")
    def _keep_needs_a_length(self) -> Self:
        if self.keep is not None and self.max_length is None:
            raise ValueError("`keep` says which end of a longer list stays, so it needs `max_length`")
        return self


class CrossFeature(TableFeature):
    """The ids of several columns as one id: hashed together, in their order. Null in any of them: no id.

    `of`: features of kind id (their ids as they stand in the data, whatever their policy) or bucket (their buckets);
    any other name is a column of ids.
    """

    kind: Literal["cross"]
    of: Annotated[tuple[str, ...], Field(min_length=2)]
    policy: Literal["hash", "dynamic"] = "hash"

    def columns_of(self, name: str, features: "Mapping[str, AnyFeature]") -> tuple[str, ...]:
        return tuple(getattr(features.get(part), "column", None) or part for part in self.of)

    @model_validator(mode="after")
    def _of_different_ones(self) -> Self:
        if len(set(self.of)) < len(self.of):
            raise ValueError("`of` has a name twice, which tells nothing more; remove one")
        return self


class BucketFeature(Feature, TableFeature):
    """A number looked up by bucket: one row more than boundaries; bucket k holds boundaries[k-1] <= x < boundaries[k].

    `quantiles` = 32: up to 32 buckets of equal numbers of training rows, fewer where many rows have one value. Their
    boundaries are found before step 1 (of a stream in its first partition) and stand in every commit as `fitted`, for
    whatever is scored by it.
    """

    kind: Literal["bucket"]
    boundaries: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    quantiles: Quantiles | None = None
    fitted: Annotated[tuple[float, ...], Field(min_length=1)] | None = None  # written by training, not by hand
    dim: Dim = 16

    def own_table(self) -> TableConfig:
        return TableConfig(rows=self.rows, dim=self.dim)

    @property
    def edges(self) -> tuple[float, ...] | None:
        """The boundaries, given or found; None until they are found."""
        return self.fitted if self.boundaries is None else self.boundaries

    @property
    def rows(self) -> int:
        """Rows of the table that it makes; the most that there may be until the boundaries are found."""
        return self.quantiles if self.edges is None else len(self.edges) + 1

    @property
    def is_fitted(self) -> bool:
        """Whether nothing is left to be found in the training rows."""
        return self.edges is not None

    @model_validator(mode="after")
    def _one_kind_of_boundaries(self) -> Self:
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("give either `boundaries` or `quantiles`, the number of buckets to find in the data")
        if self.fitted is not None and self.quantiles is None:
            raise ValueError("`fitted` is what training found for `quantiles`; remove it")
        edges = self.edges or ()
        if any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
            raise ValueError("boundaries must be strictly ascending")
        return self


class DenseFeature(Feature):
    """A number for the network, from x as it stands in the column (a boolean is 0 or 1), in this order:

    `clip` x, then f(x) = sign(x) log(1 + |x|) with `log`, else x; then (f(x) - mean) / std, or with `minimum` and
    `maximum`, which are values of the column, (f(x) - f(minimum)) / (f(maximum) - f(minimum)): from 0 to 1.
    `scale` = "standard" or "minmax" finds the two in the training rows before step 1; they stand in every commit as
    `fitted`, for whatever is scored by it.
    """

    kind: Literal["dense"]
    clip: tuple[float, float] | None = None  # what is below or beyond, an infinity too, becomes the nearer of the two
    log: bool = False
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    minimum: float | None = None
    maximum: float | None = None
    scale: Literal["standard", "minmax"] | None = None
    fitted: tuple[float, float] | None = None  # (mean, std) or (minimum, maximum); written by training, not by hand
    # Null and NaN. fill: the network sees `fill`. indicator: the same, and a further column: 1 for them, 0 for all
    # others. reject: they stop the run.
    null: Literal["fill", "indicator", "reject"] = "fill"
    fill: float = 0.0

    @property
    def ends(self) -> tuple[float, float] | None:
        """(minimum, maximum), given or found; None if it is scaled by mean and std."""
        if self.scale == "minmax":
            return self.fitted
        return None if self.minimum is None else (self.minimum, self.maximum)

    @property
    def moments(self) -> tuple[float, float]:
        """(mean, std), given or found."""
        return self.fitted if self.scale == "standard" and self.fitted else (self.mean, self.std)

    @property
    def is_fitted(self) -> bool:
        """Whether nothing is left to be found in the training rows."""
        return self.scale is None or self.fitted is not None

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        moments, ends = (self.mean, self.std) != (0, 1), (self.minimum, self.maximum) != (None, None)
        if self.scale is not None and (moments or ends):
            raise ValueError("`scale` is found in the data; remove mean, std, minimum and maximum, or remove `scale`")
        if moments and ends:
            raise ValueError("mean and std, or minimum and maximum, not both")
        if (self.minimum is None) != (self.maximum is None):
            raise ValueError("minimum and maximum come together")
        if self.fitted is not None and self.scale is None:
            raise ValueError("`fitted` is what training found for `scale`; remove it")
        for name, pair in (("clip", self.clip), ("minimum and maximum", self.ends)):
            if pair is not None and pair[0] >= pair[1]:
                raise ValueError(f"{name}: the lower one first, then the higher one; got {pair[0]:g} and {pair[1]:g}")
        if self.scale == "standard" and self.fitted is not None and self.fitted[1] <= 0:
            raise ValueError("`fitted` is (mean, std), and std is above 0")
        if self.null == "reject" and self.fill:
            raise ValueError("null = 'reject' leaves nothing to fill; remove `fill`")
        return self


class CustomFeature(AnyKind):
    """What a function computes that is passed from Python (`config/extensions.py`); written there, not by hand.

    With `rows` it is an id of a table of its own, else a number for the network.
    """

    kind: Literal["custom"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Positive | None = None
    dim: Dim = 16

    def columns_of(self, name: str, features: "Mapping[str, AnyFeature]") -> tuple[str, ...]:
        return self.columns

    def table_of(self, name: str) -> str | None:
        return None if self.rows is None else name

    def own_table(self) -> TableConfig | None:
        return None if self.rows is None else TableConfig(rows=self.rows, dim=self.dim)


AnyFeature = Annotated[
    IdFeature | BagFeature | CrossFeature | BucketFeature | DenseFeature | CustomFeature, Field(discriminator="kind")
]
