"""dist-mtl plan as a user meets it."""

import json
from pathlib import Path

from dist_mtl.config.file import parse
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import outlook
from dist_mtl.tools.planning.plan_json import write_plan
from tests.support import samples
from tests.support.harness import ROOT, run_verb
from tests.support.harness import Cluster as Ranks
from tests.support.workers import trace

CONFIG = """
run = { dir = "runs/none" }
data = { train = "data/none" }
tables.user = { rows = 400_000_000, dim = 128, kernel = "fused" }
tables.item = { rows = 1_000_000, dim = 64 }
features.user = { kind = "id" }
features.item = { kind = "id" }
train.global_batch = 8192
"""


def plan(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    [end] = run_verb(1, "plan", *arguments)
    return end.code, end.stdout, end.stderr


def test_a_plan_that_fits_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    code, out, err = plan(str(tmp_path / "c.toml"), "--nodes=1", "--gpus=8", f"--json={tmp_path / 'p.json'}")
    assert code == 0, err
    for word in ("row_wise", "0-7", "bottleneck", "It fits 1 x 8 GPUs (h100)", "sharding.plan=", "estimated"):
        assert word in out, out
    tree = json.loads((tmp_path / "p.json").read_text())
    assert (tree["world"], len(tree["per_rank"])) == (8, 8)
    code, out, err = plan(
        str(tmp_path / "c.toml"), "--gpus=8", "--set=tables.item.sharding=table_wise", f"--diff={tmp_path / 'p.json'}"
    )
    assert code == 0, err
    differences = out.split("Against")[1]
    assert "table_wise, fused, rank " in differences and "row_wise, fused, 8 ranks" in differences


def test_a_model_that_does_not_fit_ends_with_64_and_what_would_help(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    code, out, err = plan(str(tmp_path / "c.toml"), "--gpus=2", f"--json={tmp_path / 'p.json'}")
    assert code == 64
    assert "does not fit 1 x 2 GPUs (h100): rank 0 needs 104.8 GB of HBM" in err and "are table weights" in err
    assert len(err.splitlines()) == 1  # nothing of TorchRec's own warnings
    assert "Nearest fit by nodes alone: 2 x 2 GPUs (h100)" in out
    assert "Nearest fit on these nodes: fp16 weights" in out and "--set=tables.user.precision=fp16" in out
    assert not (tmp_path / "p.json").exists()


def test_training_takes_exactly_the_plan_that_was_kept(tmp_path: Path) -> None:
    """A plan that training would not make itself on these ranks: it would leave both tables whole."""
    samples.write_logs(tmp_path / "train", 600)
    config = samples.config(tmp_path, "tables.tag.sharding=auto", "tables.user.sharding=auto")
    name, profile = load_profile("cpu", None, None, None)
    wish = parse(config.model_dump(mode="json", exclude_none=True), ["tables.user.sharding=row_wise"])
    found = outlook(wish, Cluster(name, profile, 1, 2))
    write_plan(found, str(tmp_path / "plan.json"))
    named = samples.config(tmp_path, "tables.user.sharding=auto", f"sharding.plan='{tmp_path / 'plan.json'}'")
    own, taken = (Ranks(2).run(trace, one, 2)[0].plan for one in (config, named))
    assert taken == found.plan
    assert taken != own


def test_devices_that_are_not_known_are_named() -> None:
    code, _, err = plan(str(ROOT / "configs/quickstart.toml"), "--device=b200")
    assert code == 64 and "use a100, cpu, h100, h200, or --profile FILE" in err
    code, _, err = plan(str(ROOT / "configs/quickstart.toml"), "--gpus=3")
    assert code == 64 and "can not be cut evenly over 3 ranks" in err
