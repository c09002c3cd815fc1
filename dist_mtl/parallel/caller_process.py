"""What training sets for a whole process, put back as it was: the process is a caller's, such as a notebook's."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist

from dist_mtl.parallel.malloc import keeping_freed_memory

INTERFACE = "GLOO_SOCKET_IFNAME"  # of the ranks of one node, see runtime


@contextmanager
def restored(device: torch.device) -> Iterator[None]:
    """At the end warnings, threads, devices, random numbers, the environment and the allocator are as they were."""
    logger, threads = logging.getLogger("torch.fx._symbolic_trace"), torch.get_num_threads()
    level, debug, interface = logger.level, dist.get_debug_level(), os.environ.get(INTERFACE)
    hook = sys.excepthook  # torch wraps it at each start of a process group
    devices = [device] if device.type == "cuda" else []
    current = torch.cuda.device(torch.cuda.current_device()) if devices else nullcontext()
    with warnings.catch_warnings(), torch.random.fork_rng(devices), current, keeping_freed_memory():
        try:
            yield
        finally:
            logger.setLevel(level)
            dist.set_debug_level(debug)
            sys.excepthook = hook
            torch.set_num_threads(threads)
            if interface is None:
                os.environ.pop(INTERFACE, None)
