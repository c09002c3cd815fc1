"""Every way in which TorchRec trains silently wrong, and what must happen instead (measured; see docs of each file)."""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dist_mtl.config import Config
from dist_mtl.data.hashing import hash_ids, key
from dist_mtl.model.embedding import fill
from tests.support import samples
from tests.support.harness import Cluster
from tests.support.workers import Inside, error_of, look_inside

PLANS = ("table_wise", "row_wise", "data_parallel")
SORTED = ("data.shuffle=false",)  # step 1 is then rows 0-63, in lanes of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 64, files=1)
    return folder


def rows_of(config: Config, table: str) -> np.ndarray:
    """A table's initial values."""
    spec = config.all_tables[table]
    values = torch.empty(spec.rows, spec.dim)
    fill(values, config.seed, table, spec.rows)
    return values.numpy()


@pytest.fixture(scope="module", params=PLANS)
def inside(folder: Path, request: pytest.FixtureRequest) -> tuple[Config, list[Inside]]:
    config = samples.config(folder, *SORTED, "optim.embedding={kind='adagrad', lr=0.05}", sharding=request.param)
    return config, Cluster(2).run(look_inside, config)


def test_pooled_columns_and_ids_do_not_depend_on_the_plan(folder: Path, inside: tuple[Config, list[Inside]]) -> None:
    """Four tables of dims 16, 8, 24, 8 on two ranks, ids out of range: what the model sees is computed by hand."""
    config, ranks = inside
    seen = {f: np.concatenate([r.pooled[f] for r in ranks]) for f in ranks[0].pooled}
    assert list(seen) == ["user", "item", "tag", "age", "history"]
    table = pq.read_table(folder / "train" / "part-00000.parquet").to_pydict()
    values = {name: rows_of(config, name) for name in config.all_tables}

    user = np.array([0 if u is None else u for u in table["user"]])
    hashed = values["user"][hash_ids(user, samples.USERS, key("table", "user"))]
    hashed[[u is None for u in table["user"]]] = 0
    np.testing.assert_allclose(seen["user"], hashed, atol=1e-7)

    assert min(table["item"]) < 0 and max(table["item"]) >= samples.ITEMS
    clamped = values["item"][np.clip(table["item"], 0, samples.ITEMS - 1)]
    np.testing.assert_allclose(seen["item"], clamped, atol=1e-7)

    for i, (ids, weights) in enumerate(zip(table["history"], table["history_weight"], strict=True)):
        ids, weights = ids[-4:], np.array(weights[-4:])
        mean = weights @ values["item"][ids] / weights.sum() if ids else np.zeros(8)
        np.testing.assert_allclose(seen["history"][i], mean, atol=1e-7)


def test_the_order_trap_is_met(folder: Path) -> None:
    """The sharded collection's own columns do come in another order, or the test above would prove nothing."""
    ranks = Cluster(2).run(look_inside, samples.config(folder, *SORTED))
    assert ranks[0].keys != list(ranks[0].pooled)
    assert sorted(ranks[0].keys) == sorted(ranks[0].pooled)


def test_every_parameter_has_exactly_one_optimizer_of_the_asked_kind(inside: tuple[Config, list[Inside]]) -> None:
    """TorchRec's silent default is SGD with lr 0.01, and data-parallel tables have none at all."""
    for rank in inside[1]:
        assert sorted(name for names in rank.parts.values() for name in names) == rank.held
        for name, lr in rank.kernels:
            assert (name, lr) == ("EXACT_ADAGRAD", pytest.approx(0.05))
        assert rank.kernels or not rank.parts["fused"]
        assert rank.classes == ({"Adagrad", "AdamW"} if rank.parts.get("replicated") else {"AdamW"})
    held = {name for rank in inside[1] for name in rank.held}
    assert len([name for name in held if "embedding_bags" in name]) == 4


@pytest.mark.parametrize(("sharding", "world"), list(product(PLANS, [1, 2])))
def test_reject_is_the_same_error_under_every_plan(folder: Path, sharding: str, world: int) -> None:
    first = next(
        i
        for i in pq.read_table(folder / "train" / "part-00000.parquet")["item"].to_pylist()
        if not 0 <= i < samples.ITEMS
    )
    config = samples.config(folder, *SORTED, "features.item.policy='reject'", sharding=sharding)
    for kind, message, code in Cluster(world).run(error_of, config):
        assert (kind, code) == ("DataError", 65)
        assert f"features.item: id {first} is outside table `item` of {samples.ITEMS} rows (policy reject)" in message
        assert "part-00000.parquet, row " in message


@pytest.mark.parametrize("kind", ["adam", "partial_rowwise_adam"])
def test_adam_is_refused_on_the_cpu_with_the_reason(folder: Path, kind: str) -> None:
    [(name, message, code)] = Cluster(1).run(error_of, samples.config(folder, f"optim.embedding.kind='{kind}'"))
    assert (name, code) == ("ConfigError", 64)
    assert f"'{kind}'" in message and "no CPU kernel" in message and "rowwise_adagrad" in message


def test_row_wise_with_a_rank_left_without_rows_is_refused(folder: Path) -> None:
    """5 rows over 4 ranks are 2, 2, 1, 0: FBGEMM's CPU kernel crashes on the empty shard."""
    config = samples.config(folder, "tables.tag.rows=5", "tables.tag.sharding='row_wise'")
    for name, message, code in Cluster(4).run(error_of, config):
        assert (name, code) == ("ConfigError", 64)
        assert "tables.tag: 5 rows over 4 ranks" in message and "table_wise" in message
    assert Cluster(4).run(error_of, samples.config(folder, "tables.tag.rows=5")) == [None] * 4


def test_a_world_that_does_not_divide_the_batch_is_refused(folder: Path) -> None:
    for name, message, code in Cluster(3).run(error_of, samples.config(folder)):
        assert (name, code) == ("ConfigError", 64)
        assert message == "train.global_batch = 64 can not be cut evenly over 3 ranks; use 63 or 66"
