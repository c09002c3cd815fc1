"""A dataset against the rows that a configuration trains on, and against those that its run was trained on."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.data.column_class import TrainedOn, columns_of
from dist_mtl.data.features.same_ids import check_same_ids
from dist_mtl.data.files import manifest as manifests
from dist_mtl.errors import CheckpointError, ConfigError, DataError


def other_ids(config: Config, schema: pa.Schema, source: str) -> Iterator[str]:
    """What is wrong with columns of ids that are of another class than in training, a line each."""
    for trained_on in _trainings(config):
        try:
            check_same_ids(config, trained_on, schema, source)
        except DataError as error:
            yield from str(error).splitlines()


def _trainings(config: Config) -> Iterator[TrainedOn]:
    """data.train, and the newest checkpoint; neither need be there, for a description needs none of them."""
    with suppress(DataError, ConfigError):
        train = config.data.train
        yield TrainedOn(train, columns_of(manifests.arrow_schema(train, manifests.read(train))))
    if (Path(config.run.dir) / "checkpoints").is_dir():
        from dist_mtl.checkpoint import store  # imports torch, which takes seconds

        with suppress(CheckpointError):
            yield TrainedOn(config.run.dir, store.columns_of_run(config.run.dir))
