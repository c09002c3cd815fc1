"""A tiny dataset that has every kind of feature, and configurations for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files import manifest
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.reader import Reader, blocks_of
from dist_mtl.data.files.schema import subset
from dist_mtl.data.files.writer import write_dataset

USERS, ITEMS, TAGS = 101, 53, 37  # rows of the tables: odd, so that row-wise shards differ in size


def logs(rows: int, seed: int = 0) -> pa.Table:
    """`rows` impressions. `row` numbers them; labels follow user and item, so that there is something to learn."""
    draw = np.random.default_rng(seed)
    people = np.random.default_rng(7).integers(-(2**40), 2**40, 40)  # the same under every seed
    user = people[draw.integers(0, 40, rows)]
    item = draw.integers(-3, ITEMS + 5, rows)
    lengths = draw.integers(0, 6, rows)
    total = int(lengths.sum())
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    logit = (user % 7 - 3) * 0.7 + (item % 5 - 2) * 0.5
    click = draw.random(rows) < 1 / (1 + np.exp(-logit))
    conversion = click & (draw.random(rows) < 0.4)
    tags = np.array([f"tag-{i}" for i in range(60)] + ["", "größe", "東京"])
    price = draw.lognormal(2, 1, rows)
    return pa.table(
        {
            "row": np.arange(rows),
            "user": pa.array(user, mask=draw.random(rows) < 0.05),
            "item": item,
            "history": pa.ListArray.from_arrays(offsets, pa.array(draw.integers(0, ITEMS, total))),
            "history_weight": pa.ListArray.from_arrays(offsets, pa.array(draw.random(total, np.float32))),
            "tag": pa.array(
                tags[draw.integers(0, len(tags), rows)].tolist(), pa.string(), mask=draw.random(rows) < 0.1
            ),
            "age": pa.array(draw.integers(10, 80, rows).astype(np.float64), mask=draw.random(rows) < 0.1),
            "price": pa.array(price, mask=draw.random(rows) < 0.1),
            "importance": draw.integers(0, 4, rows) / 2,
            "click": click.astype(np.int8),
            "conversion": conversion.astype(np.int8),
        }
    )


def write_logs(folder: str | Path, rows: int, seed: int = 0, files: int = 2, group_rows: int = 100) -> Manifest:
    """Write `logs(rows, seed)` as a dataset of `files` files with row groups of `group_rows` rows."""
    return write_dataset(folder, [logs(rows, seed)], file_rows=-(-rows // files), row_group_rows=group_rows)


def reader(folder: str | Path, *names: str, listed: Manifest | None = None) -> Reader:
    """The reader of a dataset's columns, by default of all of them."""
    listed = manifest.read(folder) if listed is None else listed
    schema = manifest.arrow_schema(folder, listed)
    return Reader(folder, blocks_of(listed), subset(schema, names or schema.names))


def rows_of(folder: Path) -> pa.Table:
    """Every row of a dataset's files, in their order."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def tree(folder: str | Path, sharding: str = "table_wise") -> dict[str, Any]:
    """The configuration of a run in `folder`/run on `folder`/train, as a TOML file would hold it."""
    folder = Path(folder)
    return {
        "run": {"dir": str(folder / "run"), "device": "cpu", "start_timeout": 60, "step_timeout": 30},
        "data": {"train": str(folder / "train"), "shuffle_rows": 640},
        "tables": {
            "user": {"rows": USERS, "dim": 16, "sharding": sharding},
            "item": {"rows": ITEMS, "dim": 8, "pooling": "mean", "sharding": sharding},
            "tag": {"rows": TAGS, "dim": 24, "sharding": sharding},
        },
        "features": {
            "row": {"kind": "dense", "std": 4096.0},  # a power of two: the row's number is still exact
            "user": {"kind": "id"},
            "item": {"kind": "id", "policy": "clamp"},
            "history": {
                "kind": "bag",
                "table": "item",
                "weights": "history_weight",
                "max_length": 4,
                "policy": "reject",
            },
            "tag": {"kind": "id"},
            "age": {"kind": "bucket", "boundaries": [20, 30, 45.5, 60], "dim": 8},
            "price": {"kind": "dense", "log": True, "mean": 2.0},
        },
        "model": {"backbone": {"kind": "mmoe", "experts": 2, "hidden": [16, 8]}, "tower": [8]},
        "train": {"global_batch": 64, "log_every": 1, "checkpoint_every": 1000},
    }


def write_toml(path: str | Path, tree: dict[str, Any]) -> Path:
    """`tree` as a TOML file of dotted keys (a JSON string, number or list is TOML, too)."""

    def lines(node: dict[str, Any], prefix: str) -> list[str]:
        pairs = [(f"{prefix}{key}", value) for key, value in node.items()]
        below = [line for key, value in pairs if isinstance(value, dict) for line in lines(value, f"{key}.")]
        return [f"{key} = {json.dumps(value)}" for key, value in pairs if not isinstance(value, dict)] + below

    Path(path).write_text("\n".join(lines(tree, "")) + "\n")
    return Path(path)


def config(folder: str | Path, *overrides: str, sharding: str = "table_wise") -> Config:
    """`tree` with overrides such as `train.epochs=2` on top."""
    return parse(tree(folder, sharding), overrides)
