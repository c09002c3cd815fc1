"""What a commit costs, with its checksums and without; and what training waits for one in the background.

    python -m benchmarks.figures.commit_cost --rows 1000000 --rounds 9

One rank, one table of rows x 64 and its optimizer state; the kinds in turn within each round; ratios are medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_mtl.build import build
from dist_mtl.checkpoint import safetensors_io, staging, store
from dist_mtl.checkpoint.durable_io import Stored
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.parallel.runtime import Runtime, runtime
from tests.support import samples


@dataclass
class NoChecksum:
    """Takes everything for nothing."""

    size: int = 0

    def update(self, _: Any) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        return "0" * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        samples.write_logs(folder / "train", 100)
        config = parse(
            samples.tree(folder, "table_wise"),
            [f"run.dir='{folder / 'run'}'", f"tables.user.rows={options.rows}", "tables.user.dim=64"],
        )
        with runtime(config.run) as rt:
            measure(config, rt, options.rounds)


def measure(config: Config, rt: Runtime, rounds: int) -> None:
    model = build(config, rt, 100)
    model.materialise_states()
    real = safetensors_io.checksum, safetensors_io.measure
    seconds: dict[str, list[float]] = {name: [] for name in ("commit", "no checksums", "not read back", "copy")}
    step, room = 0, {}
    for _ in range(rounds):
        for name, found in seconds.items():
            step += 1
            safetensors_io.checksum = NoChecksum if name == "no checksums" else real[0]
            safetensors_io.measure = unread if name in ("no checksums", "not read back") else real[1]
            staged = store.stage(model, Progress(step), {}, config, rt)
            started = time.perf_counter()
            if name == "copy":
                staged.copied(room)
                found.append(time.perf_counter() - started)
                staging.discard(staged)
            else:
                staged.write()
                found.append(time.perf_counter() - started)
                staging.discard(staged)
    safetensors_io.checksum, safetensors_io.measure = real
    size = sum(t.nbytes for t in staged.tensors.values()) / 1e6
    print(f"{size:,.0f} MB, {rounds} rounds, middle values")
    print("| | ms | times a whole commit |\n|---|---|---|")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, seconds["commit"], strict=True))
        print(f"| {name} | {statistics.median(found) * 1e3:.0f} | {ratio:.3f} |")


def unread(path: Path) -> Stored:
    """As if the file had been read back and found to be as it should."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length))
    return UNREAD


class _Same(Stored):
    """Equal to everything."""

    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = None


UNREAD = _Same(0, "")


if __name__ == "__main__":
    main()
