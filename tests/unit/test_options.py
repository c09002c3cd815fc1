"""What no device can do with an option is refused by the configuration; a plan file is whole, or it is refused."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch._dynamo.utils import counters

from dist_mtl.checkpoint.format import VERSION, Commit, check_same_run
from dist_mtl.config import ModelConfig
from dist_mtl.config.file import parse
from dist_mtl.config.plan_file import PlanFile, PlannedShard, PlannedTable, read_plan, write_plan
from dist_mtl.data import order
from dist_mtl.errors import CheckpointError, ConfigError
from dist_mtl.model.layers import Noise
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.capabilities import check_compiler, check_device
from dist_mtl.parallel.plan_io import file_of_plan
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import fabric_of, outlook
from tests.support import samples
from tests.support.outlooks import no_plans

DYNAMIC = ("features.user.policy='dynamic'", "tables.user={rows=200, dim=16, dynamic={}}")
CACHED = ("tables.user.kernel='uvm_caching'",)


def kinds(part: str) -> list[str]:
    """Of a part of the model."""
    union = ModelConfig.model_fields[part].annotation
    return [one.model_fields["kind"].annotation.__args__[0] for one in get_args(union)]


def refusal(*overrides: str, sharding: str = "table_wise") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(samples.tree("x", sharding), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sharding", "words"),
    [
        (("tables.user.cache_share=0.5",), "table_wise", "tables.user.cache_share: only kernel = 'uvm_caching'"),
        (("tables.user.kernel='key_value'",), "table_wise", "can neither be given their initial values nor be commit"),
        (("tables.user={rows=200, dynamic={}, kernel='uvm_caching'}", DYNAMIC[0]), "", "tables.user.kernel: rows of a"),
        (CACHED, "data_parallel", "tables.user.kernel: a data_parallel table is held whole"),
        (("tables.tag.precision='fp16'",), "data_parallel", "tables.tag.precision: the optimizer"),
        (("sharding.replicas=2",), "table_wise", "set sharding.replicas = 1"),
        (("sharding.forward='int8'",), "row_wise", "sharding.forward: int8 can not be summed"),
        (("sharding.backward='int8'",), "table_row_wise", "sharding.backward: int8 can not be summed"),
        (("sharding.pipeline='sparse_dist'", *DYNAMIC), "row_wise", "sharding.pipeline: `sparse_dist` sends ids"),
        (("sharding.pipeline='semi_sync'",), "data_parallel", "sharding.pipeline: `semi_sync` looks a batch up"),
        (
            tuple(f"tables.{t}.kernel='fused'" for t in ("user", "item", "tag")) + ("sharding.pipeline='prefetch'",),
            "table_wise",
            "sharding.pipeline: `prefetch` fills the cache",
        ),
        (
            ("sharding.pipeline='semi_sync'", "optim.embedding.kind='adam'", "train.skip_nonfinite=1"),
            "table_wise",
            "train.skip_nonfinite: under `semi_sync`",
        ),
    ],
)
def test_what_can_not_be_is_refused_by_its_key(overrides: tuple, sharding: str, words: str) -> None:
    assert words in refusal(*overrides, sharding=sharding or "table_wise")


def test_what_a_gpu_could_do_passes_the_configuration_and_is_refused_on_a_cpu() -> None:
    config = parse(samples.tree("x"), (*CACHED, "tables.user.cache_share=0.5", "sharding.pipeline='prefetch'"))
    with pytest.raises(ConfigError, match=r"tables.user.kernel = 'uvm_caching'"):
        check_device(config.optim, config.sharding, config.all_tables, torch.device("cpu"))
    check_device(config.optim, config.sharding, config.all_tables, torch.device("cuda"))


def two_cpus() -> Cluster:
    """Of 4 GB each."""
    return Cluster(*load_profile("cpu", None, None, 8), nodes=1, gpus=2)


@pytest.mark.parametrize("kernel", ["uvm", "uvm_caching"])
def test_a_plan_with_a_kernel_that_a_cpu_has_not_is_refused_there(tmp_path: Path, kernel: str) -> None:
    path, config = tmp_path / "plan.json", parse(samples.tree("x"), ())
    made = file_of_plan(outlook(config, two_cpus()).sharding, config.all_tables, fabric_of(config, two_cpus()))
    planned = parse(samples.tree("x"), (f"sharding.plan='{path}'",))
    write_plan(made, path)
    assert outlook(planned, two_cpus()).fits
    moved = {"kernel": kernel, "cache_share": 0.2 if kernel == "uvm_caching" else None}
    tables = [one.model_copy(update=moved) if one.table == "user" else one for one in made.tables]
    write_plan(made.model_copy(update={"tables": tuple(tables)}), path)
    with pytest.raises(ConfigError, match=rf"sharding.plan: tables.user.kernel = '{kernel}': it keeps rows outside"):
        outlook(planned, two_cpus())


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_the_planner_never_chooses_sums_that_int8_has_not(way: str) -> None:
    """A table of 1 GB is split by rows here; as int8 it stays whole, in the even spread as well."""
    tree = samples.tree("x") | {"features": {"user": {"kind": "id"}}, "tables": {"user": {"rows": 4_000_000}}}
    large = ("tables.user.dim=64", "train.global_batch=4096", "data.shuffle_rows=4096")
    for overrides, sharding in ((large, "row_wise"), ((*large, f"sharding.{way}='int8'"), "table_wise")):
        for search in (True, False):
            found = outlook(parse(tree, overrides), two_cpus(), search=search)
            assert found.fits and [row["sharding"] for row in found.plan] == [sharding]


@pytest.mark.parametrize("change", ["train.max_steps=9", "train.epochs=2", "train.checkpoint_every=9"])
def test_what_ends_a_look_ahead_is_fixed_for_a_run_that_trains_by_it(change: str) -> None:
    """Nothing is looked up early behind the last step: a run of 9 steps from the last of 8 has bits of its own."""
    for pipeline, is_fixed in (("sparse_dist", False), ("semi_sync", True)):
        before, now = (parse(samples.tree("x"), (f"sharding.pipeline='{pipeline}'", *more)) for more in ((), (change,)))
        commit = Commit(VERSION, 8, 2, "0", {}, before.model_dump(mode="json"), [], {}, order=order.VERSION)
        with pytest.raises(CheckpointError, match=change.split("=")[0]) if is_fixed else nullcontext():
            check_same_run(commit, now, "0", 9, Path("x"))


MODELS = (
    *((f"model.backbone={{kind='{kind}', hidden=[8]}}",) for kind in kinds("backbone") if kind != "custom"),
    *((f"model.interaction={{kind='{kind}'}}",) for kind in kinds("interaction")),
    ("model.interaction={kind='dcn', rank=2}",),
    ("model.head='ctcvr'",),
    ("model.head='clicked'",),
    ("model.head='independent'", "data.funnel=false"),
    ("model.counterfactual={kind='dr'}",),
    ("train.dense='bf16'",),
)


@pytest.mark.parametrize("options", MODELS, ids=" ".join)
def test_every_model_is_one_graph(options: tuple[str, ...]) -> None:
    """What `train.compile` compiles, by the part of the compiler that may refuse: one graph, the same at each step."""
    same_dims = tuple(f"tables.{table}.dim=8" for table in ("user", "item", "tag"))
    config = parse(samples.tree("x"), (*same_dims, "model.dropout=0.2", *options))
    model = MultiTaskModel(config, torch.device("meta")).train()
    torch._dynamo.reset()
    counters.clear()
    above = torch.compile(model._above, fullgraph=True, dynamic=False, backend="eager")
    for step in (1, 2):
        pooled_BP = torch.randn(16, sum(model.embeddings.dims))
        above(pooled_BP, torch.randn(16, 2), Noise(1, step, torch.arange(16)).rows_B1)
    assert counters["stats"]["unique_graphs"] == 1


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_compiler(torch.device("cpu"))
    compiler.unlink()
    with pytest.raises(ConfigError, match=r"train.compile = true: .* install g\+\+"):
        check_compiler(torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------------- plan files
def table(**changes: Any) -> dict[str, Any]:
    """Seven rows of eight columns, row-wise on two ranks."""
    shards = [{"rank": 0, "offset": [0, 0], "size": [4, 8]}, {"rank": 1, "offset": [4, 0], "size": [3, 8]}]
    made = {"table": "u", "rows": 7, "dim": 8, "sharding": "row_wise", "kernel": "fused", "precision": "fp32"}
    return made | {"shards": shards} | changes


def plan(*tables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    head = {"format": "dist_mtl plan", "version": 1, "world": 2, "local_world": 2, "replicas": 1}
    return head | {"tables": list(tables) or [table()]} | changes


def shard(rank: int, row: int, column: int, rows: int, columns: int) -> dict[str, Any]:
    return {"rank": rank, "offset": [row, column], "size": [rows, columns]}


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    shards = (PlannedShard(rank=0, offset=(0, 0), size=(4, 8)), PlannedShard(rank=1, offset=(4, 0), size=(3, 8)))
    tables = tuple(
        PlannedTable(table=n, rows=7, dim=8, sharding="row_wise", kernel="uvm_caching", cache_share=0.3, shards=shards)
        for n in ("a", "ü")
    )
    written = PlanFile(world=2, local_world=2, tables=tables)
    write_plan(written, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == written
    assert json.loads((tmp_path / "plan.json").read_text())["tables"][1]["table"] == "ü"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (plan(version=2), "version"),
        (plan(surprise=1), "surprise"),
        (plan(world=3), "world 3 is no multiple of local_world 2"),
        (plan(table(), table()), "u stands there twice"),
        (plan(table(shards=[shard(0, 0, 0, 5, 8), shard(1, 5, 0, 2, 8)])), "the shards' rows must be"),
        (plan(table(shards=[shard(1, 0, 0, 4, 8), shard(0, 4, 0, 3, 8)])), "must be on [0, 1]"),
        (plan(table(shards=[shard(0, 0, 0, 4, 8), shard(2, 4, 0, 3, 8)])), "a shard is on rank 2"),
        (plan(table(sharding="column_wise", shards=[shard(0, 0, 0, 7, 4)])), "the shards' columns are not 0 to 8"),
        (plan(table(sharding="table_wise", shards=[shard(0, 0, 0, 7, 4), shard(1, 0, 4, 7, 4)])), "does not cut col"),
        (
            plan(table(sharding="column_wise", shards=[shard(0, 0, 0, 7, 6), shard(1, 0, 6, 7, 2)])),
            "u: a shard has 6 columns; FBGEMM's kernels want a multiple of 4",
        ),
        (plan(table(sharding="table_wise", shards=[])), "has no shards"),
        (plan(table(kernel="dense")), "`dense` belongs to `data_parallel` alone"),
        (plan(table(cache_share=0.5)), "only `uvm_caching` has a cache"),
        (plan(table(sharding="data_parallel", kernel="dense")), "a data-parallel table has no shards"),
        (plan(table(kernel="quant")), "kernel"),
    ],
)
def test_a_plan_that_is_not_whole_is_refused(tmp_path: Path, tree: dict, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan()))
    assert read_plan(path).tables[0].rows == 7
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_plan_is_a_regular_file_of_bounded_size(tmp_path: Path) -> None:
    for path, words in no_plans(tmp_path):
        with pytest.raises(ConfigError, match=f"no plan: .*{words}"):
            read_plan(path)


def test_a_plan_that_is_no_file_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be read"):
        read_plan(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"format": "dist')
    with pytest.raises(ConfigError, match="no plan: Unterminated string"):
        read_plan(tmp_path / "cut.json")
