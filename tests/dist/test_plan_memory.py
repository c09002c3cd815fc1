"""Predicted memory beside that of real ranks. `make plan-memory` has more cases, and whole runs started by torchrun."""

from pathlib import Path

import pytest

from benchmarks.figures.plan_memory import Case, tree, write_logs
from dist_mtl.config.file import parse
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import Outlook, outlook
from tests.support.harness import Cluster as Ranks
from tests.support.workers import Room, room

STEPS = 12
MIXED = Case(
    "mixed",
    {
        "t0": {"rows": 1_200_000, "dim": 128, "sharding": "row_wise"},
        **{f"t{i}": {"rows": 150_000, "dim": 64, "sharding": "table_wise"} for i in range(1, 5)},
    },
)
ROW_WISE = Case("row-wise", {"t0": {"rows": 1_600_001, "dim": 128, "sharding": "row_wise"}})


def run(tmp_path: Path, case: Case) -> tuple[list[Room], Outlook]:
    """What two ranks had, and what was expected of them."""
    write_logs(tmp_path / "train", len(case.tables))
    config = parse(tree(tmp_path, case))
    name, profile = load_profile("cpu", None, None, 64.0)
    return Ranks(2).run(room, config, STEPS, timeout=180), outlook(config, Cluster(name, profile, 1, 2))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_predicted_memory_is_within_a_tenth(tmp_path: Path) -> None:
    ranks, expected = run(tmp_path, MIXED)
    for rank, (one, memory) in enumerate(zip(ranks, expected.memory, strict=True)):
        # A forked rank maps the libraries' pages as it touches them, so its base is not that of a process of its own.
        total = memory.total("host") - memory.host["process"] + one.before
        off = total / one.after - 1
        print(f"rank {rank}: predicted {total / 1e6:.0f} MB, has {one.after / 1e6:.0f} MB, {off:+.1%}")
        assert abs(off) < 0.10
    assert [row["shards"] for row in ranks[0].plan] == [row["shards"] for row in expected.plan]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_no_rank_ever_holds_a_full_table(tmp_path: Path) -> None:
    """Not after training, and not for a moment: 819 MB of weights are 410 MB a rank. Half a table more would show."""
    ranks, expected = run(tmp_path, ROW_WISE)
    for one, memory in zip(ranks, expected.memory, strict=True):
        share = memory.host["table weights"] + memory.host["optimizer states"]
        assert share == pytest.approx(1_600_001 / 2 * (128 * 4 + 4), rel=1e-5)
        print(f"before {one.before / 1e6:.0f} MB, share {share / 1e6:.0f} MB, peak {one.peak / 1e6:.0f} MB")
        assert share < one.after - one.before
        # Beside its share: pools, the batches, the dense part; the base of the bar is the process that has trained.
        assert one.peak <= 1.10 * (one.before + share) + memory.host["activations"] + memory.host["loader"]
