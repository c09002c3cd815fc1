"""Every value of every option of where tables live and how they travel: it trains as the default does, within a stated
tolerance, or it is refused by a message that names its key. On CPU; what is for CUDA has never been run.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

from dist_mtl.config import Config, TableConfig
from dist_mtl.config.sharding import ShardingConfig
from dist_mtl.config.training import TrainConfig
from dist_mtl.errors import ConfigError
from tests.support.dynamic_workers import config as dynamic_config
from tests.support.dynamic_workers import write_logs as write_dynamic
from tests.support.harness import Cluster, RankFailure, events, run_script
from tests.support.option_workers import (
    STEPS,
    assert_same_bits,
    evaluated_by,
    inside,
    settings,
    state_of,
    train_graphs,
    with_logs,
    written_plan,
)
from tests.support.workers import error_of_train, train

ADAGRAD = "optim.embedding.kind='adagrad'"
SEMI = "sharding.pipeline='semi_sync'"

# (option, value) -> the largest difference that a loss of STEPS steps may have from the default's, or the words of a
# refusal. A pair: with another override beside it, in the default too. 0.0 is the same bits.
ROUNDED = 1e-5  # sums in another order
CASES: dict[tuple[str, Any], float | str | tuple[float, str]] = {
    ("tables.sharding", "auto"): ROUNDED,
    ("tables.sharding", "table_wise"): ROUNDED,
    ("tables.sharding", "row_wise"): ROUNDED,
    ("tables.sharding", "column_wise"): (ROUNDED, ADAGRAD),
    ("tables.sharding", "table_row_wise"): ROUNDED,
    ("tables.sharding", "grid"): (ROUNDED, ADAGRAD),
    ("tables.sharding", "data_parallel"): ROUNDED,
    ("tables.kernel", "auto"): 0.0,
    ("tables.kernel", "fused"): 0.0,
    ("tables.kernel", "uvm"): "tables.user.kernel = 'uvm': it keeps rows outside of a GPU",
    ("tables.kernel", "uvm_caching"): "tables.user.kernel = 'uvm_caching': it keeps rows outside of a GPU",
    ("tables.kernel", "key_value"): "tables.user.kernel: the rows of `key_value` are in a database",
    ("tables.cache_share", 0.2): "tables.user.cache_share: only kernel = 'uvm_caching' has a cache",
    ("tables.precision", "fp32"): 0.0,
    ("tables.precision", "fp16"): 1e-5,
    ("sharding.forward", "fp32"): 0.0,
    ("sharding.forward", "fp16"): 1e-5,
    ("sharding.forward", "bf16"): "sharding.forward = 'bf16': gloo can not carry bfloat16",
    ("sharding.forward", "int8"): 1e-4,
    ("sharding.backward", "fp32"): 0.0,
    ("sharding.backward", "fp16"): 1e-5,
    ("sharding.backward", "bf16"): "sharding.backward = 'bf16': gloo can not carry bfloat16",
    ("sharding.backward", "int8"): 1e-4,
    ("sharding.replicas", 1): 0.0,
    ("sharding.replicas", 2): "sharding.replicas: 2: TorchRec's groups of ranks",
    ("sharding.plan", "/nowhere.json"): "/nowhere.json: the plan can not be read",
    ("sharding.pipeline", "base"): 0.0,
    ("sharding.pipeline", "sparse_dist"): 0.0,
    ("sharding.pipeline", "prefetch"): "sharding.pipeline = 'prefetch': it fills a GPU's cache",
    ("sharding.pipeline", "semi_sync"): 1e-3,
    ("train.dense", "fp32"): 0.0,
    ("train.dense", "bf16"): 2e-3,
    ("train.compile", False): 0.0,
    ("train.compile", True): ROUNDED,
}
INEXACT = ("tables.precision", "sharding.forward", "sharding.backward", "train.dense", "sharding.pipeline")


def test_every_value_has_a_case() -> None:
    """A value, or an option of [sharding], that is new needs a case here."""
    wanted = set()
    for section, prefix, keys in (
        (TableConfig, "tables", ("sharding", "kernel", "precision")),
        (ShardingConfig, "sharding", tuple(ShardingConfig.model_fields)),
        (TrainConfig, "train", ("dense",)),
    ):
        for key in keys:
            kind = section.model_fields[key].annotation
            values = get_args(kind) if get_origin(kind) is Literal else ()
            wanted |= {(f"{prefix}.{key}", value) for value in values}
            assert any(option == f"{prefix}.{key}" for option, _ in CASES), f"{prefix}.{key} has no case"
    wanted |= {("train.compile", value) for value in (False, True)}
    assert len(wanted) > 25 and not wanted - CASES.keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_logs(tmp_path_factory.mktemp("logs"))


def override(option: str, value: Any) -> tuple[str, ...]:
    """`tables.X` sets X of every table."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    section, _, key = option.partition(".")
    return (
        tuple(f"tables.{t}.{key}={text}" for t in ("user", "item", "tag"))
        if section == "tables"
        else (f"{option}={text}",)
    )


