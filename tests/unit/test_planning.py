"""Plans of clusters that are not there: memory in closed form, refusals, plan files."""

import json
import os
import resource
from pathlib import Path
from typing import get_args

import pytest
from torchrec.distributed.types import ShardingType

from dist_mtl.config import plan_file
from dist_mtl.config.file import parse
from dist_mtl.config.sharding import SHARDINGS, Sharding
from dist_mtl.errors import ConfigError
from dist_mtl.parallel import plan
from dist_mtl.parallel.optimizer_bytes import DENSE_BYTES
from dist_mtl.parallel.plan import CACHING, Fabric
from dist_mtl.tools.planning.device import GB, known, load_profile
from dist_mtl.tools.planning.diff import differences, side_of
from dist_mtl.tools.planning.estimate import outlook
from dist_mtl.tools.planning.even_plan import spread
from dist_mtl.tools.planning.memory import memory_of
from dist_mtl.tools.planning.plan_json import read_plan, write_plan
from dist_mtl.tools.planning.roofline import seconds_of, step_of
from tests.support.outlooks import LARGE, amounts, cluster, config


@pytest.mark.parametrize("name", known())
def test_every_profile_names_its_sources(name: str) -> None:
    profile = load_profile(name, None, None, None)[1]
    told = {*profile.sources}
    for key in ("host_gb", "network_gbps", "nvlink_gbps", "tflops_fp32", "collective_us", "process", "achieved"):
        assert key in told, key
    assert all(len(text) > 5 for text in profile.sources.values())


def test_table_wise_in_closed_form() -> None:
    """Two tables of known size, on the rank that the plan says."""
    tables = {
        "a": {"rows": 1_000_000, "dim": 64, "sharding": "table_wise"},
        "b": {"rows": 10, "sharding": "table_wise"},
    }
    found = outlook(config(tables), cluster())
    placed = {row["table"]: row["shards"][0]["rank"] for row in found.plan}
    weights = amounts(found, "hbm", "table weights")
    expected = [0.0] * 4
    for name, size in (("a", 256e6), ("b", 640)):
        expected[placed[name]] += size
    assert weights == expected
    assert amounts(found, "hbm", "optimizer states")[placed["a"]] == 4e6 + (40 if placed["a"] == placed["b"] else 0)
    assert amounts(found, "hbm", "dense weights, gradients, AdamW") == [DENSE_BYTES * found.load.dense_parameters] * 4


@pytest.mark.parametrize(
    ("kind", "states"), [("rowwise_adagrad", 4), ("adagrad", 4 * 32), ("sgd", 0), ("adam", 8 * 32)]
)
def test_row_wise_divides_weights_and_states(kind: str, states: int) -> None:
    tables = {"a": {"rows": 4_000_001, "dim": 32, "sharding": "row_wise"}}
    found = outlook(config(tables, f"optim.embedding.kind={kind}"), cluster())
    shares = [1_000_001, 1_000_001, 1_000_001, 999_998]
    assert amounts(found, "hbm", "table weights") == [rows * 128 for rows in shares]
    assert amounts(found, "hbm", "optimizer states") == [rows * states for rows in shares]


def test_data_parallel_is_everywhere_with_its_gradient() -> None:
    tables = {"a": {"rows": 1_000, "dim": 8, "sharding": "data_parallel"}}
    found = outlook(config(tables), cluster())
    for part, size in (("table weights", 32_000), ("table gradients", 32_000), ("optimizer states", 4_000)):
        assert amounts(found, "hbm", part) == [size] * 4


def test_kernels_and_precision_move_the_bytes() -> None:
    table = {"rows": 4_000_000, "dim": 32, "sharding": "row_wise"}
    plain = outlook(config({"a": table}), cluster())
    cached = outlook(config({"a": table | {"kernel": "uvm_caching", "cache_share": 0.1}}), cluster())
    assert amounts(cached, "host", "table weights") == [128e6] * 4
    assert amounts(cached, "hbm", "table weights") == [0.0] * 4
    assert amounts(cached, "hbm", "uvm cache") == pytest.approx([12.8e6 + 1e6 * (4 + 1.6)] * 4)
    half = outlook(config({"a": table | {"precision": "fp16"}}), cluster())
    assert amounts(half, "hbm", "table weights") == [64e6] * 4
    assert amounts(half, "hbm", "optimizer states") == amounts(plain, "hbm", "optimizer states")


@pytest.mark.parametrize("kernel", ["uvm", "uvm_caching"])
@pytest.mark.parametrize(
    ("kind", "by_row", "by_element"),
    [("rowwise_adagrad", 4, 0), ("adagrad", 0, 128), ("sgd", 0, 0), ("partial_rowwise_adam", 4, 128)],
)
def test_states_of_a_number_a_row_stay_in_the_gpu(kernel: str, kind: str, by_row: int, by_element: int) -> None:
    """FBGEMM's construct_split_state: of a managed table, too; its other states are managed as it is."""
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise", "kernel": kernel}}
    found = outlook(config(tables, f"optim.embedding.kind={kind}"), cluster())
    assert amounts(found, "hbm", "optimizer states") == [1e6 * by_row] * 4
    assert amounts(found, "host", "optimizer states") == [1e6 * by_element] * 4
    assert amounts(found, "host", "table weights") == [128e6] * 4


