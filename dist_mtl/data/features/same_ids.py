"""Whether the ids of a dataset are those of training: the same text or number, in a column of the same class.

A column of another class is refused, not converted. An equality by text would be fragile: "007" and "7.0" are other
texts than "7", and a number beyond int64 has no integer. A refusal is never wrong.
"""

from collections.abc import Iterator

import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.data.column_class import TrainedOn, columns_of, same_class
from dist_mtl.data.features.encode import column_of
from dist_mtl.errors import DataError


def check_same_ids(config: Config, trained_on: TrainedOn, schema: pa.Schema, source: str) -> None:
    """Raise DataError for every column of ids that is of another class than it was in training.

    Numbers (dense, bucket, labels, weights) are not compared: integer, real or boolean, a number has one value.
    """
    now, problems = columns_of(schema), []
    for name in dict.fromkeys(_id_columns(config)):
        before, here = trained_on.columns.get(name), now.get(name)
        if before is None or here is None or same_class(before.kind, here.kind):
            continue
        problems.append(
            f"{source}: column `{name}` is {here}, but it was {before} in training ({trained_on.source}), so its ids "
            f"would not be those that were trained. Cast it to {before.type} where the data are made, or convert them "
            f"again with `convert csv --like`"
        )
    if problems:
        raise DataError("\n".join(problems))


def _id_columns(config: Config) -> Iterator[str]:
    """The columns that features read as ids."""
    for name in config.features:
        yield from column_of(name, config).id_columns()
