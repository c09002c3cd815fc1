"""Every CUDA path of dist_mtl on the GPUs of this machine, beside the CPU: one table.

    python -m benchmarks.figures.gpu_check                      on all GPUs; exit 69 where there is none
    python -m benchmarks.figures.gpu_check --device cpu         a rehearsal of the check itself, on CPU ranks

A row trains the same rows as one CPU rank did with the defaults, and its losses must be those within the row's
tolerance; or it is refused with a reason; or it goes on from a commit with the same bits. Last a model of the
benchmark's size: rows/s, what the embedding kernels read and write beside a copy, FLOP/s, and memory beside the plan.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.ranks import Ranks
from benchmarks.speed.workload import Shape
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.synthetic.logs import write_logs
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import outlook

UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
STEPS = 20
EXACT, CLOSE, HALF = 2e-6, 1e-4, 2e-2  # relative, of a loss: other order of sums; other kernels; 16 bits
ADAM, PARTIAL = ("optim.embedding.kind='adam'",), ("optim.embedding.kind='partial_rowwise_adam'",)


@dataclass(frozen=True)
class Check:
    """`tolerance` of the losses against one CPU rank's with the defaults; None: they are another method's, and must
    fall. `resumes`: also cut in two by a commit. `kernel`: that the plan must show. What rounds (HALF) must change the
    losses that this device has with the defaults, or it is not at work; on one rank nothing travels."""

    name: str
    settings: tuple[str, ...] = ()
    tolerance: float | None = CLOSE
    resumes: bool = False
    kernel: str | None = None


def tables(**keys: str | float) -> tuple[str, ...]:
    """The same of all tables of the small model."""
    return tuple(f"tables.c{i}.{key}={value!r}" for i in range(4) for key, value in keys.items())


CACHED = tables(kernel="uvm_caching", cache_share=0.2)
CHECKS = (
    Check("fused kernels, automatic plan", resumes=True),
    *(Check(kind, tables(sharding=kind)) for kind in ("table_wise", "row_wise", "table_row_wise", "data_parallel")),
    *(
        Check(f"{kind}, adagrad", (*tables(sharding=kind), "optim.embedding.kind='adagrad'"), None)
        for kind in ("column_wise", "grid")
    ),
    Check("adam", ADAM, None, resumes=True),
    Check("partial_rowwise_adam", PARTIAL, None, resumes=True),
    Check("uvm", tables(kernel="uvm"), resumes=True, kernel="fused_uvm"),
    Check("uvm_caching", CACHED, resumes=True, kernel="fused_uvm_caching"),
    Check("uvm_caching, prefetch", (*CACHED, "sharding.pipeline='prefetch'"), kernel="fused_uvm_caching"),
    Check("fp16 tables", tables(precision="fp16"), HALF, resumes=True),
    Check("pipeline sparse_dist", ("sharding.pipeline='sparse_dist'",), resumes=True),
    Check("pipeline semi_sync", ("sharding.pipeline='semi_sync'",), None),
    Check("dense bf16", ("train.dense='bf16'",), HALF, resumes=True),
    Check("compiled", ("train.compile=true",), resumes=True),
    *(
        Check(f"{way} as {kind}", (f"sharding.{way}='{kind}'", *tables(sharding="table_wise")), HALF)
        for way in ("forward", "backward")
        for kind in ("fp16", "bf16", "int8")
    ),
    Check(
        "adaftr, pwiser", ("model.alignment={kind='adaftr', num_negatives=64}", "model.pairwise={kind='pwiser'}"), None
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ranks", type=int, help="default: one a GPU, or 2 on CPU")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only the checks whose names have one of these")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each of the 26 tables of the last check")
    parser.add_argument("--profile", default="h100", help="the device of dist-mtl plan to compare memory with")
    options = parser.parse_args()
    gpus = len(_run("nvidia-smi", "--list-gpus").splitlines())
    if options.device == "cuda" and not gpus:
        print("make gpu-check: no GPU here (nvidia-smi lists none), so nothing was checked", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    ranks = options.ranks or (gpus if options.device == "cuda" else 2)
    with tempfile.TemporaryDirectory() as folder:
        failed = check(Path(folder), options, ranks)
    sys.exit(1 if failed else 0)


def check(folder: Path, options: argparse.Namespace, ranks: int) -> int:
    """Do all checks and print the table; how many have failed."""
    small = config_of(folder / "small", options.device, 5_000, 4, 2, 256)
    oracle = at_work("the CPU", small | {"run": small["run"] | {"device": "cpu"}}, 1)
    device = at_work("the device", small, ranks)
    failed = 0
    print(f"{ranks} rank(s) on {options.device}; losses of {STEPS} steps beside one CPU rank's\n")
    print("| check | result | |\n|---|---|---|", flush=True)
    try:
        reference = ask(oracle, "losses", ())["found"]["losses"]
        oracle.close()
        plain = ask(device, "losses", ()).get("found", {}).get("losses")
        for one in CHECKS:
            if options.only and not any(word in one.name for word in options.only):
                continue
            told, good = judged(one, device, reference, plain, options.device == "cuda", ranks)
            failed += not good
            print(f"| {one.name} | {'ok' if good else '**FAILED**'} | {told} |", flush=True)
    finally:
        device.close()
    if not options.only or "speed" in options.only:
        for name, told in speed(folder, options, ranks).items():
            print(f"| {name} | measured | {told} |", flush=True)
    return failed


def judged(
    one: Check, device: Ranks, reference: list[float], plain: list[float] | None, on_gpu: bool, ranks: int
) -> tuple[str, bool]:
    """What became of a check, in words, and whether it is as it should be. On CPU an option may be refused, for all
    that are listed are to run on CUDA."""
    answer = ask(device, "losses", one.settings)
    if "refused" in answer:
        return f"refused: {answer['refused']}", not on_gpu
    if "failed" in answer:
        return answer["failed"], False
    losses, kernels = answer["found"]["losses"], answer["found"]["kernels"]
    if one.kernel is not None and kernels != [one.kernel]:
        return f"the plan has {', '.join(kernels)} and not {one.kernel}", False
    if one.tolerance == HALF and losses == plain:
        travels = "ward as" in one.name
        return ("not exercised: one rank sends nothing", True) if travels and ranks == 1 else ("not at work", False)
    if one.tolerance is None:
        head, tail = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
        told, good = f"mean loss {head:.4f} of the first 5 steps, {tail:.4f} of the last", tail < head
    else:
        worst = max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))
        told, good = f"losses within {worst:.1e} (allowed {one.tolerance:.0e})", worst <= one.tolerance
    if one.resumes:
        answer = ask(device, "resume", one.settings)
        resumed = str(answer.get("found", answer))
        told, good = f"{told}; resumed: {resumed}", good and resumed.startswith("0 of ")
    return told, good


def speed(folder: Path, options: argparse.Namespace, ranks: int) -> dict[str, str]:
    """The benchmark's model: figures by name."""
    on_gpu = options.device == "cuda"
    shape = Shape(rows=options.rows, batch=32_768 if on_gpu else 4096)
    tree = config_of(folder / "large", options.device, options.rows, shape.ids, shape.dense, shape.batch)
    device = at_work("the device", tree, ranks)
    try:
        answer = ask(device, "speed", ())
    finally:
        device.close()
    if "found" not in answer:
        return {"speed": str(answer)}
    found, config = answer["found"], parse(tree)
    pooled = shape.batch // ranks * shape.ids * shape.dim * 4
    lookup = 2 * pooled / found["lookup_seconds"]  # rows read, pooled vectors written
    told = {
        "rows/s": f"{shape.batch / found['seconds']:,.0f} ({1e3 * found['seconds']:.1f} ms a step of {shape.batch:,})",
        "lookup": f"{lookup / 1e9:,.1f} GB/s, {lookup / found['copy']:.0%} of a copy's {found['copy'] / 1e9:,.1f}",
        "products": f"{shape.flops_per_step / found['seconds'] / 1e12:.2f} TFLOP/s of the model's own",
        "parts, ms": ", ".join(f"{k.removesuffix('_seconds')} {1e3 * v:.2f}" for k, v in found.items() if "_s" in k),
    }
    if on_gpu:
        expected = predicted(config, options.profile, ranks)
        told["peak memory"] = f"{found['peak'] / 1e9:.2f} GB on rank 0, the plan {expected:.2f} of the fullest rank"
    return told


