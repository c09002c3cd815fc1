"""Rules between the values of a `Config`: each names the keys, the reason and what to do."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dist_mtl.hints import nearest

if TYPE_CHECKING:
    from dist_mtl.config import Config

POINTWISE = ("adagrad", "sgd", "adam")  # optimizers whose state is per element, so that columns can live apart


def check(config: "Config") -> None:
    """Raise ValueError with every rule that is broken, one a line."""
    if problems := [problem for rule in (_features, _labels, _sharding, _model, _sizes) for problem in rule(config)]:
        raise ValueError("\n".join(problems))


def _features(config: "Config") -> Iterator[str]:
    used = Counter()
    for name, feature in config.features.items():
        table = config.table_of(name)
        if table is None:
            continue
        used[table] += 1
        if feature.kind == "bucket":
            if feature.table is not None or name in config.tables:
                yield f"features.{name}: a bucketised feature makes its own table; remove `table` and tables.{name}"
        elif table not in config.tables:
            hint = nearest(table, config.tables)
            yield f"features.{name}: there is no table `{table}`; {hint or f'add tables.{table} = {{ rows = ... }}'}"
    for table in config.tables:
        if not used[table]:
            yield f"tables.{table}: no feature is looked up in it; remove it, or name it in a feature's `table`"


def _labels(config: "Config") -> Iterator[str]:
    labels = config.data.labels
    if len(set(labels)) != len(labels):
        yield "data.labels: a column stands there twice"
    for name, feature in config.features.items():
        if (feature.column or name) in labels:
            yield f"features.{name}: column `{feature.column or name}` is a label; a model that sees it learns nothing"
    weights = config.model.task_weights
    if weights is not None and len(weights) != len(labels):
        yield f"model.task_weights: {len(weights)} weights for the {len(labels)} labels {list(labels)}"


def _sharding(config: "Config") -> Iterator[str]:
    kind = config.optim.embedding.kind
    for name, table in config.tables.items():
        if table.sharding in ("column_wise", "grid") and kind not in POINTWISE:
            # Measured: the row statistic is then one per column shard, weights differ by 0.2 after 4 steps.
            yield (
                f"tables.{name}: {table.sharding} would change the maths of {kind}, whose state is one number a row; "
                f"use optim.embedding.kind = 'adagrad' or 'sgd', or another sharding"
            )
        if table.sharding == "data_parallel" and kind in ("adam", "partial_rowwise_adam"):
            yield (
                f"tables.{name}: data_parallel would change the maths of {kind}: the fused kernel moves only the rows that "
                f"a step looks up, a dense one all rows; use another sharding, or 'rowwise_adagrad', 'adagrad' or 'sgd'"
            )
        if table.sharding in ("column_wise", "grid") and table.dim % 8:
            yield f"tables.{name}: {table.sharding} needs a dim that is a multiple of 8 (two shards of a multiple of 4)"


def _model(config: "Config") -> Iterator[str]:
    dims = {config.all_tables[t].dim for f in config.features if (t := config.table_of(f)) in config.all_tables}
    if not dims:
        yield "features: at least one must be an id, a bag or a bucketised number"
    spec = config.model.interaction
    if spec.kind == "dot" and "bottom" in spec.model_fields_set:
        if not any(feature.kind == "dense" for feature in config.features.values()):
            yield "model.interaction.bottom: there is no dense feature for the bottom MLP to read; remove it"
    if spec.kind == "dot" and len(dims) > 1:
        yield f"model.interaction: dot products need one dim for all tables; they have {sorted(dims)}"


def _sizes(config: "Config") -> Iterator[str]:
    if config.data.shuffle_rows < config.train.global_batch:
        yield f"data.shuffle_rows: {config.data.shuffle_rows} is less than one step, train.global_batch"
