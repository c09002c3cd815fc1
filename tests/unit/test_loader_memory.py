"""The loader's memory does not grow with what it has read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.speed.reading import resident
from dist_mtl.config.file import parse
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset

ROWS, BATCH, READ = 131_072, 8_192, 10_000_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only /proc tells the memory of now")
def test_ten_million_rows_leave_the_memory_as_it_was(tmp_path: Path) -> None:
    """76 passes over 131,072 rows, each shuffled anew; a window of leaked rows would be 5 MB a window."""
    draw = np.random.default_rng(1)
    offsets = pa.array(np.arange(0, 4 * ROWS + 1, 4), pa.int32())
    columns = {
        "user": draw.integers(0, 2**40, ROWS),
        "history": pa.ListArray.from_arrays(offsets, pa.array(draw.integers(0, 1_000, 4 * ROWS))),
        "price": draw.random(ROWS, np.float32),
        "click": np.zeros(ROWS, np.int8),
    }
    write_dataset(tmp_path / "logs", [pa.table(columns)], file_rows=ROWS // 2, row_group_rows=16_384)
    tree = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"train": str(tmp_path / "logs"), "shuffle_rows": 65_536, "labels": ["click"]},
        "tables": {"user": {"rows": 1_000}, "history": {"rows": 1_000}},
        "features": {"user": {"kind": "id"}, "history": {"kind": "bag"}, "price": {"kind": "dense"}},
        "train": {"global_batch": BATCH},
    }
    config = parse(tree)
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    steps = READ // BATCH
    warm, most, rows = 0, 0, 0
    for batch in dataset.batches(0, 1, 0, steps):
        rows += len(batch.weight_B)
        if batch.step % 16 == 0:
            if batch.step <= steps // 5:
                warm = max(warm, resident())
            else:
                most = max(most, resident())
    print(f"{rows:,} rows: {warm / 1e6:.0f} MB at most in the first fifth, {most / 1e6:.0f} MB in the rest")
    assert rows == steps * BATCH > 9_990_000
    assert most < warm + 24e6
