"""Every byte of a run's commits against its checksums, and a digest of what each holds, whatever ranks made it."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dist_mtl.checkpoint import durable_io, store
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint.index import Block, read_index
from dist_mtl.checkpoint.safetensors_io import Archive
from dist_mtl.checkpoint.staging import complete
from dist_mtl.data.hashing import key, mix
from dist_mtl.errors import CheckpointError, DamagedCommitError
from dist_mtl.observability.run_dir import check_outputs
from dist_mtl.terminal.printable import printable

ITEMS = 1 << 20  # numbers that are hashed at a time
BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}  # by bytes of a number


@dataclass(frozen=True)
class Verdict:
    """What was found of a commit. The digests are None if it is damaged."""

    folder: Path
    step: int
    num_bytes: int
    damage: str | None
    weights: str | None
    state: str | None  # weights, optimizers, dynamic ids, metric sums


def verify_run(run_dir: str | Path) -> list[Verdict]:
    """All commits, oldest first. Raises CheckpointError: there is none, or one is of a version that is not read;
    ConfigError: a link leads out of the run's folder."""
    check_outputs(run_dir)
    found = complete(Path(run_dir) / store.FOLDER)
    if not found:
        raise CheckpointError(f"{run_dir}: no commit in it; correct the path")
    verdicts = [verify(folder) for folder in found]
    return [one for one in verdicts if one.damage is None or one.folder.is_dir()]  # a run at work may let some go


def verify(folder: Path) -> Verdict:
    """One commit. Raises CheckpointError: of a version that is not read."""
    step, num_bytes = int(folder.name.removeprefix("step-")), 0
    try:
        num_bytes = sum(os.lstat(one).st_size for one in durable_io.entries(folder))
        store.verify_share(folder)
        commits.read_recalibration(folder)
        whole = digests(folder)
    except (DamagedCommitError, FileNotFoundError) as error:
        return Verdict(folder, step, num_bytes, str(error), None, None)
    weights = {name: digest for name, digest in whole.items() if name.startswith("model/")}
    return Verdict(folder, step, num_bytes, None, combined(weights), combined(whole))


def digests(folder: Path) -> dict[str, str]:
    """A digest of each tensor of a commit: of its type, its shape and its bits, not of how it is cut over files."""
    archives: dict[str, Archive] = {}
    found = {}
    for name, whole in read_index(folder).tensors.items():
        total = 0
        for block in whole.blocks:
            if block.file not in archives:
                archives[block.file] = Archive.of(folder / block.file)
            total += _sum(archives[block.file], block, whole.shape, np.uint64(key(name)))
        found[name] = f"{whole.dtype} {list(whole.shape)} {total % 2**64:016x}"
    return found


def combined(tensors: dict[str, str]) -> str:
    """One digest of several."""
    return durable_io.checksum(
        "\n".join(f"{name} {digest}" for name, digest in sorted(tensors.items())).encode()
    ).hexdigest()


def _sum(archive: Archive, block: Block, shape: tuple[int, ...], salt: np.uint64) -> int:
    """The sum of a hash of every number and its place in the whole: any cut into blocks gives the same, modulo 2^64."""
    tensor = archive.tensor(block.key)
    if tuple(tensor.shape) != block.sizes:
        raise DamagedCommitError(f"{archive.path}: {block.key} is not of the shape that the index tells")
    if not tensor.numel():
        return 0
    words = tensor.contiguous().view(BITS[tensor.element_size()]).numpy() if shape else _scalar(tensor)
    total, step = 0, max(1, ITEMS // max(1, math.prod(words.shape[1:])))
    for start in range(0, len(words), step):
        part = words[start : start + step]
        first = (block.offsets[0] + start, *block.offsets[1:]) if shape else (0,)
        place = _places(first, part.shape, shape or (1,))
        total += int(mix(part.astype(np.uint64) ^ mix(place + salt)).sum(dtype=np.uint64))
    return total


def _scalar(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(1).view(BITS[tensor.element_size()]).numpy()


def _places(offsets: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a block's elements in the whole, counted along its rows."""
    place, stride = np.zeros(sizes, np.uint64), 1
    for axis in range(len(shape) - 1, -1, -1):
        steps = np.arange(offsets[axis], offsets[axis] + sizes[axis], dtype=np.uint64) * np.uint64(stride)
        place += steps.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        stride *= shape[axis]
    return place


def tell(run_dir: str) -> int:
    """The verb `verify`: a line for each commit, and the exit code: 66 if one is damaged."""
    verdicts = verify_run(run_dir)
    for one in verdicts:
        size = f"{one.num_bytes / 1e6:,.1f} MB"
        if one.damage is None:
            print(f"step {one.step:,}  sound, {size}, weights {one.weights}, state {one.state}")
        else:
            print(f"step {one.step:,}  DAMAGED, {size}: {printable(one.damage)}")
    return CheckpointError.exit_code if any(one.damage for one in verdicts) else 0
