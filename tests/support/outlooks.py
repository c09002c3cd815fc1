"""Small configurations on clusters that are not there, and what their outlooks tell."""

import os
from pathlib import Path
from typing import Any

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.plan_bytes import MAX_BYTES
from dist_mtl.tools.planning.device import Cluster, load_profile
from dist_mtl.tools.planning.estimate import Outlook


def config(tables: dict[str, dict[str, Any]], *settings: str) -> Config:
    """A configuration of these tables, one id each, without data."""
    tree = {
        "run": {"dir": "runs/none"},
        "data": {"train": "data/none"},
        "tables": tables,
        "features": {name: {"kind": "id"} for name in tables},
        "train": {"global_batch": 4096},
    }
    return parse(tree, settings)


def cluster(nodes: int = 1, gpus: int = 4, device: str = "h100", **sizes: float) -> Cluster:
    name, profile = load_profile(device, None, sizes.get("hbm_gb"), sizes.get("host_gb"))
    return Cluster(name, profile, nodes, gpus)


def amounts(found: Outlook, place: str, part: str) -> list[float]:
    """Bytes of one part, by rank."""
    return [getattr(one, place).get(part, 0.0) for one in found.memory]


def seconds(found: Outlook) -> dict[str, float]:
    """Of each part of a step."""
    return {part.name: part.seconds for part in found.parts}


def hidden(found: Outlook) -> dict[str, float]:
    """The same, as far as they hide behind others; only what does."""
    return {part.name: part.hidden for part in found.parts if part.hidden}


LARGE = {f"t{i}": {"rows": 100_000_000, "dim": 128, "kernel": "fused"} for i in range(8)}  # 410 GB; 4 GPUs may fill 272


def no_plans(folder: Path) -> list[tuple[Path, str]]:
    """What must not be waited for, or read for ever, and the words of why: a pipe without a writer, a device without an
    end, a file larger than any plan."""
    os.mkfifo(folder / "pipe")
    with open(folder / "large", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: it takes no disk
    return [(folder / "pipe", "no regular"), (Path("/dev/zero"), "no regular"), (folder / "large", "at most")]