def test_background_commits_hold_a_copy() -> None:
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise"}}
    found = outlook(config(tables, "train.commit=background"), cluster())
    assert amounts(found, "host", "commit copy") == [128e6 + 4e6] * 4
    assert amounts(outlook(config(tables), cluster()), "host", "commit copy") == [0.0] * 4


@pytest.mark.parametrize("pipeline", ["sparse_dist", "prefetch"])
def test_one_batch_is_on_its_way_beside_the_one_at_work(pipeline: str) -> None:
    """Both hold their ids: 8 bytes of each, sent and received, and 4 bytes a bag of each rank for its length."""
    tables = {"a": {"rows": 4_000_000, "dim": 32, "sharding": "row_wise", "kernel": "uvm_caching"}}
    buffers = [
        amounts(outlook(config(tables, f"sharding.pipeline={kind}"), cluster()), "hbm", "exchange buffers")[0]
        for kind in ("base", pipeline)
    ]
    copies = cluster().profile.buffer_copies
    assert buffers[1] - buffers[0] == pytest.approx(copies * (1024 * 8 + 4096 / 4 * 8 + 4096 * 4))


def test_what_does_not_fit_is_refused_with_the_reason() -> None:
    found = outlook(config(LARGE), cluster())
    assert not found.fits
    assert "of HBM, of which 102.4 GB are table weights" in found.reason


def test_ranks_that_can_not_share_a_batch() -> None:
    with pytest.raises(ConfigError, match="4096 can not be cut evenly over 3 ranks"):
        outlook(config({"a": {"rows": 100}}), cluster(1, 3))


def test_kernels_of_cuda_are_refused_on_cpu() -> None:
    with pytest.raises(ConfigError, match="tables.a.kernel = 'uvm'"):
        outlook(config({"a": {"rows": 100, "kernel": "uvm"}}), cluster(device="cpu", gpus=2))


