"""R8: no size in a configuration or a checkpoint is believed before it is compared with the files and the memory."""

import json
import resource
from pathlib import Path

import pytest
import torch

from dist_mtl.checkpoint.index import INDEX, Block, are_apart, read_index
from dist_mtl.checkpoint.memory_check import Needs, _left_by_limits, check_claims, free_host_bytes, needs_of
from dist_mtl.config.file import parse
from dist_mtl.errors import CheckpointError, ConfigError, DamagedCommitError
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.scoring.trained_run import NO_EXTENSIONS, _read
from dist_mtl.train import train
from tests.security.test_guard import copied
from tests.security.test_hostile_files import rewritten, tensors
from tests.support import samples
from tests.support.verbs import VERBS, config, ended, make_run

HUGE = 2**28
LATE = "run/checkpoints/step-0000000008"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("sizes"))


# ----------------------------------------------------------------------------------------------------- a configuration
@pytest.mark.parametrize(
    "override",
    [
        "model.backbone={kind='ple', levels=1000000000}",
        "model.backbone={kind='ple', task_experts=1000000}",
        "model.backbone={kind='ple', shared_experts=1000000}",
        "model.backbone={kind='ple', levels=64, task_experts=1024, shared_experts=1024}",
        "model.backbone={kind='mmoe', experts=1000000000}",
        "model.backbone={kind='omoe', experts=1000000000}",
        "model.backbone={kind='mmoe', experts=1024, hidden=[8,8,8,8,8,8,8,8,8,8,8]}",
        "model.backbone={kind='shared_bottom', hidden=[1000000000]}",
        f"model.backbone={{kind='single_task', hidden={[8] * 65}}}",
        "model.backbone={kind='aitm', hidden=[8, 70000]}",
        "model.interaction={kind='dcn', layers=1000000000}",
        "model.interaction={kind='dcn', rank=1000000000}",
        "model.interaction={kind='dot', bottom=[1000000000]}",
        "model.tower=[1000000000]",
        f"model.tower={[8] * 10_000}",
        "model.alignment={kind='pico', num_negatives=8, hidden=[1000000000]}",
        "model.alignment={kind='fixed', num_negatives=8, projection=[1000000000]}",
        f"data.labels={[f'l{i}' for i in range(10_000)]}",
        f"metrics.ndcg_at={list(range(1, 10_000))}",
        "features.age={kind='bucket', quantiles=1000000000}",
    ],
)
def test_counts_have_bounds(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(samples.tree("x"), [override])
    assert override.partition("=")[0].split(".")[0] in str(caught.value) and len(str(caught.value)) < 3_000


@pytest.mark.parametrize(
    "overrides",
    [
        ("tables.user.rows=1099511627776",),
        ("tables.user.rows=1099511627776", "tables.user.sharding='data_parallel'"),
        ("model.backbone={kind='shared_bottom', hidden=[65536, 65536, 65536]}",),
        ("train.global_batch=1099511627776", "data.shuffle_rows=1099511627776"),
    ],
)
def test_what_cannot_fit_is_refused_with_its_figure_before_it_is_allocated(
    place: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, told = ended(lambda: train(config(place, f"run.dir='{tmp_path / 'run'}'", *overrides)))
    assert code == 64 and " GB at least on a node" in told and " GB of memory are free here" in told, told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_the_least_that_a_model_needs(tmp_path: Path) -> None:
    """Weights, states and a batch as they are allocated; of a node its share, and its copies of what is replicated."""
    settings = samples.config(tmp_path, "tables.tag.sharding='data_parallel'", "tables.item.precision='fp16'")
    with torch.device("meta"):
        model = MultiTaskModel(settings, torch.device("meta"), False)
    needs = needs_of(settings, settings.optim, False, model)
    by_row = 4 * (samples.USERS + samples.ITEMS + 5)
    assert needs.tables == 4 * samples.USERS * 16 + 2 * samples.ITEMS * 8 + 4 * 5 * 8 + by_row
    assert needs.replicated == 2 * 4 * samples.TAGS * 24 + 4 * samples.TAGS
    real = MultiTaskModel(settings, torch.device("meta"))
    dense = sum(p.numel() for p in real.parameters() if not p.is_meta)
    assert needs.dense == 16 * dense > 0
    assert Needs(100, 10, 1, 20).on_node(8, 2) == 30 + 22


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    assert free_host_bytes() > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("70\n")
    (tmp_path / "memory.stat").write_text("anon 40\nfile 30\n")
    assert list(_left_by_limits(tmp_path)) == []
    (tmp_path / "memory.max").write_text("100\n")
    assert list(_left_by_limits(tmp_path)) == [60]  # the page cache gives way
    (tmp_path / "memory").mkdir()
    for name, text in (("limit_in_bytes", "50"), ("usage_in_bytes", "45"), ("stat", "total_cache 5")):
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert min(_left_by_limits(tmp_path)) == 10


# -------------------------------------------------------------------------------------------------------- a checkpoint
def claim(home: Path, rows: int) -> None:
    """Let the newest checkpoint's configuration name a table of so many rows."""
    text = json.loads((home / LATE / "commit.json").read_text())
    text["config"]["tables"]["user"]["rows"] = rows
    rewritten(home / LATE, "commit.json", json.dumps(text).encode())


@pytest.mark.parametrize("verb", ["evaluate", "predict", "compare", "recalibrate", "load"])
def test_a_table_that_the_files_do_not_hold_is_not_built(place: Path, tmp_path: Path, verb: str) -> None:
    home = copied(place, tmp_path)
    claim(home, HUGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, told = ended(lambda: VERBS[verb](home))
    assert code == 66 and f"{home / LATE}: its configuration says a table user of [{HUGE}, 16]" in told, told
    assert f"its files hold one of [{samples.USERS}, 16]" in told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def weights_of(home: Path) -> tuple[Path, object, MultiTaskModel]:
    trained = _read(home / LATE, str(home / "run"), (), True, NO_EXTENSIONS)
    with torch.device("meta"):
        return trained.folder, trained.config, MultiTaskModel(trained.config, torch.device("meta"), True)


def test_a_sound_checkpoint_holds_what_it_claims(place: Path) -> None:
    check_claims(*weights_of(place))


def test_an_index_that_claims_more_than_the_files_hold(place: Path, tmp_path: Path) -> None:
    home = copied(place, tmp_path)
    claim(home, HUGE)
    index = json.loads((home / LATE / INDEX).read_text())
    [name] = [name for name in index["tensors"] if name.startswith("model/") and name.endswith("user.weight")]
    index["tensors"][name]["shape"] = [HUGE, 16]
    rewritten(home / LATE, INDEX, json.dumps(index).encode())
    with pytest.raises(DamagedCommitError, match="leave out a part"):
        check_claims(*weights_of(home))
    index["tensors"][name]["blocks"][0]["sizes"] = [HUGE, 16]
    rewritten(home / LATE, INDEX, json.dumps(index).encode())
    with pytest.raises(DamagedCommitError, match="as the index tells"):
        check_claims(*weights_of(home))
    key = index["tensors"][name]["blocks"][0]["key"]
    header = {key: {"dtype": "F32", "shape": [HUGE, 16], "data_offsets": [0, HUGE * 64]}}
    rewritten(home / LATE, "rank-00000.safetensors", tensors(json.dumps(header).encode()))
    with pytest.raises(DamagedCommitError, match="does not fit into bytes"):
        check_claims(*weights_of(home))


def test_a_table_that_the_files_do_hold_but_no_machine_here(place: Path, tmp_path: Path) -> None:
    """A sparse file of 4 TB, which takes no room, with an index that agrees with it."""
    home, rows = copied(place, tmp_path), 2**36
    claim(home, rows)
    index, (folder, _, _) = json.loads((home / LATE / INDEX).read_text()), weights_of(place)
    stop, header = 0, {}
    for name, whole in index["tensors"].items():
        if name.startswith("model/") and name.endswith("user.weight"):
            whole["shape"] = whole["blocks"][0]["sizes"] = [rows, 16]
        for block in whole["blocks"]:
            size = {"F32": 4, "I64": 8, "F64": 8}[whole["dtype"]]
            for length in block["sizes"]:
                size *= length
            header[block["key"]] = {
                "dtype": whole["dtype"],
                "shape": block["sizes"],
                "data_offsets": [stop, stop + size],
            }
            stop += size
    rewritten(home / LATE, INDEX, json.dumps(index).encode())
    text = tensors(json.dumps(header).encode())
    try:
        with (home / LATE / "rank-00000.safetensors").open("wb") as file:
            file.write(text)
            file.truncate(len(text) + stop)
    except OSError:
        pytest.skip("no file of 4 TB on this file system")
    check_claims(*weights_of(home))
    code, told = ended(lambda: VERBS["evaluate"](home))
    assert code == 66 and f"{home / LATE}: the model needs " in told and folder.name in told, told
    assert issubclass(DamagedCommitError, CheckpointError)


@pytest.mark.parametrize("verb", ["evaluate", "train"])
def test_a_checkpoint_whose_configuration_is_none_is_66(place: Path, tmp_path: Path, verb: str) -> None:
    home = copied(place, tmp_path)
    for key, value in (("seed", "x"), ("tables", {}), ("strange", 1), ("model", {"tower": [10**9]})):
        text = json.loads((home / LATE / "commit.json").read_text())
        text["config"][key] = value
        rewritten(home / LATE, "commit.json", json.dumps(text).encode())
        code, told = ended(lambda: VERBS[verb](home))
        assert code == 66 and f"{home / LATE}: " in told, (key, code, told)
        assert verb == "train" or "the commit's configuration is none" in told, (key, told)
        rewritten(home / LATE, "commit.json", (place / LATE / "commit.json").read_bytes())


def test_blocks_that_overlap_are_refused(place: Path, tmp_path: Path) -> None:
    """Two of the same half have as many numbers as the whole; the other half was whatever stood in the memory."""
    home = copied(place, tmp_path)
    index = json.loads((home / LATE / INDEX).read_text())
    whole = next(t for t in index["tensors"].values() if len(t["shape"]) == 2 and t["shape"][0] % 2 == 0)
    [block] = whole["blocks"]
    block["sizes"][0] //= 2
    whole["blocks"] = [block, block]
    rewritten(home / LATE, INDEX, json.dumps(index).encode())
    with pytest.raises(DamagedCommitError, match="overlap"):
        read_index(home / LATE)


@pytest.mark.parametrize(
    ("corners", "apart"),
    [
        ([(0, 0, 2, 4), (2, 0, 2, 4)], True),  # by rows
        ([(0, 0, 4, 2), (0, 2, 1, 2), (1, 2, 3, 2)], True),  # by columns, each with its own rows
        ([(0, 0, 2, 4), (0, 0, 2, 4)], False),
        ([(0, 0, 3, 4), (2, 0, 2, 4)], False),
        ([(0, 0, 4, 3), (0, 2, 4, 2)], False),
    ],
)
def test_whether_blocks_are_apart(corners: list[tuple[int, int, int, int]], apart: bool) -> None:
    blocks = [Block("f", "k", corner[:2], corner[2:]) for corner in corners]
    assert are_apart(blocks, [0, 1, 0, 1]) == apart
    assert are_apart([Block("f", "k", (), ())], []) and not are_apart([Block("f", "k", (), ())] * 2, [])