def predicted(config: Config, profile: str, ranks: int) -> float:
    """GB of HBM that the plan expects of the fullest rank, without the process itself, which torch does not count."""
    name, one = load_profile(profile, None, None, None)
    return outlook(config, Cluster(name, one, 1, ranks)).most("hbm") - one.process_device_gb


def config_of(folder: Path, device: str, rows: int, ids: int, dense: int, batch: int) -> dict[str, Any]:
    """The benchmark's shape in this size as a configuration, with its logs."""
    shape = Shape(rows=rows, ids=ids, dense=dense, batch=batch)
    write_logs(BenchmarkLogs(rows_per_table=rows, ids=ids, dense=dense), folder / "train", 32 * batch, "train")
    tree = shape.config(str(folder)).model_dump(mode="json")
    tree["run"] |= {"watchdog": False, "device": device, "dir": str(folder / "run")}
    return tree


def at_work(label: str, tree: dict[str, Any], ranks: int) -> Ranks:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.figures.check_rank", json.dumps(tree)]
    return Ranks(label, command, ranks, 1)


def ask(ranks: Ranks, what: str, settings: tuple[str, ...]) -> dict[str, Any]:
    """The answer of all ranks, which must agree on whether there is one; its figures are the first rank's."""
    answers = [json.loads(a) for a in ranks.ask(json.dumps({"do": what, "set": settings, "steps": STEPS}))]
    for answer in answers:
        if "found" not in answer:
            return answer
    return answers[0] if what != "resume" else max(answers, key=lambda a: a["found"])


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    main()