def test_nothing_of_the_tables_is_allocated() -> None:
    """2 TB of tables over 64 ranks; shards of over 2**31 rows on two."""
    tables = {f"t{i}": {"rows": 500_000_000, "dim": 128} for i in range(8)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outlook(config(tables), cluster(8, 8)).fits
    huge = outlook(config({"a": {"rows": 8_000_000_000, "dim": 4, "sharding": "row_wise"}}), cluster(1, 2))
    assert huge.plan[0]["shards"][1]["size"] == [4_000_000_000, 4]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_differences_name_tables_memory_and_time() -> None:
    tables = {"a": {"rows": 4_000_000, "dim": 32}, "b": {"rows": 100_000}}
    wide = ("train.global_batch=262144",)
    here = side_of(outlook(config(tables, "tables.a.sharding=row_wise", *wide), cluster()))
    there = side_of(outlook(config(tables, "tables.a.sharding=table_wise", *wide), cluster()))
    rows = {row[0]: row[1:] for row in differences(here, there, "other").rows}
    assert rows["a"][0] == "row_wise, fused, 4 ranks" and rows["a"][1].startswith("table_wise, fused, rank ")
    assert "HBM of the fullest rank, GB" in rows and "step, ms (estimated)" in rows
    assert differences(here, here, "itself").rows == ()


def test_an_even_spread_never_needs_more_than_the_plan() -> None:
    tables = {
        f"t{i}": {"rows": 10 ** (3 + i % 4), "dim": 16, "sharding": ("table_wise", "row_wise")[i % 2]}
        for i in range(12)
    }
    made = config(tables)
    found = outlook(made, cluster())
    least = memory_of(spread(made, 4, 4), found.load, made, found.cluster)
    assert max(one.total("hbm") for one in least) <= found.most("hbm") * GB * 1.001
    assert seconds_of(step_of(found.plan, found.load, made, found.cluster)) == found.seconds


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    text = (Path(load_profile.__code__.co_filename).parent / "profiles" / "h100.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("hbm_gb = 80", "hbm_gb = 24", 1))
    name, profile = load_profile(None, str(tmp_path / "mine.toml"), None, 500.0)
    assert (name, profile.hbm_gb, profile.host_gb) == ("mine", 24, 500)
    (tmp_path / "bad.toml").write_text(text + "\nhbm = 3\n")
    with pytest.raises(ConfigError, match="bad.toml"):
        load_profile(None, str(tmp_path / "bad.toml"), None, None)
    with pytest.raises(ConfigError, match="use a100, cpu, h100, h200"):
        load_profile("b200", None, None, None)
    with pytest.raises(ConfigError, match="no memory of its own"):
        load_profile("cpu", None, 80.0, None)


def test_lengths_of_lists_are_named_or_given() -> None:
    made = config({"a": {"rows": 100}})
    tree = json.loads(made.model_dump_json(exclude_none=True))
    tree["features"]["a"] = {"kind": "bag"}
    assumed, given = outlook(parse(tree), cluster()), outlook(parse(tree), cluster(), bag_ids=30)
    assert any("--bag-ids" in note for note in assumed.load.notes)
    assert not given.load.notes and given.load.ids == 30


@pytest.mark.parametrize(
    "sharding", ["row_wise", "table_wise", "column_wise", "table_row_wise", "grid", "data_parallel"]
)
def test_a_plan_file_tells_the_whole_plan(tmp_path: Path, sharding: str) -> None:
    tables = {"a": {"rows": 4_000_001, "dim": 32, "sharding": sharding}, "b": {"rows": 9, "sharding": "data_parallel"}}
    found = outlook(config(tables, "optim.embedding.kind=adagrad"), cluster(2, 4))
    write_plan(found, str(tmp_path / "plan.json"))
    plan = plan_file.read_plan(tmp_path / "plan.json")
    assert [one.hbm for one in plan.per_rank] == [round(one.total("hbm")) for one in found.memory]
    cells = sum(shard.size[0] * shard.size[1] for shard in plan.tables[0].shards)
    assert cells == (0 if sharding == "data_parallel" else 4_000_001 * 32)
    assert differences(side_of(found), read_plan(str(tmp_path / "plan.json")), "itself").rows == ()


def test_a_plan_file_of_too_few_ranks_is_refused(tmp_path: Path) -> None:
    found = outlook(config({"a": {"rows": 4_001}}), cluster())
    write_plan(found, str(tmp_path / "plan.json"))
    tree = json.loads((tmp_path / "plan.json").read_text())
    tree["per_rank"].pop()
    (tmp_path / "bad.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="per_rank tells of 3 ranks, and there are 4"):
        plan_file.read_plan(tmp_path / "bad.json")


def test_tables_of_any_kernel_leave_the_gpu_only_if_they_must() -> None:
    """410 GB on four GPUs: the largest go to the host, cached; the plan is training's own, the spread no worse."""
    free = {name: table | {"kernel": "auto"} for name, table in LARGE.items()}
    quick, found = (outlook(config(free), cluster(), search=search) for search in (False, True))
    for one in (quick, found):
        assert one.fits
        assert "fused_uvm_caching" in {row["kernel"] for row in one.plan}
    assert {row["kernel"] for row in outlook(config(free), cluster(2)).plan} == {"fused"}


@pytest.mark.parametrize(("hbm_gb", "fewest"), [(100, 2), (90, 3), (70, 5), (60, 6)])
def test_no_more_tables_leave_the_gpu_than_must(hbm_gb: float, fewest: int) -> None:
    """Not the next power of two: the plan with one fewer of them on the host does not exist."""
    free = {name: table | {"kernel": "auto"} for name, table in LARGE.items()}
    on_host = [row["table"] for row in outlook(config(free), cluster(hbm_gb=hbm_gb)).plan if row["kernel"] == CACHING]
    assert on_host == [f"t{i}" for i in range(fewest)]
    fewer = LARGE | {name: LARGE[name] | {"kernel": "uvm_caching"} for name in on_host[:-1]}
    assert not outlook(config(fewer), cluster(hbm_gb=hbm_gb)).fits


def test_a_rank_plans_with_its_share_of_the_hosts_memory() -> None:
    """On CUDA, too, where TorchRec alone would take 128 GiB a rank."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _, host = plan._memory(Fabric(8, 4, "cpu", 10))
    assert host == pytest.approx(total / 4, rel=0.01)
    for device, hbm in (("cuda", 80 << 30), ("cpu", 0)):
        topology = plan._topology(Fabric(8, 4, device, 10), (hbm, host))
        assert {(one.storage.hbm, one.storage.ddr) for one in topology.devices} == {(hbm, host)}


def test_what_a_device_or_a_plan_can_not_do_is_refused_as_in_training() -> None:
    with pytest.raises(ConfigError, match="no CPU kernel for the Adam family"):
        outlook(config({"a": {"rows": 100}}, "optim.embedding.kind=adam"), cluster(device="cpu", gpus=2))
    tables = {"a": {"rows": 2_000_000_000, "dim": 128, "kernel": "fused"}}
    for communication, fits in (("fp16", True), ("int8", False)):  # which can not be summed: no rank has 1 TB
        assert outlook(config(tables, f"sharding.forward={communication}"), cluster(4, 8)).fits == fits


def test_a_plan_that_the_configuration_names_is_taken_as_it_is(tmp_path: Path) -> None:
    tables = {"a": {"rows": 4_000_001, "dim": 32}, "b": {"rows": 1_000}}
    write_plan(outlook(config(tables, "tables.a.sharding=table_wise"), cluster()), str(tmp_path / "plan.json"))
    named = f"sharding.plan={tmp_path / 'plan.json'}"
    assert [row["sharding"] for row in outlook(config(tables, named), cluster()).plan][0] == "table_wise"
    with pytest.raises(ConfigError, match="world is 4 there and 8 here"):
        outlook(config(tables, named), cluster(2))


def test_every_sharding_has_its_traits_under_a_name_of_torchrec() -> None:
    assert list(SHARDINGS) == list(get_args(Sharding))
    assert {traits.torchrec for traits in SHARDINGS.values()} <= {kind.value for kind in ShardingType}
