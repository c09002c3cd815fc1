"""Memory that dist-mtl plan predicts, beside what the ranks of a real run have: three configurations on 2 and 4 ranks.

    python -m benchmarks.figures.plan_memory

Each case is `torchrun launch/train.py` over gloo, looked at through /proc. Prints the table of docs/scaling.md; exits 1
if a prediction is off by more than 10 %, or a rank under a row-wise plan ever had more than its share of the table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dist_mtl.config.file import parse
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import Outlook, outlook
from dist_mtl.tools.study.overrides import toml
from tests.support.harness import ROOT, events

ROWS, BATCH, STEPS = 200_000, 4_096, 60
TOLERANCE = 0.10
SETTLED = 10  # steps until the loader's threads and the allocator have their pools


@dataclass(frozen=True)
class Case:
    """A configuration; `rows_wise` if every table of any size is split by rows."""

    name: str
    tables: dict[str, dict[str, Any]]
    settings: tuple[str, ...] = ()
    row_wise: bool = False


CASES = (
    Case(
        "16 tables, table-wise", {f"t{i}": {"rows": 200_000, "dim": 128, "sharding": "table_wise"} for i in range(16)}
    ),
    Case("one table, row-wise", {"t0": {"rows": 4_000_000, "dim": 96, "sharding": "row_wise"}}, row_wise=True),
    Case(
        "mixed, adagrad, wide towers",
        {
            "t0": {"rows": 1_000_000, "dim": 128, "sharding": "row_wise"},
            **{f"t{i}": {"rows": 150_000, "dim": 64, "sharding": "table_wise"} for i in range(1, 9)},
        },
        (
            "optim.embedding={kind='adagrad', lr=0.01}",
            "model.backbone={kind='shared_bottom', hidden=[2048, 2048]}",
            "model.tower=[1024]",
        ),
    ),
)
NOTHING = Case("the smallest tables", {"t0": {"rows": 64, "dim": 4, "sharding": "table_wise"}})


@dataclass(frozen=True)
class Seen:
    """Bytes of each rank: resident during training (the most of all looks), its share of the machine, its peak ever."""

    resident: list[int]
    proportional: list[int]
    peak: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_logs(folder / "train", 16)
        bases = {ranks: measure(tree(folder, NOTHING), folder / f"base-{ranks}", ranks) for ranks in options.ranks}
        wrong = 0
        print("| configuration | ranks | predicted, MB | resident, MB | off by | without the process base | peak, MB |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for case in CASES:
            for ranks in options.ranks:
                name = f"{case.name}-{ranks}".replace(" ", "_").replace(",", "")
                seen = measure(tree(folder, case), folder / name, ranks)
                expected, small = (predicted(tree(folder, one), ranks) for one in (case, NOTHING))
                wrong += judged(case, expected, small, seen, bases[ranks])
    for ranks, base in bases.items():
        print(f"Process base, with next to no table: {max(base.resident) / 1e6:.0f} MB resident on {ranks} ranks,")
        print(f"{max(base.proportional) / 1e6:.0f} MB if pages that ranks share are shared out.")
    sys.exit(bool(wrong))


def write_logs(folder: Path, columns: int) -> None:
    """Impressions with ids from all over the tables, so that every page of a table and of its states is touched."""
    draw = np.random.default_rng(3)
    table = {f"t{i}": draw.integers(0, 2**40, ROWS) for i in range(columns)}
    click = draw.random(ROWS) < 0.2
    labels = {"click": click.astype(np.int8), "conversion": (click & (draw.random(ROWS) < 0.3)).astype(np.int8)}
    write_dataset(folder, [pa.table(table | labels)], file_rows=ROWS // 2, row_group_rows=16_384)


def tree(folder: Path, case: Case) -> dict[str, Any]:
    """The configuration of a case, as TOML would have it."""
    made = {
        "run": {"dir": str(folder / "run"), "device": "cpu"},
        "data": {"train": str(folder / "train"), "shuffle_rows": 65_536},
        "tables": case.tables,
        "features": {name: {"kind": "id"} for name in case.tables},
        "train": {"global_batch": BATCH, "epochs": 10, "max_steps": STEPS, "log_every": 5, "checkpoint_every": 10**6},
    }
    return json.loads(parse(made, case.settings).model_dump_json(exclude_none=True))


def predicted(made: dict[str, Any], ranks: int) -> Outlook:
    name, profile = load_profile("cpu", None, None, 64.0)
    return outlook(parse(made), Cluster(name, profile, 1, ranks))


def measure(made: dict[str, Any], place: Path, ranks: int) -> Seen:
    """Train it and look at the ranks all the time; `resident` from step SETTLED until the final commit begins."""
    place.mkdir()
    run = place / "run"
    tables = parse(made, [f"run.dir={run}"]).model_dump(mode="json", exclude_none=True)
    (place / "config.toml").write_text("".join(f"{key} = {toml(value)}\n" for key, value in tables.items()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = place / "log"
    with log.open("w") as file:
        agent = subprocess.Popen(
            [*command, str(ROOT / "launch/train.py"), str(place / "config.toml")],
            env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        looks = watch(agent, run)
    if agent.wait() != 0:
        sys.exit(f"the run has failed: {log.read_text()[-2000:]}")
    settled = [look for step, look in looks if SETTLED <= step < STEPS]
    if not settled:
        sys.exit(f"{place.name}: not one look between step {SETTLED} and {STEPS}; take more steps")
    shutil.rmtree(run)
    every = [look for _, look in looks]
    return Seen(*([max(look[rank][what] for look in among) for rank in range(ranks)]
                  for what, among in ((0, settled), (1, settled), (2, every))))  # fmt: skip


def watch(agent: subprocess.Popen, run: Path) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """(last step told, what each rank has) as often as it can be read, until the run is over."""
    looks, ranks = [], 0
    while agent.poll() is None:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        step = max((e["step"] for e in events(run, "step")), default=0)
        try:
            look = [held(int(pid)) for pid in children]
        except (OSError, ValueError):  # a rank has come or gone between two reads
            look = []
        ranks = max(ranks, len(look))
        if look and len(look) == ranks:
            looks.append((step, look))
        time.sleep(0.1)
    return [(step, look) for step, look in looks if len(look) == ranks]


def held(pid: int) -> tuple[int, int, int]:
    """Resident, proportional and peak bytes of a process."""
    status, rollup = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "smaps_rollup"))
    lines = dict(line.split(":", 1) for line in (status + rollup).splitlines() if ":" in line)
    return tuple(int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "Pss", "VmHWM"))


def judged(case: Case, expected: Outlook, predicted_small: Outlook, seen: Seen, base: Seen) -> int:
    """A row of the table; 1 if the prediction, or the peak under a row-wise plan, is off by more than TOLERANCE."""
    wrong, cells = 0, []
    process = expected.memory[0].host["process"]
    small = predicted_small.memory[0].total("host") - process  # what the base's run has beside the process itself
    for rank, memory in enumerate(expected.memory):
        total, found = memory.total("host"), seen.resident[rank]
        off, alone = total / found - 1, (total - process) / (found - base.resident[rank] + small) - 1
        wrong |= abs(off) > TOLERANCE
        cells.append((abs(off), off, alone, total, found, seen.peak[rank]))
        if case.row_wise:
            share = memory.host["table weights"] + memory.host["optimizer states"] + base.resident[rank]
            for what in (found, seen.peak[rank]):
                wrong |= what > (1 + TOLERANCE) * share
    _, off, alone, total, found, peak = max(cells)
    print(
        f"| {case.name} | {len(cells)} | {total / 1e6:,.0f} | {found / 1e6:,.0f} | {off:+.1%} | {alone:+.1%} "
        f"| {peak / 1e6:,.0f} |",
        flush=True,
    )
    return int(wrong)


if __name__ == "__main__":
    main()
