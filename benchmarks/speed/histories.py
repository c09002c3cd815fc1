"""Logs in the shape of Ali-CCP: 23 fields, four of them weighted histories, about 629 ids a row. For speed alone.

Presence, lengths and vocabularies are those of the 40.2 million training rows; values and labels are drawn at random.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.synthetic.logs import OnRows

CHUNK_ROWS = 8_192


@dataclass(frozen=True)
class Field:
    """A field: its number of ids, the share of the rows that have it, and ids a row (a history: log-normal)."""

    name: str
    ids: int
    present: float
    length: float = 1.0
    sigma: float = 0.0  # of the log of a history's length


SINGLES = tuple(
    Field(*one)
    for one in (
        ("101", 238_635, 0.998),
        ("121", 98, 0.870),
        ("122", 14, 0.870),
        ("124", 3, 0.870),
        ("125", 8, 0.870),
        ("126", 4, 0.416),
        ("127", 4, 0.870),
        ("128", 4, 0.870),
        ("129", 5, 0.637),
        ("205", 467_298, 1.0),
        ("206", 6_929, 1.0),
        ("207", 263_942, 1.0),
        ("216", 106_399, 0.711),
        ("508", 5_888, 0.696),
        ("509", 104_830, 0.221),
        ("702", 51_878, 0.224),
        ("301", 4, 1.0),
    )
)
BAGS = (
    Field("109_14", 6_929, 0.991, 69.7, 0.8),
    Field("110_14", 263_942, 0.991, 252.5, 0.8),
    Field("127_14", 106_399, 0.990, 155.3, 0.8),
    Field("150_14", 100_000, 0.998, 136.3, 0.8),
    Field("210", 100_000, 1.0, 6.1, 0.5),
    Field("853", 37_148, 0.410, 3.41, 0.5),
)


def write_histories(folder: str, rows: int, on_rows: OnRows = lambda rows: None) -> None:
    """Write `rows` such rows (to whole CHUNK_ROWS) as a dataset."""

    def tables() -> Iterator[pa.Table]:
        draw = np.random.default_rng(7)
        for _ in range(-(-rows // CHUNK_ROWS)):
            yield _table(draw)
            on_rows(CHUNK_ROWS)

    write_dataset(folder, tables())


def config_of(folder: str, global_batch: int) -> Config:
    """A run on them: every field a feature with a table of its own, the bags weighted."""
    fields = (*SINGLES, *BAGS)
    singles = {f"f{field.name}": {"kind": "id"} for field in SINGLES}
    bags = {f"f{field.name}": {"kind": "bag", "weights": f"w{field.name}"} for field in BAGS}
    return parse(
        {
            "run": {"dir": f"{folder}/run"},
            "data": {"train": folder, "shuffle_rows": 8 * global_batch},
            "tables": {f"f{field.name}": {"rows": field.ids, "dim": 16} for field in fields},
            "features": singles | bags,
            "train": {"global_batch": global_batch, "epochs": 1_000},
        }
    )


def _table(draw: np.random.Generator) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for field in SINGLES:
        gone = draw.random(CHUNK_ROWS) >= field.present
        columns[f"f{field.name}"] = pa.array(_ids(draw, CHUNK_ROWS, field.ids), mask=gone)
    for field in BAGS:
        middle = np.log(field.length) - field.sigma**2 / 2
        lengths = np.ceil(draw.lognormal(middle, field.sigma, CHUNK_ROWS) - 0.5).astype(np.int32)
        lengths[draw.random(CHUNK_ROWS) >= field.present] = 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        count = int(lengths.sum())
        columns[f"f{field.name}"] = pa.ListArray.from_arrays(offsets, pa.array(_ids(draw, count, field.ids)))
        weights = np.log1p(draw.integers(1, 50, count)).astype(np.float32)
        columns[f"w{field.name}"] = pa.ListArray.from_arrays(offsets, pa.array(weights))
    click = draw.random(CHUNK_ROWS) < 0.039
    columns["click"] = pa.array(click.astype(np.int8))
    columns["conversion"] = pa.array((click & (draw.random(CHUNK_ROWS) < 0.0055)).astype(np.int8))
    return pa.table(columns)


def _ids(draw: np.random.Generator, count: int, ids: int) -> np.ndarray:
    """Popular ids and rare ones."""
    return (ids * draw.random(count) ** 4).astype(np.int64)
