"""Import torch, fbgemm and torchrec in a child process: a wrong build of them can end the process that imports it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from dist_mtl.parallel.world import DEBUG

PROBED = ("torch", "fbgemm_gpu", "torchrec")  # in the order in which one needs the other
PROBE_MARK = "dist_mtl probe: "  # the libraries print to stdout too
PROBE_TIMEOUT = 240.0  # seconds; the three imports take 5 s here and took 50 s in 16 processes on two cores


def describe(error: BaseException) -> str:
    """The error and what caused it: torch says "could not load this library", and only the cause says which symbol."""
    cause = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}" + (f" <- {describe(cause)}" if cause else "")


def probe() -> None:
    """In a child process: import each of PROBED, use it once, and print one marked JSON line for each."""
    for name in PROBED:
        facts: dict[str, object] = {"name": name, "error": None}
        try:
            facts |= _PROBES[name]()
        except Exception as error:
            facts["error"] = describe(error)
        print(PROBE_MARK + json.dumps(facts), flush=True)


def _probe_torch() -> dict[str, object]:
    import torch

    cuda_error = None
    if torch.version.cuda is not None:
        try:
            torch.ones(1, device="cuda").add_(1).item()  # also meets "no kernel image" of a GPU too old or too new
        except Exception as error:
            cuda_error = describe(error)
    distributed = torch.distributed.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cuda_error": cuda_error,
        "gloo": distributed and torch.distributed.is_gloo_available(),
        "nccl": distributed and torch.distributed.is_nccl_available(),
    }


def _probe_fbgemm() -> dict[str, object]:
    import fbgemm_gpu
    import torch

    lengths = torch.tensor([1, 2])
    if torch.cuda.is_available() and getattr(fbgemm_gpu, "__variant__", "") == "cuda":
        lengths = lengths.cuda()
    offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths).tolist()
    if offsets != [0, 1, 3]:
        raise RuntimeError(f"fbgemm.asynchronous_complete_cumsum of [1, 2] gave {offsets}, not [0, 1, 3]")
    return {"variant": getattr(fbgemm_gpu, "__variant__", None)}


def _probe_torchrec() -> dict[str, object]:
    import torchrec.distributed  # noqa: F401

    return {}


_PROBES = {"torch": _probe_torch, "fbgemm_gpu": _probe_fbgemm, "torchrec": _probe_torchrec}


def read_probe(stdout: str, returncode: int | None) -> dict[str, dict[str, object]]:
    """The facts of each of PROBED from what the child printed; `returncode` None means that it ran out of time.

    The first package without a line is the one whose import ended the child.
    """
    lines = [line.removeprefix(PROBE_MARK) for line in stdout.splitlines() if line.startswith(PROBE_MARK)]
    facts = {row["name"]: row for row in map(json.loads, lines)}
    if returncode is None:
        ending = f"its import did not end within {PROBE_TIMEOUT:.0f} s"
    elif returncode < 0:
        ending = f"its import crashed the process with signal {signal.Signals(-returncode).name}"
    else:
        ending = f"its import ended the process with exit code {returncode}"
    for name in PROBED:
        if name not in facts:
            facts[name] = {"name": name, "error": ending}
            ending = "not tried: an import before it ended the process"
    return facts


def run_probe() -> dict[str, dict[str, object]]:
    # The child has to find what this process finds, whether dist_mtl is installed or run from a checkout.
    code = f"import sys; sys.path[:] = {sys.path!r}; from dist_mtl.tools.doctor.import_probe import probe; probe()"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={name: value for name, value in os.environ.items() if name != DEBUG},  # `refused` tells of it
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROBE_TIMEOUT,
        )
    except subprocess.TimeoutExpired as late:
        return read_probe((late.stdout or b"").decode(errors="replace"), None)
    return read_probe(child.stdout, child.returncode)
