"""A dataset as a stream of its partitions in ascending order, such as days: what `data.stream` asks for."""

from collections.abc import Sequence
from dataclasses import replace

from dist_mtl.config import StreamConfig
from dist_mtl.data.files.manifest import DataFile, Manifest
from dist_mtl.data.order import Order, Partitions, partitioned
from dist_mtl.errors import DataError, nearest


def streamed(order: Order, manifest: Manifest, stream: StreamConfig, source: str) -> Partitions:
    """`order`, one partition after the other. Raises DataError: there is no such partition, or rows are in none."""
    if stream.by not in manifest.partitions:
        there = nearest(stream.by, manifest.partitions) or _there(tuple(manifest.partitions))
        raise DataError(f"data.stream.by: the paths in {source} have no partition `{stream.by}`; {there}")
    keys: list[int | str] = []
    for file in manifest.files:
        if (value := file.partition[stream.by]) is None:
            raise DataError(
                f"data.stream.by: {source}: {file.path} is of no `{stream.by}`, so it has no place in the order; move "
                f"it into one, or leave it out with data.partitions"
            )
        key = int(value) if manifest.partitions[stream.by] == "int64" else value
        keys += [key] * sum(rows > 0 for rows in file.row_groups)
    return partitioned(order, keys)


def files_of(manifest: Manifest, stream: StreamConfig, names: Sequence[str]) -> Manifest:
    """The files of these partitions, as a dataset of their own; its ceiling is not known."""
    whole = manifest.partitions[stream.by] == "int64"

    def name(file: DataFile) -> str:
        value = file.partition[stream.by]
        return str(int(value)) if whole else value

    return replace(manifest, files=tuple(file for file in manifest.files if name(file) in names), ceiling={})


def _there(keys: Sequence[str]) -> str:
    return f"there are {', '.join(keys)}" if keys else "folders such as day=2024-01-01 make partitions"
