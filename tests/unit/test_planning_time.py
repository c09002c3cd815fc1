"""The estimate of a step: parts in closed form, and what of them is hidden."""

from dataclasses import replace

import pytest

from dist_mtl.tools.planning.device import GB
from dist_mtl.tools.planning.estimate import outlook
from dist_mtl.tools.planning.roofline import Links, lookups_of
from tests.support.outlooks import cluster, config, hidden, seconds

IDS, LOOKUP, OUT, DENSE, BACK, REDUCE = (
    "input distribution",
    "lookup",
    "output distribution",
    "dense forward and backward",
    "gradient distribution",
    "all-reduce of dense gradients",
)


def test_exchange_in_closed_form() -> None:
    """Row-wise, all on one node: each rank sends three quarters of its partial sums."""
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise"}}
    one = cluster()
    found = outlook(config(tables), one)
    rate = one.profile.nvlink_gbps * one.profile.achieved.links * GB
    expected = 4096 * 32 * 4 * 3 / 4 / rate + one.profile.collective_us * 1e-6
    parts = {part.name: part.seconds for part in found.parts}
    assert parts["output distribution"] == pytest.approx(expected)
    half = outlook(config(tables, "sharding.forward=fp16"), one)
    latency = one.profile.collective_us * 1e-6
    halved = {part.name: part.seconds for part in half.parts}
    assert halved["output distribution"] - latency == pytest.approx((expected - latency) / 2)
    assert halved["gradient distribution"] == parts["gradient distribution"]
    assert lookups_of(found.plan, found.load, 4) == [32.0] * 4


def test_the_network_is_what_many_nodes_wait_for() -> None:
    one, many = Links.of(cluster(1, 8)), Links.of(cluster(4, 8))
    assert many.all_to_all(1e9) > 5 * one.all_to_all(1e9)
    assert Links.of(cluster(1, 1)).all_to_all(1e9) == 0.0


def test_states_are_updated_where_they_live() -> None:
    """8 bytes a state of each looked up row, read and written: those of a number a row never take the bus."""
    profile = cluster().profile
    memory, link = (
        rate * GB * reached
        for rate, reached in (
            (profile.memory_gbps, profile.achieved.memory),
            (profile.link_gbps, profile.achieved.links),
        )
    )
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise", "kernel": "uvm_caching", "cache_share": 0.5}}
    sgd, rowwise, adagrad = (
        seconds(outlook(config(tables, f"optim.embedding.kind={kind}"), cluster()))["update of the tables"]
        for kind in ("sgd", "rowwise_adagrad", "adagrad")
    )
    assert rowwise - sgd == pytest.approx(1024 * 8 / memory)
    assert adagrad - sgd == pytest.approx(1024 * 32 * 8 / link)


def test_sparse_dist_hides_the_ids() -> None:
    tables = {f"t{i}": {"rows": 1_000_000, "dim": 64} for i in range(8)}
    base, ahead = (outlook(config(tables, f"sharding.pipeline={kind}"), cluster()) for kind in ("base", "sparse_dist"))
    assert ahead.seconds < base.seconds
    assert [p.seconds for p in ahead.parts] == [p.seconds for p in base.parts]


@pytest.mark.parametrize("batch", [4096, 65_536])
@pytest.mark.parametrize("pipeline", ["base", "sparse_dist", "prefetch", "semi_sync"])
def test_what_is_hidden_hides_behind_what_is_at_work(pipeline: str, batch: int) -> None:
    """Each journey behind as much of the dense part as comes after its start, and no two behind the same."""
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise", "kernel": "uvm_caching", "cache_share": 0.5}}
    whole = cluster()
    # A journey takes longer than the dense part of a small batch, and rows over the bus longer than that of any.
    slow = replace(whole, profile=whole.profile.model_copy(update={"link_gbps": 1.0, "collective_us": 100.0}))
    found = outlook(config(tables, f"sharding.pipeline={pipeline}", f"train.global_batch={batch}"), slow)
    took = seconds(found)
    assert took[DENSE] < min(took[IDS], took[OUT]) if batch == 4096 else took[DENSE] > took[IDS] + took[OUT]
    forward, backward = took[DENSE] / 3, took[DENSE] * 2 / 3
    missed = batch / 4 * 0.5 * 128 / (GB * whole.profile.achieved.links)
    match pipeline:
        case "base":
            expected = {REDUCE: min(took[REDUCE], backward)}
        case "sparse_dist":
            ids = min(took[IDS], backward)
            expected = {IDS: ids, REDUCE: min(took[REDUCE], backward - ids)}
        case "prefetch":
            rows = min(missed, backward + took[BACK])
            expected = {IDS: min(took[IDS], forward), LOOKUP: rows, REDUCE: min(took[REDUCE], backward)}
        case "semi_sync":
            out = min(took[OUT], took[DENSE])
            expected = {OUT: out, REDUCE: min(took[REDUCE], backward, took[DENSE] - out)}
    assert hidden(found) == pytest.approx({name: size for name, size in expected.items() if size})


def test_only_what_a_cache_misses_is_taken_early() -> None:
    """Rows of `uvm` have no cache to be taken into: half of the rows of b are taken early, and none of a."""
    tables = {name: {"rows": 4_000_000, "dim": 32, "sharding": "row_wise", "kernel": "uvm"} for name in ("a", "b")}
    tables["b"] |= {"kernel": "uvm_caching", "cache_share": 0.5}
    found = outlook(config(tables, "sharding.pipeline=prefetch"), cluster())
    assert found.fits
    profile = cluster().profile
    assert hidden(found)[LOOKUP] == pytest.approx(1024 * 0.5 * 128 / (profile.link_gbps * profile.achieved.links * GB))


def test_bf16_divides_the_products() -> None:
    wide = ("model.backbone={kind='shared_bottom', hidden=[8192, 8192]}", "train.global_batch=65536")
    tables = {"a": {"rows": 1_000, "dim": 64}}
    fp32, bf16 = (outlook(config(tables, *wide, f"train.dense={kind}"), cluster()) for kind in ("fp32", "bf16"))
    dense = [next(p.seconds for p in found.parts if p.name.startswith("dense")) for found in (fp32, bf16)]
    assert dense[0] > 5 * dense[1]
