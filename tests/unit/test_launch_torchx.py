"""`torchx run dist.ddp`: from the words on the command line to the torchrun that torchx starts."""

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchx", reason="torchx is an optional extra (launch)")

from torchx.specs.api import AppDef
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import validate
from torchx.specs.finder import get_components

from dist_mtl import torchx_components
from tests.support.outlooks import no_plans

ROOT = Path(__file__).resolve().parents[2]


def build(line: str) -> AppDef:
    """What `torchx run dist.ddp LINE` would start."""
    return materialize_appdef(torchx_components.ddp, shlex.split(line))


def torchrun(app: AppDef) -> list[str]:
    """The words of the one role's torchrun command."""
    (role,) = app.roles
    assert (role.entrypoint, role.args[0]) == ("bash", "-c")
    return shlex.split(role.args[1])


def script_and_arguments(app: AppDef) -> list[str]:
    words = torchrun(app)
    return words[words.index("--role") + 2 :]


def test_the_literal_command_of_the_readme() -> None:
    app = build("-j 2x8 launch/train.py")
    words = torchrun(app)
    assert words[0] == "torchrun"
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("--nproc_per_node") + 1] == "8"
    assert script_and_arguments(app) == ["launch/train.py"]
    assert (app.name, app.roles[0].name, app.roles[0].num_replicas) == ("train", "train", 2)


@pytest.mark.parametrize(
    "line, words",
    [
        ("-j 1x2 launch/train.py a.toml --set x=1 y=2", ["launch/train.py", "a.toml", "--set", "x=1", "y=2"]),
        ("-j 1x2 launch/train.py -- a.toml --set x=1", ["launch/train.py", "a.toml", "--set", "x=1"]),
        ("-j 1x2 launch/train.py a.toml -- b", ["launch/train.py", "a.toml", "--", "b"]),
        ("-j 1x2 --script launch/train.py", ["launch/train.py"]),
        ("-j 1x2 --script launch/train.py a.toml", ["launch/train.py", "a.toml"]),
        ("-j 1x2 --script launch/train.py -- --set x=1", ["launch/train.py", "--set", "x=1"]),
        ("-j 1x2 -m launch.train -- --set x=1", ["-m", "launch.train", "--set", "x=1"]),
        ("-j 1x2 launch/train.py 'a b.toml'", ["launch/train.py", "a b.toml"]),
    ],
)
def test_the_script_and_its_arguments(line: str, words: list[str]) -> None:
    assert script_and_arguments(build(line)) == words


def test_no_script_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="no script: torchx run dist.ddp -j 2x8 launch/train.py"):
        build("-j 1x2")


def test_script_and_module_together_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        build("-j 1x2 --script launch/train.py -m launch.train")


def test_a_bare_number_is_processes_of_one_node() -> None:
    words = torchrun(build("-j 8 launch/train.py"))
    assert words[words.index("--nnodes") + 1] == "1"
    assert words[words.index("--nproc_per_node") + 1] == "8"


def test_an_elastic_job_keeps_its_least_number_of_nodes() -> None:
    app = build("-j 1:2x4 launch/train.py")
    assert (app.roles[0].min_replicas, app.roles[0].num_replicas) == (1, 2)


def test_resources_retries_and_environment_pass_through() -> None:
    line = "-j 2x8 --cpu 32 --gpu 8 --memMB 64000 --max_retries 3 --env A=1,B=2 --rdzv_port 29601 launch/train.py"
    app = build(line)
    (role,) = app.roles
    assert (role.resource.cpu, role.resource.gpu, role.resource.memMB) == (32, 8, 64000)
    assert role.max_retries == 3
    assert (role.env["A"], role.env["B"]) == ("1", "2")
    assert torchrun(app)[4].endswith(":29601")
    assert role.port_map == {"c10d": 29601}


def test_workers_can_be_restarted() -> None:
    key = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    assert build("-j 1x2 launch/train.py").roles[0].env[key] == "1"
    assert build("-j 1x2 --env A=1 launch/train.py").roles[0].env[key] == "1"
    assert build(f"-j 1x2 --env {key}=0 launch/train.py").roles[0].env[key] == "0"


def test_the_agent_restarts_its_ranks_as_often_as_asked() -> None:
    """By the environment, which torchrun reads its options from: the words on its command line are torchx's own."""
    from torch.distributed.run import parse_args

    for line, restarts in (("", 3), ("--max_restarts 0", 0), ("--max_restarts 7 --max_retries 2", 7)):
        (role,) = build(f"-j 1x2 {line} launch/train.py").roles
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PET_MAX_RESTARTS", role.env["PET_MAX_RESTARTS"])
            assert parse_args(torchrun(build("-j 1x2 launch/train.py"))[1:]).max_restarts == restarts
    assert role.max_retries == 2


def test_the_environment_of_the_caller_is_left_alone() -> None:
    env = {"A": "1"}
    torchx_components.ddp("launch/train.py", env=env)
    assert env == {"A": "1"}


