"""The process group and the device of a rank, from start to end."""

import atexit
import gc
import logging
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torchrec.distributed import comm

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import FAMILIES, ConfigError, DistMtlError, InternalError
from dist_mtl.parallel.caller_process import INTERFACE, restored
from dist_mtl.parallel.malloc import keep_freed_memory
from dist_mtl.parallel.preemption import StopFlag
from dist_mtl.parallel.watchdog import Bound, Watchdog
from dist_mtl.parallel.world import World
from dist_mtl.terminal.wording import plural

T = TypeVar("T")
# The group in which ranks stay for the next call of the Python interface, until their process ends: ranks that leave
# their group and meet again hang at about the third meeting (gloo of torch 2.13, seen).
KEPT: list[dist.ProcessGroup] = []


@dataclass(frozen=True)
class Runtime:
    """One rank at work: its place in the world, its device, its process group."""

    world: World
    device: torch.device
    group: dist.ProcessGroup | None  # none: of one rank that only scores
    config: RunConfig
    stop: StopFlag = field(default_factory=StopFlag)
    watchdog: Watchdog = field(default_factory=Watchdog)
    embedded: bool = False  # the process is a caller's, such as a notebook's, and lives on
    remains: ExitStack = field(default_factory=ExitStack)  # what an embedded run closes at its end, however it ends

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def size(self) -> int:
        return self.world.size

    def all_ranks(self, action: Callable[[], T]) -> T:
        """Run `action` on every rank. If it fails on any, every rank raises the error of the first one that failed.

        This is how a fault of one rank (a file that only it reads) becomes an agreed end instead of a hang. `action`
        itself must contain no collective. An unforeseen exception ends all ranks as an InternalError: it prints its
        traceback where it happened, or in an embedded run is the error's cause.
        """
        value, error = None, None
        self.watchdog.alive()
        try:
            value = action()
        except DistMtlError as failure:
            error = failure
        except Exception as failure:
            error = InternalError(f"{type(failure).__name__}: {failure}")
            error.__cause__ = failure
            if not self.embedded:
                traceback.print_exc()
        if self.size == 1:
            if error is not None:
                error.all_ranks = True
                raise error
            return value
        told = self.gather(None if error is None else (type(error).__name__, str(error)))
        failed = [(rank, family, text) for rank, item in enumerate(told) if item for family, text in [item]]
        if failed:
            rank, family, text = failed[0]
            if {(f, t) for _, f, t in failed} == {(family, text)} and len(failed) == self.size:
                agreed = FAMILIES.get(family, InternalError)(text)
            else:
                agreed = FAMILIES.get(family, InternalError)(f"rank {rank}: {text}")
            agreed.all_ranks = True
            raise agreed
        return value

    def from_first(self, action: Callable[[], T]) -> T:
        """Run `action` on the first rank only and give its value to all; its error is raised by all.

        For what the ranks must not each find out for themselves, such as which commit is the newest.
        """
        value = self.all_ranks(lambda: action() if self.world.is_first else None)
        if self.size > 1:
            shared = [value]
            dist.broadcast_object_list(shared, src=0, group=self.group)
            value = shared[0]
        return value

    def honour_stop(self) -> None:
        """Raise Preempted on every rank if a signal has come to any. Collective; for where nothing has to be saved."""
        self.all_ranks(self.stop.check)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """`values` summed over the ranks, in place."""
        self.watchdog.alive()
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """`values` with the largest of all ranks in each place, in place."""
        self.watchdog.alive()
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, on every rank. For small things; it travels between our own ranks as a pickle."""
        self.watchdog.alive()
        if self.size == 1:
            return [value]
        told: list = [None] * self.size
        dist.all_gather_object(told, value, group=self.group)
        return told

    def all_to_all(self, rows_NC: torch.Tensor, counts_W: torch.Tensor) -> torch.Tensor:
        """Send the first counts_W[0] rows to rank 0, the next counts_W[1] to rank 1, ...; return what came, by rank."""
        self.watchdog.alive()
        if self.size == 1:
            return rows_NC
        sent_W = counts_W.to(self.device)
        received_W = torch.empty_like(sent_W)
        dist.all_to_all_single(received_W, sent_W, group=self.group)
        counts = received_W.tolist()
        received_RC = torch.empty(sum(counts), rows_NC.shape[1], dtype=rows_NC.dtype, device=self.device)
        dist.all_to_all_single(received_RC, rows_NC.to(self.device), counts, counts_W.tolist(), group=self.group)
        return received_RC

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier(group=self.group)

    def started(self) -> None:
        """Call after step 1: from now on what takes longer than `run.step_timeout` is a hang, collective or not."""
        self._bound_waits(Bound("run.step_timeout", self.config.step_timeout))

    @contextmanager
    def committing(self) -> Iterator[None]:
        """While a commit is written or read, in which ranks are apart by far more than in a step: one of them has the
        largest table. `run.commit_timeout` is the bound meanwhile. Entered and left by all ranks together."""
        before, phase = self.watchdog.bound, self.watchdog.phase
        usual = before or Bound("run.start_timeout", self.config.start_timeout)
        self.watchdog.alive("commit")
        self._bound_waits(Bound("run.commit_timeout", max(self.config.commit_timeout, usual.seconds)))
        yield  # an error passes through: what comes after it is the end of the run
        self._bound_waits(usual)
        self.watchdog.bound = before
        self.watchdog.alive(phase)

    def _bound_waits(self, bound: Bound) -> None:
        self.watchdog.bound = bound
        if self.size > 1:
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=bound.seconds), self.group)


@contextmanager
def runtime(config: RunConfig, embedded: bool = False) -> Iterator[Runtime]:
    """Join the process group (gloo on CPU, NCCL on CUDA) and leave it at the end. A world of one needs no launcher.

    Meanwhile SIGTERM and SIGINT set the stop flag, and a watchdog ends a rank that hangs. What passes through as an
    exception takes a note along of what the rank was doing. `embedded`: the process is a caller's. Nothing here ends
    it, and what is set for a whole process is afterwards what it was.
    """
    world = World.from_env()
    device = _device(config, world)
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=config.start_timeout)
    with ExitStack() as guards:
        if embedded:
            guards.enter_context(restored(device))
        else:
            keep_freed_memory()
        _settle(config, device, world)
        stop, watchdog = StopFlag(embedded), Watchdog()
        guards.enter_context(stop.listening())
        if not embedded:  # nobody waits for the only rank but its caller, who can interrupt it
            guards.enter_context(watchdog.watching(config, world))
        _join(backend, timeout, world, config)
        rt = Runtime(world, device, dist.group.WORLD, config, stop, watchdog, embedded)
        try:
            with rt.remains if embedded else nullcontext():
                yield rt
        except BaseException as error:
            if isinstance(error, Exception):
                error.add_note(watchdog.where)
            if world.size == 1:
                _leave()
            raise  # with peers the group stays: one of them may be dead, and to leave it would block
        if world.size == 1:
            _leave()
        else:
            gc.collect()  # DDP's reducers, which would hold on to the group
            KEPT[:] = [rt.group]
            atexit.register(_leave_at_exit)


def alone(config: RunConfig) -> Runtime:
    """One rank without a process group, to score with a model that is whole on one device. Nothing to leave."""
    return Runtime(World(), _device(config, World()), None, config, embedded=True)


def _settle(config: RunConfig, device: torch.device, world: World) -> None:
    """What is set for the whole process."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # warns of a call that torchrec makes
    warnings.filterwarnings("ignore", module=r"torchrec|fbgemm_gpu|torch\.distributed")
    _lower_debug_level(world)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _keep_to_this_node(world)


