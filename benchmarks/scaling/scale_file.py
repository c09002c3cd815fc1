"""The scale file: which model, over which ranks, batches and table sizes. TOML, as strict as a configuration.

    dir = "runs/scale"
    ranks = [1, 2]
    rows = [100_000, 1_000_000]
    scaling = ["weak", "strong"]
    [logs]
    ids = 26

The model is that of a configuration (`base`), on its own data, or the benchmark's on sample logs of `logs`. Imports no
torch.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from benchmarks.speed.workload import Shape
from dist_mtl.config import Config, Positive, Section
from dist_mtl.config.features import TableFeature
from dist_mtl.config.file import load, parse, read_toml, validated
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import ConfigError
from dist_mtl.tools.study.overrides import Overrides, problems, texts

OURS = ("run.dir", "train.global_batch", "data.shuffle_rows", "data.train")  # keys that each point sets for itself
STEPS_PER_WINDOW = 8  # so that a round of some steps reads what it trains, not much more or less
Scaling = Literal["weak", "strong"]


class Logs(BenchmarkLogs):
    """The benchmark's logs, made where they are not there yet."""

    folder: str = "data/scale"
    rows: Positive = 1_048_576


class Scale(Section):
    """The scale file."""

    dir: str  # what is measured and the page
    ranks: Annotated[tuple[Positive, ...], Field(min_length=1)]
    # Of every table, each as a series of its own; none: the tables are as `base` has them. Ids are hashed into the rows
    # that there are, so that the same logs do for all.
    rows: tuple[Positive, ...] = ()
    # weak: every rank has `rows_per_rank`, whatever their number; strong: all ranks share `global_batch`.
    scaling: Annotated[tuple[Scaling, ...], Field(min_length=1)] = ("weak", "strong")
    rows_per_rank: Positive = 4096
    global_batch: Positive = 4096
    threads: Positive = 1  # of each rank; more ranks x threads than cores measure the cores
    rounds: Positive = 9  # a ratio is the median over them
    steps: Positive = 8  # of each point in a round
    device: str = "cpu"  # what to predict with: a profile of dist-mtl plan
    base: str | None = None
    logs: Logs | None = None
    settings: Overrides = {}  # of every point: "sharding.pipeline" = "sparse_dist"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(_problems(self)):
            raise ValueError("\n".join(found))
        return self


def _problems(scale: Scale) -> Iterator[str]:
    if (scale.base is None) == (scale.logs is None):
        yield "base, logs: name one of the two: a configuration, or sample logs for the benchmark's model"
    for key in ("ranks", "rows", "scaling"):
        values = getattr(scale, key)
        if len(set(values)) != len(values):
            yield f"{key}: a value stands there twice"
    if "strong" in scale.scaling:
        for ranks in scale.ranks:
            if scale.global_batch % ranks:
                yield f"global_batch: {scale.global_batch} rows can not be cut evenly over {ranks} ranks"
    yield from (f"settings.{problem}" for problem in problems(scale.settings, OURS))


def read_scale(path: str) -> Scale:
    """Read a scale file. Raises ConfigError: absent, not TOML, an unknown key, values that do not fit together."""
    return validated(Scale, read_toml(path), path)


def base_of(scale: Scale) -> Config:
    """The configuration that every point changes. Raises ConfigError."""
    if scale.base is not None:
        return load(scale.base, texts(scale.settings))
    logs = scale.logs
    shape = Shape(rows=logs.rows_per_table, ids=logs.ids, dense=logs.dense)
    tree = shape.config(logs.folder).model_dump(mode="json", exclude_unset=True)
    for feature in tree["features"].values():
        feature |= {"policy": "hash"} if feature["kind"] == "id" else {}
    return parse(tree, texts(scale.settings), source="[logs]")


def with_rows(base: Config, rows: int | None) -> Config:
    """The same with so many rows in every table. Raises ConfigError where ids can not be hashed into them."""
    if rows is None:
        return base
    for name, feature in base.features.items():
        if isinstance(feature, TableFeature) and getattr(feature, "policy", "hash") != "hash":
            raise ConfigError(
                f"rows: features.{name} has policy '{feature.policy}', and only hashed ids fit tables of any size; set "
                f"\"features.{name}.policy\" = 'hash' in [settings], or remove `rows`"
            )
    tree = base.model_dump(mode="json")
    for table in tree["tables"].values():
        table["rows"] = rows
    return parse(tree, source=f"rows = {rows}")
