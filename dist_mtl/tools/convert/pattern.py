"""`convert csv --like`: the columns of a dataset, or those that a run was trained on, as a pattern for other rows."""

import os
from pathlib import Path

import pyarrow as pa

from dist_mtl.data.files import manifest as manifests
from dist_mtl.data.marks import labels_of
from dist_mtl.errors import CheckpointError, DataError
from dist_mtl.observability.run_dir import check_outputs
from dist_mtl.tools.convert.like import Like, simple


def like_of(name: str) -> Like:
    """The columns by the name of a dataset's folder or of a run's. Raises DataError, CheckpointError: it is neither."""
    if os.path.lexists(Path(name, "checkpoints")):
        return _like_run(name)
    schema = _schema(name)
    labels, funnel = labels_of(schema) or ((), True)
    return Like(name, _types(schema), frozenset(schema.names), tuple(labels), funnel)


def _like_run(name: str) -> Like:
    """The columns that the run reads are needed; its weight is, where there are labels."""
    from dist_mtl.checkpoint import format as commits  # here: importing torch takes seconds
    from dist_mtl.checkpoint import store

    check_outputs(name)
    if (commit := store.newest_description(name)) is None:
        raise CheckpointError(f"{name}: no complete checkpoint in it; train first, or name the dataset of its rows")
    config = commits.config_of(commit, name)
    read = frozenset(column for feature in config.features for column in config.columns_of(feature))
    weight = frozenset([config.data.weight] if config.data.weight else [])
    types = {column: raw.arrow and simple(raw.arrow) for column, raw in commit.columns.items()}
    if not types:  # made before columns were kept
        try:
            types = _types(_schema(config.data.train))
        except DataError as error:
            raise DataError(
                f"{name}: its checkpoints do not say what its columns are, and {error}; name a dataset of its rows"
            ) from None
    return Like(name, types, read | weight, config.data.labels, config.data.funnel, weight, is_run=True)


def _schema(folder: str) -> pa.Schema:
    return manifests.arrow_schema(folder, manifests.read(folder))


def _types(schema: pa.Schema) -> dict[str, pa.DataType | None]:
    return {field.name: simple(field.type) for field in schema}
