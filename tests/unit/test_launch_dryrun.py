"""`torchx run --dryrun`: one component for a laptop, Slurm and Kubernetes; what each scheduler would be given.

The real command; what it prints is taken apart by what will read it: bash for the script of Slurm, YAML for Kubernetes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torchx", reason="torchx is an optional extra (launch)")

ROOT = Path(__file__).resolve().parents[2]
JOB = "dist.ddp -j 2x8 --cpu 32 --gpu 8 --memMB 64000 --max_retries 3 --rdzv_port 29601 --env NCCL_DEBUG=INFO"
SCRIPT = ["launch/train.py", "configs/quickstart.toml", "--set=train.epochs=2", "--set=run.dir='a b'"]
OF_OURS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PET_MAX_RESTARTS": "3", "NCCL_DEBUG": "INFO"}


def dryrun(tmp: Path, *words: str) -> str:
    """What `torchx run --dryrun WORDS` would hand to the scheduler."""
    # A configuration of the user would win over ours, and a cluster with little memory turns `--mem` off.
    env = os.environ | {"HOME": str(tmp), "SLURM_CONF": os.devnull, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(Path(sys.executable).with_name("torchx"))]
    done = subprocess.run(
        [*command, "run", "--dryrun", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("=== SCHEDULER REQUEST ===\n")[2]


def words_of(command: str, program: str, **env: str) -> list[str]:
    """The arguments that bash would start `program` with; the command itself is a function here."""
    script = f"{program}() {{ printf '%s\\0' \"$@\"; }}\n{command}\n"
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.split("\0")[:-1]


def torchrun(host: str, job: str) -> list[str]:
    """The arguments of each node's torchrun: two nodes, eight ranks each, that meet at `host`."""
    meet = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{host}:29601", "--rdzv_id", job]
    return [*meet, "--nnodes", "2", "--nproc_per_node", "8", "--tee", "3", "--role", "", *SCRIPT]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script for sbatch."""
    job, tmp = [*JOB.split(), *SCRIPT], tmp_path_factory.mktemp("home")
    request = dryrun(tmp, "-s", "slurm", "-cfg", "partition=gpu,time=12:00:00", *job)
    assert request.splitlines()[0] == "sbatch --parsable $SBATCH_SCRIPT"
    return request.partition("#!/bin/bash\n")[2]


def test_slurm_is_asked_for_two_nodes_of_one_task_each(slurm: str) -> None:
    """A heterogeneous job, one component a node; the task is the agent, which starts its eight ranks itself."""
    lines = [line.split()[1:] for line in slurm.splitlines() if line.startswith("#SBATCH")]
    first, between, second = lines
    assert between == ["hetjob"]
    for number, options in enumerate((first, second)):
        assert sorted(options) == sorted([
            f"--job-name=train-{number}", "--requeue", "--partition=gpu", "--time=12:00:00", "--ntasks-per-node=1",
            "--cpus-per-task=32", "--mem=64000", "--gpus-per-task=8",
        ])  # fmt: skip


def test_slurm_starts_the_exact_command_on_both_nodes(slurm: str) -> None:
    command = re.search(r"^srun .*?(?=^exitcode=)", slurm, re.DOTALL | re.MULTILINE)[0]
    words = words_of(command, "srun", SLURM_JOB_ID="77")
    middle = words.index(":")
    for number, group in enumerate((words[:middle], words[middle + 1 :])):
        *options, program, dash_c, line = group
        assert (program, dash_c) == ("bash", "-c")
        told = dict(option.removeprefix("--").split("=", 1) for option in options)
        export = dict(pair.split("=", 1) for pair in told.pop("export").removeprefix("ALL,").split(","))
        assert OF_OURS.items() <= export.items() and export["TORCHX_JOB_ID"] == "slurm://torchx/77"
        files = {"output": f"slurm-77-train-{number}.out", "error": f"slurm-77-train-{number}.err"}
        assert told == {**files, "wait": "60", "kill-on-bad-exit": "1"}
        assert words_of(line, "torchrun", SLURM_JOB_NODELIST_HET_GROUP_0="node17") == torchrun("node17", "77")


@pytest.mark.parametrize("code, restarts, requeued", [(0, 0, False), (1, 0, True), (1, 2, True), (1, 3, False)])
def test_slurm_requeues_a_job_that_failed_three_times(slurm: str, code: int, restarts: int, requeued: bool) -> None:
    functions = f'srun() {{ return {code}; }}; scontrol() {{ echo requeued-by-scontrol "$@"; }}\n'
    env = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["bash", "-c", functions + slurm], env=env, capture_output=True, text=True, timeout=10)
    assert done.returncode == code
    assert ("requeued-by-scontrol requeue 77" in done.stdout.splitlines()) == requeued


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The Volcano job for the API server."""
    pytest.importorskip("kubernetes", reason="kubernetes is an optional extra")
    job, tmp = [*JOB.split(), "--image", "registry.example/ads:7", *SCRIPT], tmp_path_factory.mktemp("home")
    text = dryrun(tmp, "-s", "kubernetes", "--workspace", "", "-cfg", "queue=ads", *job)
    return yaml.safe_load(text)