def _leave_at_exit() -> None:
    if KEPT and dist.is_initialized():
        KEPT.clear()
        _leave()


def _leave() -> None:
    """Leave the process group. TorchRec keeps the groups of nodes for the next run, which would find them gone."""
    gc.collect()  # DDP's reducers hold the group; destroying it under them warns
    dist.destroy_process_group()
    comm._INTRA_PG = comm._CROSS_PG = None


def _join(backend: str, timeout: timedelta, world: World, config: RunConfig) -> None:
    if KEPT and dist.is_initialized() and KEPT.pop() is dist.group.WORLD and dist.get_backend() == backend:
        dist.distributed_c10d._set_pg_timeout(timeout, dist.group.WORLD)
        return
    if dist.is_initialized():
        raise InternalError(
            "this process is in a process group of torch.distributed already: another training of this process, or the "
            "caller's own; end it first (torch.distributed.destroy_process_group())"
        )
    try:
        dist.init_process_group(backend, timeout=timeout, **_meeting_place(world, timeout))
    except (RuntimeError, ValueError) as error:
        raise InternalError(
            f"rank {world.rank} of {world.size} could not join the others within {config.start_timeout} s: "
            f"{str(error).splitlines()[0]}. Is the rendezvous address free, and did every rank start?"
        ) from None


