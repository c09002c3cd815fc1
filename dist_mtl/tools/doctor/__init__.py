"""`dist-mtl doctor`: what this machine has, what does not fit together, and the command that mends it.

Works where torch, torchrec or fbgemm are missing or broken, and imports none of them itself. Written for Python 3.9,
so that a Python too old for dist_mtl gets a sentence and not a SyntaxError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

from dist_mtl.errors import InternalError
from dist_mtl.terminal.printable import printable
from dist_mtl.tools.doctor.diagnosis import Problem, diagnose, has_error
from dist_mtl.tools.doctor.findings import Findings, collect


def run(as_json: bool = False) -> int:
    """Print the findings and the problems; 0 if nothing has to be mended (warnings allowed), else 70."""
    findings = collect()
    problems = diagnose(findings)
    if as_json:
        rows = {"findings": dataclasses.asdict(findings), "problems": [dataclasses.asdict(row) for row in problems]}
        print(json.dumps(rows, indent=2))
    else:
        print(render(findings, problems))
    return InternalError.exit_code if has_error(problems) else 0


def render(findings: Findings, problems: Sequence[Problem]) -> str:
    """The page for a person."""
    lines = [f"{name:<14}{printable(text)}" for name, text in _facts(findings)]
    for problem in problems:
        lines += ["", f"{problem.severity.upper()}: {problem.what}", f"  why:  {problem.why}"]
        lines.append("  mend: " + problem.mend.replace("\n", "\n        "))
    num_errors = sum(problem.severity == "error" for problem in problems)
    if num_errors:
        verdict = f"{num_errors} error(s), {len(problems) - num_errors} warning(s): mend the errors, then look again."
    else:
        verdict = f"All fits together; {len(problems)} warning(s)." if problems else "All fits together."
    return "\n".join([*lines, "", verdict])


def _facts(f: Findings) -> Iterator[tuple[str, str]]:
    yield "Python", f"{'.'.join(map(str, f.python))} ({f.executable}), {f.system}"
    build = ""
    if f.torch:
        build = f", built for CUDA {f.torch.cuda}" if f.torch.cuda else ", CPU build"
        build += f", gloo {'yes' if f.torch.gloo else 'no'}, NCCL {'yes' if f.torch.nccl else 'no'}"
    yield "torch", _version(f, "torch", "torch") + build
    yield "torchrec", _version(f, "torchrec", "torchrec")
    fbgemm = [name for name in ("fbgemm-gpu-cpu", "fbgemm-gpu") if name in f.distributions]
    yield "fbgemm", ", ".join(f"{name} {_version(f, name, 'fbgemm_gpu')}" for name in fbgemm) or "not installed"
    if f.driver is None:
        yield "GPU", "none (no nvidia-smi)"
    else:
        runs = f" (CUDA up to {f.driver.cuda})" if f.driver.cuda else ""
        gpus = "; ".join(f"{gpu.name}, {gpu.memory_gib:.0f} GiB" for gpu in f.driver.gpus) or "none"
        yield "GPU", f"{gpus}; driver {f.driver.version}{runs}"
    yield "processor", f"{f.cores} core(s) for this process"
    yield "memory", f"{f.ram_available_gib:.1f} of {f.ram_gib:.1f} GiB available"
    yield "disk", f"{f.disk_free_gib:.1f} GiB free in this folder"
    torchx = [f"{name} {f.distributions[name]}" for name in ("torchx", "torchx-nightly") if name in f.distributions]
    if torchx:
        yield "torchx", f"{', '.join(torchx)}; scheduler {f.scheduler} ({f.scheduler_file or 'its own default'})"
    else:
        yield "torchx", "not installed (optional; torchrun starts jobs as well)"
    yield "ranks", " ".join(f"{name}={value}" for name, value in f.ranks.items()) or "none set: a job of one process"


def _version(f: Findings, distribution: str, package: str) -> str:
    version = f.distributions.get(distribution, "not installed")
    return f"{version}, does not import" if distribution in f.distributions and f.imports[package] else version
