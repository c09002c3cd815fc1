"""torchx's `dist.ddp`, with the script as the first positional argument.

    torchx run dist.ddp -j 2x8 launch/train.py configs/quickstart.toml

torchx 0.7.0 takes `launch/train.py` here for an argument of a script that it then misses. pyproject.toml registers this
module under the name `dist`, which replaces that one component in the environment where dist_mtl is installed.

A trap of torchx, not ours to mend: an option repeated anywhere on the line, the script's own included, is refused.
"""

import re
import socket
from typing import Dict, List, Optional, Tuple

import torchx
import torchx.specs as specs
from torchx.components import dist as torchx_dist

from dist_mtl.bounded import parse_json
from dist_mtl.plan_bytes import plan_bytes

RDZV_PORT = 29500  # torch's and torchx's own default; cluster firewalls are opened for it
PORTS_TRIED = 100

# torch 2.13 lets the workers of all attempts share the agent's TCPStore: after a restart the new ranks read the
# addresses of the dead ones, and every attempt fails with "connectFullMesh ... Connection refused" (pytorch issues
# 135712 and 167288). Only the agent's environment counts; setting it in the script is too late. (On a single node the
# script does without: parallel/runtime.py.)
AGENT_ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RESTARTS = "PET_MAX_RESTARTS"  # torchrun reads each of its options from the environment, too

# What torchx asks for where nothing is said; local_cwd ignores it, a cluster takes it by its word.
DEFAULTS = {"cpu": 2, "gpu": 0, "memMB": 1024}
# A megabyte is 10^6 bytes to Kubernetes and 2^20 to Slurm: counted in the smaller one, no node gets less than planned.
MB = 10**6
CPUS = 2  # of each process: one computes, one reads ahead
# A scheduler kills what takes more than it has asked for. Ranks took up to 9 % more than was planned (docs/scaling.md,
# measured), and no plan has the agent that starts them: torch, imported.
PLANNED_PERCENT, AGENT_MB = 90, 512

# torchx puts the name of the job into a shell command behind its own quoting: a quote in it would end that.
NAME = re.compile(r"[A-Za-z0-9._-]*")


def _free_port(first: int, tries: int) -> int:
    """The first port from `first` on that no process of this machine listens on, else `first`."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return first


def planned(path: str, j: str) -> Dict[str, int]:
    """What a node takes by a plan of dist-mtl plan: cpu, gpu and memMB, of the node that takes most. The planned host
    memory is 90 % of what is asked for, and the agent of the node gets 512 MB on top.

    Reads the JSON itself: a command that only submits a job needs neither torch nor pydantic. Raises ValueError: it is
    no plan, or one for other nodes or processes than `j`.
    """
    try:
        plan = parse_json(plan_bytes(path))
        if (plan["format"], plan["version"]) != ("dist_mtl plan", 1):
            raise ValueError(f"format {plan['format']!r}, version {plan['version']!r}")
        world, processes, ranks = int(plan["world"]), int(plan["local_world"]), plan["per_rank"]
        host_bytes, on_gpus = [int(rank["host"]) for rank in ranks], any(int(rank["hbm"]) for rank in ranks)
        if processes < 1 or world % processes or len(host_bytes) != world or min(host_bytes) < 1:
            raise ValueError(f"{world} ranks, {processes} on a node, memory of {len(host_bytes)}")
    except OSError as error:
        raise ValueError(f"--plan {path}: {error.strerror}; name a file that dist-mtl plan --json wrote") from None
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"--plan {path}: no plan of dist-mtl plan ({told}); write it anew with --json") from None
    _, nodes, per_node, _ = torchx_dist.parse_nnodes(j)
    if (nodes * per_node, per_node) != (world, processes):
        raise ValueError(
            f"--plan {path} is for -j {world // processes}x{processes}, not {j}: "
            f"dist-mtl plan CONFIG --nodes {nodes} --gpus {per_node} --json {path}"
        )
    nodes_bytes = [sum(host_bytes[first : first + processes]) for first in range(0, world, processes)]
    ranks_mb = -(-100 * max(nodes_bytes) // (PLANNED_PERCENT * MB))
    return {"cpu": CPUS * processes, "gpu": processes if on_gpus else 0, "memMB": ranks_mb + AGENT_MB}


def _script_of(words: List[str]) -> Tuple[str, List[str]]:
    """The script that stands first, and its arguments."""
    if not words:
        raise ValueError("no script: torchx run dist.ddp -j 2x8 launch/train.py [arguments of the script]")
    # torchx drops a `--` only where it comes first; here the script came before it.
    return words[0], words[2:] if words[1:2] == ["--"] else words[1:]


def ddp(
    *script_args: str,
    script: Optional[str] = None,
    m: Optional[str] = None,
    image: str = torchx.IMAGE,
    name: str = "/",
    h: Optional[str] = None,
    cpu: int = -1,
    gpu: int = -1,
    memMB: int = -1,
    j: str = "1x2",
    plan: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    max_restarts: int = 3,
    max_retries: int = 0,
    rdzv_port: int = 0,
    rdzv_backend: str = "c10d",
    mounts: Optional[List[str]] = None,
    debug: bool = False,
    tee: int = 3,
) -> specs.AppDef:
    """Train on ``j`` = nodes x processes; the first positional argument is the script.

    Args:
        script_args: the script, then its arguments; with ``--script`` or ``-m`` the arguments alone (after ``--``)
        script: script to run, in the place of the first positional argument
        m: python module to run, in the place of a script
        image: image (e.g. docker)
        name: ``{experimentname}/{runname}``, ``{experimentname}/``, ``/{runname}`` or ``{runname}`` (the script's)
        h: a registered named resource (takes precedence over cpu, gpu, memMB)
        cpu: number of cpus per node (the plan's, else 2); ignored by local_cwd, binding on a cluster
        gpu: number of gpus per node (the plan's, else 0); ignored by local_cwd, binding on a cluster
        memMB: memory per node in MB (the plan's over 0.9 and 512 for the agent, else 1024); ignored by local_cwd,
            binding on a cluster
        j: [{min_nodes}:]{nodes}x{processes per node}, or the processes of a single node
        plan: a plan that dist-mtl plan wrote (``--json``): what cpu, gpu and memMB are where they are not given
        env: environment of the nodes (e.g. ENV1=v1,ENV2=v2); a value can not hold a comma
        max_restarts: how often the agent of a node starts its ranks again when one has died, over the whole job; they
            go on from the newest commit. A failure that comes again costs as many starts; 0: the first one ends the job
        max_retries: retries by the scheduler, of the whole job with its agents, when restarts are used up or a node has
            died (Slurm, Kubernetes, AWS Batch; local_cwd has none)
        rdzv_port: port of the rendezvous store of a job of several nodes; 0 means 29500, or the next one that is free
            on the launching machine: two jobs on one port join each other's store, and one dies with the other
        rdzv_backend: rendezvous backend of a job of several nodes
        mounts: mounts of the container (e.g. type=<bind/volume>,src=/host,dst=/job[,readonly])
        debug: whether to set torch's debug flags
        tee: copy to the console: 0 nothing, 1 stdout, 2 stderr, 3 both
    """
    args = list(script_args)
    if script is None and m is None:
        script, args = _script_of(args)
    if plan is not None and h is not None:
        raise ValueError(f"--plan {plan} and -h {h} both say what a node has; leave one of them out")
    j = f"1x{j}" if j.isdigit() else j
    node = DEFAULTS if plan is None else planned(plan, j)
    # torchx-nightly renamed ddp to torchrun, and reads a bare number together with `h` as a number of nodes.
    launch = getattr(torchx_dist, "torchrun", None) or torchx_dist.ddp
    app = launch(
        *args,
        script=script,
        m=m,
        image=image,
        name=name,
        h=h,
        cpu=node["cpu"] if cpu < 0 else cpu,
        gpu=node["gpu"] if gpu < 0 else gpu,
        memMB=node["memMB"] if memMB < 0 else memMB,
        j=j,
        env={**AGENT_ENV, RESTARTS: str(max_restarts), **(env or {})},
        max_retries=max_retries,
        rdzv_port=rdzv_port or _free_port(RDZV_PORT, PORTS_TRIED),
        rdzv_backend=rdzv_backend,
        mounts=mounts,
        debug=debug,
        tee=tee,
    )
    if not NAME.fullmatch(app.name):
        raise ValueError(f"{app.name!r} can not be the name of a job: letters, digits and . _ - only; set --name /NAME")
    return app
