"""torchx's `dist.ddp`, with the script as the first positional argument.

    torchx run dist.ddp -j 2x8 launch/train.py configs/quickstart.toml

torchx 0.7.0 takes `launch/train.py` here for an argument of a script that it then misses. pyproject.toml registers this
module under the name `dist`, which replaces that one component in the environment where dist_mtl is installed.

A trap of torchx, not ours to mend: an option repeated anywhere on the line, the script's own included, is refused.
"""

import re
import socket
from typing import Dict, List, Optional

import torchx
import torchx.specs as specs
from torchx.components import dist as torchx_dist

RDZV_PORT = 29500  # torch's and torchx's own default; cluster firewalls are opened for it
PORTS_TRIED = 100

# torch 2.13 lets the workers of all attempts share the agent's TCPStore: after a restart the new ranks read the
# addresses of the dead ones, and every attempt fails with "connectFullMesh ... Connection refused" (pytorch issues
# 135712 and 167288). Only the agent's environment counts; setting it in the script is too late. (On a single node the
# script does without: parallel/runtime.py.)
AGENT_ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RESTARTS = "PET_MAX_RESTARTS"  # torchrun reads each of its options from the environment, too

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


def ddp(
    *script_args: str,
    script: Optional[str] = None,
    m: Optional[str] = None,
    image: str = torchx.IMAGE,
    name: str = "/",
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 1024,
    j: str = "1x2",
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
        cpu: number of cpus per node; ignored by local_cwd, binding on a cluster
        gpu: number of gpus per node; ignored by local_cwd, binding on a cluster
        memMB: memory per node in MB; ignored by local_cwd, binding on a cluster
        j: [{min_nodes}:]{nodes}x{processes per node}, or the processes of a single node
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
        if not args:
            raise ValueError("no script: torchx run dist.ddp -j 2x8 launch/train.py [arguments of the script]")
        script = args.pop(0)
        # torchx drops a `--` only where it comes first; here the script came before it.
        if args[:1] == ["--"]:
            args.pop(0)
    # torchx-nightly renamed ddp to torchrun, and reads a bare number together with `h` as a number of nodes.
    launch = getattr(torchx_dist, "torchrun", None) or torchx_dist.ddp
    app = launch(
        *args,
        script=script,
        m=m,
        image=image,
        name=name,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=f"1x{j}" if j.isdigit() else j,
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
