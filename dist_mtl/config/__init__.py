"""The typed, frozen configuration of a run. Imports no torch, so that a mistake is told in milliseconds.

TOML -> `load()` -> `Config`. A key that does not exist is an error that names the nearest one; a value of the wrong
type is an error, never a conversion. Every default stands here once, with its unit and its reason.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from dist_mtl.config.data import DataConfig, DynamicRows, LogStream, SampleLogs, StreamConfig, TableConfig
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.features import (
    AnyFeature,
    BagFeature,
    BucketFeature,
    CrossFeature,
    DenseFeature,
    Feature,
    IdFeature,
    TableFeature,
)
from dist_mtl.config.model import (
    AITM,
    PICO,
    PLE,
    AdaFTR,
    Alignment,
    AnyAlignment,
    Counterfactual,
    CrossInteraction,
    DotInteraction,
    FixedAlignment,
    LearnedAlignment,
    MMoE,
    ModelConfig,
    NoAlignment,
    NoInteraction,
    NoPairwise,
    OMoE,
    PWiseR,
    SharedBottom,
    SingleTask,
    Temperature,
)
from dist_mtl.config.section import (
    MAX_COUNT,
    Dim,
    PathText,
    Population,
    Positive,
    Seconds,
    Section,
    Seed,
    Share,
    Widths,
)
from dist_mtl.config.sharding import ShardingConfig
from dist_mtl.config.training import DiagnoseConfig, MetricsConfig, OptimConfig, RunConfig, SelectConfig, TrainConfig
from dist_mtl.observability.run_dir import check_path
from dist_mtl.terminal.wording import few_steps


class Config(Section):
    """One training run, complete. Equal configs on equal data give equal bits."""

    seed: Seed = 1
    run: RunConfig
    data: DataConfig
    tables: dict[str, TableConfig] = {}
    features: Annotated[dict[str, AnyFeature], Field(min_length=1)]
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sharding: ShardingConfig = ShardingConfig()
    metrics: MetricsConfig = MetricsConfig()
    select: SelectConfig | None = None
    diagnose: DiagnoseConfig = DiagnoseConfig()
    _extensions: Extensions = PrivateAttr(default_factory=Extensions)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is reported for the funnel: `ctr`, `cvr`, `ctcvr` for two labels; else P(b|a) and P(b) by label.

        Labels that are no funnel: each by its name.
        """
        labels = self.data.labels
        if not self.data.funnel:
            return labels
        if len(labels) == 2:
            return ("ctr", "cvr", "ctcvr")
        rest = [name for before, label in pairwise(labels) for name in (f"{label}|{before}", label)]
        return (labels[0], *rest)

    def few_steps(self, steps: int) -> str | None:
        """Advice about a run of so few steps; None for a longer one."""
        most = self.train.max_steps
        return few_steps(steps, self.train.global_batch, is_capped=most is not None and most <= steps)

    @property
    def evaluation_steps(self) -> int | None:
        """Steps between evaluations on the way; None: only at the end."""
        if (rows := self.train.evaluate_every_rows) is not None:
            return -(-rows // self.train.global_batch)
        return self.train.evaluate_every

    @property
    def validation(self) -> str | None:
        """The dataset that is evaluated on the way."""
        return self.data.validation or self.data.test

    @property
    def all_tables(self) -> dict[str, TableConfig]:
        """The declared tables, then those that features make."""
        own = {name: table for name, feature in self.features.items() if (table := feature.own_table()) is not None}
        return {**self.tables, **own}

    def table_of(self, feature: str) -> str | None:
        """The table that a feature is looked up in; None for a dense feature."""
        return self.features[feature].table_of(feature)

    def columns_of(self, feature: str) -> tuple[str, ...]:
        """The Parquet columns that a feature is made from; of a weighted bag its ids, then its weights."""
        return self.features[feature].columns_of(feature, self.features)

    @property
    def extensions(self) -> Extensions:
        """The parts that were passed from Python; see `config.file.extended`."""
        return self._extensions

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        from dist_mtl.config.rules import check  # the rules need the classes above

        check(self)
        return self
