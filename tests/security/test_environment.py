"""What a launcher or a shell has left in the environment: refused by name on ranks, ignored by verbs of one process."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dist_mtl.errors import ConfigError
from dist_mtl.parallel import world
from dist_mtl.parallel.world import LentStore, World
from tests.support.raw_logs import write_csv

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "ROLE_RANK": "1", "ROLE_WORLD_SIZE": "2",
    "ROLE_NAME": "default", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_ERROR_FILE": "/x/e",
}  # fmt: skip
ODD = ["", "abc", "-1", "1.0", " 1", "+1", "1_0", "１", "9" * 30, "\x1b[2J", "0x1", "None", "1,2", "\n"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
def test_a_variable_that_is_no_number_is_refused_by_its_name_and_value(name: str, odd: str) -> None:
    with pytest.raises(ConfigError) as caught:
        World.of(LAUNCHED | {name: odd})
    told = str(caught.value)
    assert told.startswith(f"{name}={odd!r}, beside ") and "a whole number from" in told
    assert told.partition("unset ")[2].split() == list(LAUNCHED), "the whole line to copy"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "2"}, "RANK='2'"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK='2'"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE='3'"),
        ({"LOCAL_WORLD_SIZE": None}, "LOCAL_RANK='1'"),
        ({"RANK": None}, "RANK is not set"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR=''"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT='0'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT='65536'"),
        ({"TORCHELASTIC_RESTART_COUNT": None}, "TORCHELASTIC_RESTART_COUNT is not set"),
        ({"TORCHELASTIC_RESTART_COUNT": "abc"}, "TORCHELASTIC_RESTART_COUNT='abc'"),
    ],
)
def test_variables_that_do_not_fit_together_are_refused_by_name(change: dict[str, str | None], name: str) -> None:
    environment = {key: value for key, value in (LAUNCHED | change).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        World.of(environment)
    assert str(caught.value).startswith(name)


def test_what_a_launcher_sets_is_taken() -> None:
    assert World.of(LAUNCHED) == World(1, 2, 1, 2, agent=True, store=LentStore("localhost", 29500, 0))
    several = LAUNCHED | {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "abc"}
    assert World.of(several).store is None
    bare = {name: LAUNCHED[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert World.of(bare) == World(1, 2, 0, 1), "a process a node"
    assert World.of({}) == World.of({"MASTER_ADDR": "x", "MASTER_PORT": "abc"}) == World()
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "abc", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert World.of(alone) == World(), "nobody to meet"


def test_any_part_of_a_launchers_variables_with_any_values_is_a_world_or_a_refusal() -> None:
    draw = random.Random(1)
    values = [*ODD, "0", "1", "2", "3", "True", "False", "localhost", "29500"]
    worlds = 0
    for _ in range(5_000):
        kept = draw.sample(sorted(LAUNCHED), draw.randrange(len(LAUNCHED) + 1))
        changed = {name: draw.choice(values) for name in kept if draw.random() < 0.3}
        environment = {name: LAUNCHED[name] for name in kept} | changed
        try:
            made = World.of(environment)
            worlds += made.size > 1
            assert 0 <= made.rank < made.size and 0 <= made.local_rank < made.local_size <= made.size
        except ConfigError as error:
            assert any(f"{name}=" in str(error) or f"{name} is not set" in str(error) for name in LAUNCHED)
    assert worlds > 50


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "TORCH_DISTRIBUTED_DEBUG"])
@pytest.mark.parametrize("value", ["abc", "", "0", "-1", "1.5", "detail", "1,,2"])
def test_what_torch_stumbles_over_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}="):
        World.from_env()


def test_a_verb_of_one_process_leaves_no_rank_to_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "abc")
    monkeypatch.setenv("ROLE_OF_MINE", "kept")
    assert World.alone() == World()
    assert not world.launcher_variables(os.environ) and os.environ["ROLE_OF_MINE"] == "kept"
    assert World.from_env() == World()


def ended(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("left", [{"RANK": "1", "WORLD_SIZE": "2"}, {"RANK": "abc"}, LAUNCHED, {"WORLD_SIZE": ""}])
def test_convert_ignores_ranks(tmp_path: Path, left: dict[str, str]) -> None:
    write_csv(tmp_path / "a.csv", 200)
    options = ["--click=click", "--conversion=conversion", "--jobs=1"]
    done = ended("-m", "dist_mtl", "convert", "csv", str(tmp_path / "a.csv"), str(tmp_path / "out"), *options, **left)
    assert done.returncode == 0 and "200 rows" in done.stdout, done.stderr


def test_train_refuses_them_before_it_imports_torch(tmp_path: Path) -> None:
    """Without a word of torch: it would take seconds, and some values end its import."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    done = ended("launch/train.py", PYTHONPATH=f"{tmp_path}:{ROOT}", RANK="", WORLD_SIZE="2")
    assert done.returncode == 64 and done.stderr.startswith("error: RANK='', beside WORLD_SIZE='2'"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_whose_import_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nint(os.environ['TORCH_ODD'])")
    done = ended("launch/train.py", PYTHONPATH=f"{tmp_path}:{ROOT}", TORCH_ODD="abc")
    assert done.returncode == 70 and "Traceback" not in done.stderr, done.stderr
    assert "torch cannot be imported: ValueError: invalid literal for int() with base 10: 'abc'" in done.stderr


@pytest.mark.parametrize("name", ["TORCH_DISTRIBUTED_DEBUG=DETAIL", "GLOO_SOCKET_IFNAME=nowhere"])
def test_what_crashes_torchs_process_group(name: str, tmp_path: Path) -> None:
    code = (
        "from dist_mtl import cli\n"
        "def main():\n"
        "    from dist_mtl.config import RunConfig\n"
        "    from dist_mtl.parallel.runtime import runtime\n"
        "    import torch, torch.distributed as dist\n"
        "    with runtime(RunConfig(dir='x', device='cpu')) as rt:\n"
        "        dist.all_reduce(torch.ones(2), group=rt.group)\n"
        "        print('met')\n"
        "cli.run(main)"
    )
    key, _, value = name.partition("=")
    done = ended("-c", code, cwd=tmp_path, **{key: value})
    if key == "GLOO_SOCKET_IFNAME":
        assert done.returncode == 64 and "GLOO_SOCKET_IFNAME='nowhere': this machine has " in done.stderr, done.stderr
    else:
        assert done.returncode == 0 and done.stdout == "met\n", done.stderr
        assert done.stderr.startswith("warning: TORCH_DISTRIBUTED_DEBUG=DETAIL crashes"), done.stderr


@pytest.mark.parametrize("verb", ["describe", "synthesize", "predict"])  # those that show a part of theirs
def test_help_needs_no_docstrings(verb: str) -> None:
    """PYTHONOPTIMIZE=2 takes them away."""
    done = ended("-m", "dist_mtl", verb, "--help", PYTHONOPTIMIZE="2")
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr
