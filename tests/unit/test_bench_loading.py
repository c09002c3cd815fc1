"""The loader's benchmark: its contenders read the same rows, and torch's gives what the columns hold."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader

from benchmarks.speed.histories import BAGS, SINGLES, config_of
from benchmarks.speed.loading import Rows, _collate, alone, measured, ours, wide
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.loader import Dataset


def test_the_contenders_read_the_same_rows(tmp_path: Path) -> None:
    _, config = wide(str(tmp_path), 20_000)
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    assert len(dataset.columns) == 26 + 13 + 2
    assert ours(dataset)() == alone(dataset)() == 20_000
    found = measured({"ours": ours(dataset), "pyarrow": alone(dataset)}, rounds=2)
    assert {name: (len(one.all), len(one.user)) for name, one in found.items()} == {"ours": (2, 2), "pyarrow": (2, 2)}
    assert all(
        whole > 0 and whole >= user >= 0
        for one in found.values()
        for whole, user in zip(one.all, one.user, strict=True)
    )


def test_torch_gives_the_columns(tmp_path: Path) -> None:
    lists = [[1, 2], [], [3]]
    table = pa.table({"id": [7, 8, 9], "x": pa.array([0.5, 1.5, 2.5], pa.float32()), "history": lists})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = Rows(str(tmp_path / "rows.parquet"), ["id", "x", "history"])
    [batch] = DataLoader(rows, batch_size=3, collate_fn=_collate)
    assert batch["id"].tolist() == [7, 8, 9] and batch["x"].tolist() == [0.5, 1.5, 2.5]
    assert batch["history"].tolist() == [1, 2, 3] and batch["history.lengths"].tolist() == [2, 0, 1]


def test_the_histories_have_ali_ccps_shape() -> None:
    """23 fields, and as many ids a row as its 40 million training rows have."""
    encoder = Encoder(config_of("logs", 4_096))
    assert len(encoder.singles) + len(encoder.bags) == len(SINGLES) + len(BAGS) == 23
    ids = sum(field.present * field.length for field in (*SINGLES, *BAGS))
    print(f"{ids:.0f} ids a row")
    assert encoder.weighted and np.isclose(ids, 629, rtol=0.02)
