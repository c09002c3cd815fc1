"""R10: group metrics of MovieLens on real ranks: equal to pandas, and the same bits on 1, 2 and 4 ranks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dist_mtl.data.hashing import mix
from tests.support import group_workers
from tests.support.group_workers import Table
from tests.support.harness import ROOT, Cluster

LOG = ROOT.parent / "shared/data/ml100k/ml100k_mtl_derived.csv.gz"
needs_movielens = pytest.mark.skipif(not LOG.is_file(), reason="no ../shared/data/ml100k (not ours to ship)")
KS = (5, 10)
TASKS = ("click", "conversion on clicks", "conversion")


def movielens(rows: int | None) -> Table:
    """Three tasks on the first `rows` impressions: a score from the film's popularity and noise, in steps of 1/8."""
    log = pd.read_csv(LOG, usecols=["user_id", "item_id", "click", "conversion"], nrows=rows)
    popularity = log.groupby("item_id").click.transform("mean").to_numpy()
    noise = mix(np.arange(3 * len(log), dtype=np.uint64) + np.uint64(1)).reshape(-1, 3) >> np.uint64(62)
    logits = np.log(popularity + 0.01)[:, None] + noise.astype(float) * [1, 0.5, 0.25]
    labels = log[["click", "conversion", "conversion"]].to_numpy() > 0
    weights = np.ones((len(log), 3), np.float32)
    weights[:, 1] = log.click
    return Table(log.user_id.to_numpy(np.int64), (np.round(logits * 8) / 8).astype(np.float32), labels, weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("movielens")
    movielens(150_000).save(folder)
    return folder


@needs_movielens
def test_movielens_is_that_of_pandas_on_1_2_4_ranks(folder: Path) -> None:
    ranks = [
        m for world in (1, 2, 4) for m in Cluster(world).run(group_workers.score_on_ranks, folder, 2_048, KS, 20_000)
    ]
    assert len(ranks) == 7 and all(m == ranks[0] for m in ranks), "not the same bits on every rank and number of ranks"
    table = Table.load(folder)
    for task, name in enumerate(TASKS):
        found, expected = ranks[0][task], group_workers.plain(table, task, KS)
        off = group_workers.difference(found, expected)
        print(f"{name}: GAUC {found.gauc:.6f} +- {found.gauc_error:.6f} over {found.groups} users, NDCG@10 "
              f"{found.ndcg['10']:.6f}, MRR {found.mrr:.6f}; max difference from pandas {off:.1e}")  # fmt: skip
        assert found.groups > 50 and off < 1e-12


@pytest.mark.parametrize("world", [2, 4])
def test_a_fault_of_one_rank_is_raised_by_all(tmp_path: Path, world: int) -> None:
    for fault, family, text in (
        ("disk", "InternalError", "could not be written"),
        ("nan", "NonFiniteError", "8 scores"),
    ):
        scratch = tmp_path / fault
        scratch.mkdir()
        ends = Cluster(world).run(group_workers.fail_on_one_rank, world - 1, fault, scratch)
        assert len(set(ends)) == 1
        assert ends[0][0] == family and f"rank {world - 1}: " in ends[0][1] and text in ends[0][1]


def test_all_to_all_brings_rows_by_sender() -> None:
    for rank, (came, none) in enumerate(Cluster(4).run(group_workers.swap)):
        assert came == [[sender, rank] for sender in range(4) if sender != rank for _ in range(sender + rank)]
        assert none == [0, 2]