def _lower_debug_level(world: World) -> None:
    """At TORCH_DISTRIBUTED_DEBUG=DETAIL torch 2.13 wraps each group, and the ranks die of SIGSEGV in gloo's."""
    if dist.get_debug_level() == dist.DebugLevel.DETAIL:
        dist.set_debug_level(dist.DebugLevel.INFO)
        if world.is_first:
            line = "warning: TORCH_DISTRIBUTED_DEBUG=DETAIL crashes torch's process groups; INFO is taken instead"
            print(line, file=sys.stderr)


def _keep_to_this_node(world: World) -> None:
    """Ranks of one node talk over its loopback, unless told otherwise: what they tell each other, pickles among it, is
    within nobody else's reach. (gloo takes the interface that the host's name stands for.)

    Raises ConfigError where the interface that the environment names is none of this machine's.
    """
    here, asked = {name for _, name in socket.if_nameindex()}, os.environ.get(INTERFACE)
    if asked is not None and not here.issuperset(asked.split(",")):
        raise ConfigError(f"{INTERFACE}={asked!r}: this machine has {', '.join(sorted(here))}; set one, or unset it")
    if world.size == world.local_size:
        for name in here & {"lo", "lo0"}:
            os.environ.setdefault(INTERFACE, name)


def _meeting_place(world: World, timeout: timedelta) -> dict[str, Any]:
    """Where the ranks meet, for `init_process_group`; empty: where the launcher's environment says.

    A store that an agent lends is the same after a restart, and in it the new ranks read the addresses of the dead ones
    ("connectFullMesh ... Connection refused", pytorch issue 135712). So each attempt writes under a name of its own.
    With several agents the launcher has to see to it: torchx_components.AGENT_ENV.
    """
    if world.size == 1:
        return {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if world.store is None:
        return {}
    lent = world.store
    store = dist.TCPStore(lent.host, lent.port, world.size, is_master=False, timeout=timeout)
    name = f"attempt-{lent.attempt}"
    return {"store": dist.PrefixStore(name, store), "rank": world.rank, "world_size": world.size}


def _device(config: RunConfig, world: World) -> torch.device:
    """The rank's own GPU, or the CPU when there are fewer GPUs than ranks on this node (they can not share one)."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    fits = gpus >= world.local_size and world.local_rank < gpus
    if config.device == "cuda" and not fits:
        raise ConfigError(
            f"run.device = 'cuda': {plural(world.local_size, 'rank')} on this node, {plural(gpus, 'GPU')}; "
            "start as many ranks as GPUs, "
            f"or set run.device = 'auto'. `dist-mtl doctor` tells what it finds"
        )
    return torch.device("cuda", world.local_rank) if config.device != "cpu" and fits else torch.device("cpu")