def test_a_port_that_another_job_holds_is_passed_over() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        assert port < torchx_components._free_port(port, 20) < port + 20
        assert torchx_components._free_port(port, 1) == port  # none is free: torch's own message is the clearer one
    assert torchx_components._free_port(port, 1) == port


def test_torchx_accepts_the_component() -> None:
    assert validate(torchx_components.__file__, "ddp") == []


def test_torchx_finds_ours_and_keeps_its_own() -> None:
    components = get_components()
    assert components["dist.ddp"].fn is torchx_components.ddp
    assert {"dist.spmd", "utils.echo"} <= set(components)


def test_the_repository_chooses_the_local_scheduler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchx.runner.config import get_config, load

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    assert get_config(prefix="cli", name="run", key="scheduler") == "local_cwd"
    options: dict[str, object] = {}
    load(scheduler="local_cwd", f=open(ROOT / ".torchxconfig"), cfg=options)
    assert options["log_dir"] == "runs/torchx"


def plan_file(folder: Path, **other: object) -> Path:
    """A plan of 2 nodes x 8 GPUs, whose second node takes more memory: 8 ranks of 3.5 GB and one byte."""
    ranks = [{"hbm": 10**9, "host": 3 * 10**9}] * 8 + [{"hbm": 10**9, "host": 3_500_000_001}] * 8
    told = {"format": "dist_mtl plan", "version": 1, "world": 16, "local_world": 8, "tables": [], "per_rank": ranks}
    (folder / "plan.json").write_text(json.dumps(told | other))
    return folder / "plan.json"


@pytest.mark.parametrize(
    "line, asked",
    [
        ("", (16, 8, 31_624)),  # 28,000,000,008 bytes / 0.9, rounded up, and 512 for the agent
        ("--memMB 64000", (16, 8, 64_000)),
        ("--cpu 48 --gpu 0", (48, 0, 31_624)),
    ],
)
def test_a_plan_says_what_a_node_takes_and_the_line_wins(tmp_path: Path, line: str, asked: tuple[int, ...]) -> None:
    resource = build(f"-j 2x8 --plan {plan_file(tmp_path)} {line} launch/train.py").roles[0].resource
    assert (resource.cpu, resource.gpu, resource.memMB) == asked


def test_a_plan_for_processors_asks_for_no_gpu(tmp_path: Path) -> None:
    ranks = [{"hbm": 0, "host": 3_500_000_001}] * 16
    app = build(f"-j 1:2x8 --plan {plan_file(tmp_path, per_rank=ranks)} launch/train.py")
    assert (app.roles[0].resource.gpu, app.roles[0].resource.memMB) == (0, 31_624)


def test_without_a_plan_a_node_is_what_torchx_says() -> None:
    resource = build("-j 2x8 launch/train.py").roles[0].resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (2, 0, 1024)


@pytest.mark.parametrize("j", ["1x8", "2x4", "4x4", "1x16", "16", "2:4x8"])
def test_a_plan_of_another_world_is_refused_with_the_command_that_makes_one(tmp_path: Path, j: str) -> None:
    with pytest.raises(ValueError, match=r"is for -j 2x8, not .*dist-mtl plan CONFIG --nodes \d+ --gpus \d+ --json"):
        build(f"-j {j} --plan {plan_file(tmp_path)} launch/train.py")


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    plan = plan_file(tmp_path)
    good = json.loads(plan.read_text())
    for text in (
        "", "[]", "3", "{", "[" * 100_000, "\xff",
        *(json.dumps({key: value for key, value in good.items() if key != name}) for name in good if name != "tables"),
        *(json.dumps(good | wrong) for wrong in (
            {"world": "many"}, {"world": None}, {"world": 0}, {"local_world": 0}, {"local_world": -8}, {"world": 8},
            {"local_world": 5}, {"per_rank": 16}, {"per_rank": [{}] * 16}, {"per_rank": [{"hbm": 1, "host": 0}] * 16},
            {"per_rank": []}, {"per_rank": [{"hbm": 1, "host": "x"}] * 16},
            {"per_rank": [{"hbm": 1, "host": float("inf")}] * 16}, {"format": "other"}, {"version": 2},
        )),
    ):  # fmt: skip
        plan.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="no plan of dist-mtl plan"):
            build(f"-j 2x8 --plan {plan} launch/train.py")
    with pytest.raises(ValueError, match="No such file or directory; name a file"):
        build(f"-j 2x8 --plan {tmp_path}/none.json launch/train.py")


def test_only_a_file_of_a_plans_size_is_read(tmp_path: Path) -> None:
    for path, words in no_plans(tmp_path):
        with pytest.raises(ValueError, match=f"no plan of dist-mtl plan .*{words}"):
            build(f"-j 2x8 --plan {path} launch/train.py")


def test_a_plan_and_a_named_resource_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both say what a node has"):
        build(f"-j 2x8 -h gpu.large --plan {plan_file(tmp_path)} launch/train.py")


def test_submitting_needs_no_torch() -> None:
    """The command runs where nothing trains."""
    code = "import sys, dist_mtl.torchx_components; sys.exit(bool({'torch', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
