"""Where the time of our training step goes: the profiler's operators in a few groups, beside the machine's floor."""

from collections import Counter

import torch

from benchmarks.speed.contenders import contender
from benchmarks.speed.hardware_limits import measure_floor
from benchmarks.speed.workload import Shape
from dist_mtl.parallel.runtime import runtime
from dist_mtl.terminal.wording import plural

STEPS = 10
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "embedding backward and update (FBGEMM)": ("fbgemm::split_embedding_backward",),
    "embedding forward (FBGEMM)": ("fbgemm::split_embedding_codegen_forward", "fbgemm::bounds_check"),
    "ReLU, forward and backward": ("aten::clamp_min", "aten::threshold_backward"),
    "copies and concatenations": ("aten::copy_", "aten::cat"),
    "dense optimizer": ("aten::_fused_adamw_",),
}


def profile(shape: Shape, folder: str, threads: int) -> str:
    """Profile `STEPS` steps of one process on batches in memory; the result as Markdown."""
    torch.set_num_threads(threads)
    with runtime(shape.config(folder).run) as rt:
        steps = contender("step", shape, folder, rt)
        steps(3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            steps(STEPS)
        spent = Counter()
        for event in found.key_averages():
            group = next((g for g, names in GROUPS.items() if event.key.startswith(names)), "everything else")
            spent[group] += event.self_cpu_time_total / 1e3 / STEPS
    total = sum(spent.values())
    lines = [f"| where ({plural(threads, 'thread')}) | ms/step | share |", "|---|---|---|"]
    lines += [f"| {group} | {ms:.1f} | {ms / total:.0%} |" for group, ms in spent.most_common()]
    floor = measure_floor(shape)
    products = 1e3 * shape.flops_per_step / floor.gemm_flops
    updates = 1e3 * floor.row_seconds * shape.batch * shape.ids
    lines += [
        "",
        f"Floor: {products:.0f} ms of products at {floor.gemm_flops / 1e9:.0f} GFLOP/s + "
        f"{updates:.0f} ms of random rows.",
    ]
    return "\n".join(lines)