def test_kubernetes_is_asked_for_two_pods_or_none(kubernetes: dict[str, Any]) -> None:
    spec = kubernetes["spec"]
    assert (kubernetes["apiVersion"], kubernetes["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    assert (spec["schedulerName"], spec["queue"], spec["maxRetry"]) == ("volcano", "ads", 3)
    assert [task["name"] for task in spec["tasks"]] == ["train-0", "train-1"]
    for task in spec["tasks"]:
        assert (task["replicas"], task["minAvailable"], task["maxRetry"]) == (1, 1, 3)
        # Any pod that fails or is evicted: the whole job starts anew, and goes on from the newest commit.
        assert {(p["event"], p["action"]) for p in task["policies"]} == {
            ("PodEvicted", "RestartJob"), ("PodFailed", "RestartJob")
        }  # fmt: skip
        assert task["template"]["spec"]["restartPolicy"] == "Never"


def test_kubernetes_starts_the_exact_command_in_both_pods(kubernetes: dict[str, Any]) -> None:
    job = kubernetes["metadata"]["name"]
    for number, task in enumerate(kubernetes["spec"]["tasks"]):
        [container] = task["template"]["spec"]["containers"]
        env = {pair["name"]: pair["value"] for pair in container["env"]}
        assert OF_OURS.items() <= env.items() and env["TORCHX_JOB_ID"] == f"kubernetes://torchx/{job}"
        assert container["image"] == "registry.example/ads:7"
        assert container["ports"] == [{"containerPort": 29601, "name": "c10d"}]
        # The first pod finds the store in itself, the others by the name that Volcano's svc plugin gives it.
        program, dash_c, line = container["command"]
        host = {} if number == 0 else {"VC_TRAIN_0_HOSTS": "train-0-0.train"}
        assert (program, dash_c) == ("bash", "-c")
        assert words_of(line, "torchrun", **env, **host) == torchrun("train-0-0.train" if number else "localhost", job)


def test_kubernetes_limits_are_what_was_asked_for(kubernetes: dict[str, Any]) -> None:
    """What is requested is a little less: torchx leaves 100 mCPU and 1,024 MB of a whole machine to Kubernetes."""
    for task in kubernetes["spec"]["tasks"]:
        [container] = task["template"]["spec"]["containers"]
        assert container["resources"] == {
            "limits": {"cpu": "32000m", "memory": "64000M", "nvidia.com/gpu": "8"},
            "requests": {"cpu": "31900m", "memory": "62976M", "nvidia.com/gpu": "8"},
        }
        # Without it /dev/shm has 64 MB, and NCCL needs more.
        [shared] = task["template"]["spec"]["volumes"]
        assert shared["emptyDir"] == {"medium": "Memory"}
        assert container["volumeMounts"] == [{"mountPath": "/dev/shm", "name": shared["name"]}]


def test_the_laptop_starts_the_same_two_agents(tmp_path: Path) -> None:
    request = dryrun(tmp_path, *JOB.split(), *SCRIPT)
    text = "".join(part for part in re.findall(r"'([^'\n]*)'|\"([^\"\n]*)\"", request) for part in part)
    assert text.count("torchrun --rdzv_backend c10d --rdzv_endpoint") == 2, request
    assert text.count("--nnodes 2 --nproc_per_node 8 --tee 3") == 2