def run_of(folder: Path, *overrides: str, world: int = 2) -> Path:
    """Where `losses` runs: a name that needs no quotes."""
    return folder / re.sub(r"[^\w.=]+", "-", f"{world} {' '.join(overrides)}")[:200]


@cache
def losses(folder: Path, *overrides: str, world: int = 2) -> np.ndarray:
    """(steps, labels): what the product's loop tells of a run."""
    config = settings(folder, run_of(folder, *overrides, world=world).name, *overrides)
    graphs = Cluster(world).run(train_graphs, config, timeout=300)
    assert all(count >= 1 if config.train.compile else count == 0 for count in graphs), graphs
    told = events(config.run.dir, "step")
    assert [e["step"] for e in told] == list(range(1, STEPS + 1))
    return np.array([list(e["losses"].values()) for e in told])


def refusal(config: Config) -> str:
    """The words of the ConfigError, the same on both ranks."""
    [first, second] = Cluster(2).run(error_of_train, config)
    assert first == second and first[0] == "ConfigError" and first[2] == 64
    return first[1]


@pytest.mark.parametrize(("option", "value"), CASES, ids=[f"{option}={value}" for option, value in CASES])
def test_it_trains_as_the_default_or_is_refused(folder: Path, option: str, value: Any) -> None:
    expected, overrides = CASES[option, value], override(option, value)
    if isinstance(expected, str):
        try:
            said = refusal(settings(folder, "refused", *overrides))
        except ConfigError as error:  # already by the configuration
            said = str(error)
        assert expected in said and not (folder / "refused" / "checkpoints").exists()
        return
    tolerance, beside = expected if isinstance(expected, tuple) else (expected, None)
    extra = () if beside is None else (beside,)
    gap = np.abs(losses(folder, *overrides, *extra) - losses(folder, *extra)).max()
    print(f"{option} = {value}: {STEPS} steps' losses differ by {gap:.1e} at most, {tolerance:.0e} is allowed")
    assert gap <= tolerance
    if option == "tables.sharding" and value != "auto":
        [start] = events(run_of(folder, *overrides, *extra), "start")
        assert {row["sharding"] for row in start["plan"]} >= {{"grid": "grid_shard"}.get(value, value)}
    if option in INEXACT and tolerance:
        assert gap > 0, "the option changed nothing: it was not at work"


# -------------------------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("world", "sharding"),
    [(2, "table_wise"), (2, "row_wise"), (2, "column_wise"), (2, "data_parallel"), (4, "table_row_wise"), (4, "grid")],
)
def test_a_plan_of_a_file_is_followed_exactly(folder: Path, tmp_path: Path, world: int, sharding: str) -> None:
    cluster, path = Cluster(world, local_world=2), str(tmp_path / "plan.json")
    made = cluster.run(written_plan, settings(folder, "plan", ADAGRAD, sharding=sharding), path)
    free = settings(folder, "plan", ADAGRAD, f"sharding.plan='{path}'", sharding="auto")
    read = cluster.run(written_plan, free, str(tmp_path / "again.json"))
    assert read == made
    assert {"grid_shard" if sharding == "grid" else sharding} <= {row["sharding"] for row in read[0][0]}


def test_a_plan_of_another_run_is_refused_by_what_differs(folder: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    Cluster(2).run(written_plan, settings(folder, "plan"), path)
    for overrides, words in (
        (("tables.user.rows=102",), "tables.user.rows is 101 there and 102 here"),
        (("tables.user.dim=24",), "tables.user.dim is 16 there and 24 here"),
        (("tables.tag.sharding='row_wise'",), "tables.tag.sharding is table_wise there and row_wise here"),
        (("tables.tag.precision='fp16'",), "tables.tag.precision is fp32 there and fp16 here"),
        (("features.extra={kind='id', column='user'}", "tables.extra={rows=9}"), "tables extra are only here"),
    ):
        said = refusal(settings(folder, "refused", f"sharding.plan='{path}'", *overrides))
        assert "sharding.plan: " in said and words in said
    [[_, said, _]] = Cluster(1).run(error_of_train, settings(folder, "refused", f"sharding.plan='{path}'"))
    assert "world is 2 there and 1 here" in said


def test_what_a_plan_does_is_held_against_the_other_options(folder: Path, tmp_path: Path) -> None:
    """`auto` tables pass the configuration; the plan that makes them row-wise is refused with int8."""
    path = str(tmp_path / "plan.json")
    Cluster(2).run(written_plan, settings(folder, "plan", sharding="row_wise"), path)
    over = (f"sharding.plan='{path}'", "sharding.forward='int8'")
    assert "int8 can not be summed" in refusal(settings(folder, "refused", *over, sharding="auto"))
    Cluster(2).run(written_plan, settings(folder, "plan", ADAGRAD, sharding="column_wise"), path)
    said = refusal(settings(folder, "refused", f"sharding.plan='{path}'", sharding="auto"))
    assert "column_wise would change the maths of rowwise_adagrad" in said


def test_a_plan_of_a_gpu_is_refused_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    Cluster(2).run(written_plan, settings(folder, "plan"), str(path))
    tree = json.loads(path.read_text())
    next(table for table in tree["tables"] if table["table"] == "tag")["kernel"] = "uvm"
    path.write_text(json.dumps(tree))
    said = refusal(settings(folder, "refused", f"sharding.plan='{path}'"))
    assert "sharding.plan: tables.tag.kernel = 'uvm': it keeps rows outside of a GPU" in said


# ---------------------------------------------------------------------------------------------------------- precision
def test_fp16_tables_resume_and_are_scored_with_the_same_bits(folder: Path) -> None:
    half = override("tables.precision", "fp16")
    assert {str(t) for t in Cluster(2).run(inside, settings(folder, "inside", *half))[0][1]} == {
        "torch.float16",
        "torch.float32",  # the bucketised feature's own table
    }
    [whole, _] = Cluster(2).run(train, settings(folder, "half", *half))
    state = state_of(str(folder / "half"))
    types = {name: value.dtype for name, value in state.items() if "embedding_bags.user.weight" in name}
    assert types == {
        "model/embeddings.collection.embedding_bags.user.weight": np.float16,
        "optimizer/embeddings.collection.embedding_bags.user.weight/momentum1": np.float32,
    }
    for name in ("a", "b"):
        for steps in (9, STEPS) if name == "b" else (STEPS,):
            over = (*half, "optim.decay='none'", f"train.max_steps={steps}")
            Cluster(2).run(train, settings(folder, f"half {name}", *over))
    assert [e["step"] for e in events(folder / "half b", "resume")] == [9]
    assert_same_bits(folder / "half b", folder / "half a")
    [first, _] = run_script(2, "evaluate.py", str(folder / "half"))
    assert first.code == 0 and f"{whole['ctr']['auc']['value']:.4f}" in first.stdout, first.stderr


def test_a_dynamic_table_may_be_fp16(tmp_path: Path) -> None:
    write_dynamic(tmp_path / "train", 64 * STEPS)
    runs = {}
    for precision in ("fp32", "fp16"):
        config = dynamic_config(tmp_path, f"run.dir='{tmp_path / precision}'", sharding="row_wise")
        tables = {n: t.model_copy(update={"precision": precision}) for n, t in config.tables.items()}
        Cluster(2).run(train, config.model_copy(update={"tables": tables}))
        runs[precision] = np.array([e["loss"] for e in events(tmp_path / precision, "step")])
    gap = np.abs(runs["fp16"] - runs["fp32"]).max()
    print(f"dynamic, fp16: losses differ by {gap:.1e}")
    assert 0 < gap < 1e-3


def test_bf16_does_not_depend_on_the_ranks_and_scores_as_it_is_evaluated(folder: Path) -> None:
    """Rounding of products follows the sums' order, hence the tolerance: that of bf16 against fp32."""
    bf16 = "train.dense='bf16'"
    gap = np.abs(losses(folder, bf16, world=1) - losses(folder, bf16, world=2)).max()
    print(f"bf16 on 1 and 2 ranks: losses differ by {gap:.1e}")
    assert gap < CASES["train.dense", "bf16"]
    [table, _] = Cluster(2).run(train, settings(folder, "bf16", bf16))
    [first, _] = run_script(2, "evaluate.py", str(folder / "bf16"))
    assert first.code == 0, first.stderr
    assert f"{table['ctr']['auc']['value']:.4f}" in first.stdout


def test_what_does_not_travel_is_no_reason_to_refuse_scores(folder: Path) -> None:
    """A run of GPUs in bfloat16 is evaluated by one CPU rank, where nothing travels; by two only if it would not."""
    losses(folder)
    commit = str(max(run_of(folder).glob("checkpoints/step-*")))
    both = ("sharding.forward='bf16'", "sharding.backward='bf16'")
    [plain, _] = Cluster(2).run(evaluated_by, settings(folder, "scored"), commit)
    for world, overrides in ((1, both), (2, both[1:])):
        found = Cluster(world).run(evaluated_by, settings(folder, "scored", *overrides), commit)
        assert [one.tasks["ctr"].auc.value for one in found] == [plain.tasks["ctr"].auc.value] * world
    with pytest.raises(RankFailure, match=r"sharding\.forward = 'bf16': gloo can not carry bfloat16"):
        Cluster(2).run(evaluated_by, settings(folder, "scored", *both), commit)


def test_a_compiled_model_has_the_names_of_a_plain_one(folder: Path) -> None:
    plain, compiled = (
        Cluster(1).run(inside, settings(folder, "inside", f"train.compile={on}"))[0] for on in ("false", "true")
    )
    assert plain == compiled and plain[0] > 0  # FBGEMM's kernels were found, too
