"""R3, R9: the number of ranks and the sharding plan change nothing but the order of float sums."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support import samples
from tests.support.harness import Cluster
from tests.support.workers import Trace, assemble, trace

VARIANT_STEPS = 25
STEPS = 50  # 3,000 rows in steps of 64: the 47th is padded, then a second epoch begins
PLANS = ("table_wise", "row_wise", "data_parallel")
ADAGRAD = ("optim.embedding.kind='adagrad'",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    return folder


@cache
def run(folder: Path, world: int, sharding: str, *overrides: str) -> list[Trace]:
    """`STEPS` steps (fewer of a variant) on `world` ranks, two of them on a node; each combination is trained once."""
    config = samples.config(folder, "train.epochs=2", *overrides, sharding=sharding)
    return Cluster(world, local_world=min(world, 2)).run(trace, config, VARIANT_STEPS if overrides else STEPS)


def global_rows(ranks: list[Trace]) -> np.ndarray:
    """(steps, slots of the global batch): slots of rank 0, then of rank 1, ..."""
    return np.concatenate([r.rows for r in ranks], axis=1)


def assert_same(ranks: list[Trace], reference: list[Trace], what: str) -> None:
    """The same rows in the same global order; on every rank the same losses, to 1e-5."""
    assert np.array_equal(global_rows(ranks), global_rows(reference))
    assert all(np.array_equal(r.losses, ranks[0].losses) for r in ranks), "ranks disagree about the loss"
    difference = np.abs(ranks[0].losses - reference[0].losses).max()
    print(f"{what}: max difference of {ranks[0].losses.size} losses {difference:.1e}")
    assert difference < 1e-5
    assert np.ptp(ranks[0].losses[:, 0]) > 0.01  # it does train


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("sharding", PLANS)
def test_same_rows_and_losses(folder: Path, sharding: str, world: int) -> None:
    ranks = run(folder, world, sharding)
    kinds = {row["table"]: row["sharding"] for row in ranks[0].plan}
    assert {kinds[t] for t in ("user", "item", "tag")} == {sharding}
    assert_same(ranks, run(folder, 1, "table_wise"), f"{sharding} on {world}")


@pytest.mark.parametrize(
    ("world", "sharding"),
    [(2, "column_wise"), (4, "column_wise"), (2, "table_row_wise"), (4, "table_row_wise"), (4, "grid")],
)
def test_same_under_pointwise_adagrad(folder: Path, sharding: str, world: int) -> None:
    ranks = run(folder, world, sharding, *ADAGRAD)
    kinds = {row["table"]: row["sharding"] for row in ranks[0].plan}
    assert kinds["user"] == {"grid": "grid_shard"}.get(sharding, sharding)
    assert_same(ranks, run(folder, 1, "table_wise", *ADAGRAD), f"{sharding} on {world}, adagrad")


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.dropout=0.3",),
        ("optim.embedding={kind='sgd', lr=20.0}",),  # Adagrad and Adam would hide gradients that are off by a factor
        ("model.head='clicked'", "data.weight='importance'"),  # the normalisers differ by task and by rank
        ("model.backbone={kind='shared_bottom', hidden=[16]}", "model.head='ctcvr'", "model.interaction={kind='dcn'}"),
    ],
    ids=["dropout", "sgd", "clicked-weighted", "shared_bottom-dcn-ctcvr"],
)
def test_same_for_other_models(folder: Path, overrides: tuple[str, ...]) -> None:
    reference = run(folder, 1, "table_wise", *overrides)
    assert_same(run(folder, 2, "row_wise", *overrides), reference, overrides[0])
    if overrides == ("model.dropout=0.3",):
        assert_same(run(folder, 4, "table_wise", *overrides), reference, overrides[0])
        assert (
            np.abs(reference[0].losses - run(folder, 1, "table_wise")[0].losses[:VARIANT_STEPS]).max() > 1e-3
        )  # it does drop


def test_each_row_once_an_epoch_and_only_the_last_step_padded(folder: Path) -> None:
    rows = global_rows(run(folder, 2, "table_wise"))
    assert sorted(rows[:47].ravel()) == [-1] * 8 + list(range(3_000))
    assert (rows[:46] >= 0).all()
    assert not np.array_equal(rows[47:50], rows[:3])  # the second epoch has an order of its own


@pytest.mark.parametrize("world", [2, 4])
def test_first_step_averages_dense_gradients(folder: Path, world: int) -> None:
    """A static graph would lose the first all-reduce. AdamW's first moment after step 1 is a tenth of the gradient."""
    ours = assemble([r.first for r in run(folder, world, "table_wise")])  # raises if the ranks' copies differ
    alone = assemble([r.first for r in run(folder, 1, "table_wise")])
    names = [n for n in alone if n.endswith("exp_avg")]
    assert len(names) > 10
    for name in names:
        assert np.abs(alone[name]).max() > 0, name
        np.testing.assert_allclose(ours[name], alone[name], rtol=1e-4, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", PLANS)
def test_ranks_hold_the_same_copies_and_equal_tables(folder: Path, sharding: str, world: int) -> None:
    """A data-parallel table does train, and as a fused one does."""
    ours = assemble([r.last for r in run(folder, world, sharding)])
    alone = assemble([r.last for r in run(folder, 1, "table_wise")])
    before = assemble([r.first for r in run(folder, 1, "table_wise")])
    tables = [n for n in alone if "embedding_bags" in n and n.startswith("model")]
    assert len(tables) == 4
    for name in tables:
        difference, moved = np.abs(ours[name] - alone[name]).max(), np.abs(alone[name] - before[name]).max()
        print(f"{name} {sharding} on {world}: moved {moved:.1e}, differs {difference:.1e}")
        assert moved > 1e-2
        assert difference < 1e-4
