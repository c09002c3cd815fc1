"""A commit in the making: stage -> fsync -> verify -> one rename -> let old ones go. Before the rename it is none.

Every rank writes its own file into a hidden folder and reads it back. Then the first rank writes the rest, has the
folder on the disk, and renames it. A kill at any moment leaves the old commits and a hidden folder, which the next
commit removes.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import OutOfMemoryError, Tensor

from dist_mtl.checkpoint import durable_io, safetensors_io
from dist_mtl.checkpoint.format import NAME, Commit, name_of, read
from dist_mtl.checkpoint.index import INDEX, Index, arrange, file_of, listing, to_write
from dist_mtl.checkpoint.state_shards import Held
from dist_mtl.errors import CheckpointError, DamagedCommitError, NonFiniteError
from dist_mtl.parallel.runtime import Runtime

STEP = re.compile(r"step-(\d{10})")
HIDDEN = (".staged-*", ".old-*")
WEIGHTS = "model/"
NEAR = 1 << 18  # numbers looked at together
# torch's CPU allocator has a RuntimeError for it, and so have pinned buffers. `memory` alone is said of an illegal
# access on CUDA, too.
LACKING = ("can't allocate memory", "not enough memory", "out of memory")


def complete(root: Path) -> list[Path]:
    """The commits of a run, oldest first: what was renamed. Whether their bytes are still good is another question."""
    return sorted(path for path in root.glob("step-*") if STEP.fullmatch(path.name) and path.is_dir())


@dataclass(frozen=True)
class Staging:
    """What this rank has to write of a commit, and where. The tensors are the model's own, or copies of them."""

    root: Path
    step: int
    rank: int
    index: Index
    tensors: dict[str, Tensor]

    @property
    def folder(self) -> Path:
        """The hidden folder."""
        return self.root / f".staged-{self.step:010d}"

    def copied(self, room: dict[str, Tensor]) -> "Staging":
        """The same with copies, so that training can go on while they are written. `room`: the last commit's copies,
        which are overwritten, since memory that is new to the process takes three times as long to fill.
        Raises CheckpointError: there is not enough memory. No collective."""
        try:
            for key, tensor in self.tensors.items():
                if (old := room.get(key)) is None or (old.shape, old.dtype) != (tensor.shape, tensor.dtype):
                    room[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
                _copy(tensor, room[key])
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            room.clear()
            raise CheckpointError(
                f"step {self.step}: no copy could be made in memory: {str(error).splitlines()[0]}; "
                f"train.commit = 'blocking' needs none"
            ) from None
        return Staging(self.root, self.step, self.rank, self.index, {key: room[key] for key in self.tensors})

    def write(self) -> dict[str, str]:
        """Write this rank's file, read it back, and return its checksum by name. No collective.

        Raises NonFiniteError, before anything is written, if a weight is not finite: such a commit would only hide the
        last good one; CheckpointError: the disk refuses, or gives back other bytes.
        """
        for key, tensor in self.tensors.items():
            if key.startswith(WEIGHTS) and not _all_finite(tensor):
                raise NonFiniteError(
                    f"step {self.step}: {key.removeprefix(WEIGHTS)} is not finite, so it was not committed; lower the "
                    f"learning rates"
                )
        if not self.tensors:
            return {}
        path = self.folder / file_of(self.rank)
        try:
            stored = safetensors_io.save(path, self.tensors, {"format": "pt"})
        except OSError as error:
            raise _refused(error) from None
        return {path.name: stored.checksum}


def _is_lack_of_memory(error: Exception) -> bool:
    told = str(error).lower()
    return isinstance(error, MemoryError | OutOfMemoryError) or any(words in told for words in LACKING)


def _copy(source: Tensor, target: Tensor) -> None:
    """NumPy's copy is memcpy, which passes the caches by: 11.4 GB/s where torch's own makes 6.8 (260 MB, one core)."""
    if source.device.type == "cpu" and source.is_contiguous() and source.dtype != torch.bfloat16:
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)


def begin(root: Path, step: int, tensors: Mapping[str, Held], rt: Runtime) -> Staging:
    """Agree on who writes what, and make the hidden folder. Collective. Raises CheckpointError: the disk refuses."""
    told = rt.gather(listing(tensors))
    index = rt.all_ranks(lambda: arrange(told))
    staging = Staging(root, step, rt.rank, index, to_write(index, tensors, rt.rank))
    rt.from_first(lambda: _make(staging))
    return staging


def publish(staging: Staging, sums: dict[str, str], commit: Commit) -> Path:
    """Make a commit of what all ranks have written: the last that happens is the rename. First rank only.

    Raises CheckpointError: the disk refuses, or does not show the other ranks' files.
    """
    folder, target = staging.folder, staging.root / name_of(staging.step)
    missing = sorted(name for name in sums if not (folder / name).is_file())
    if missing:
        raise CheckpointError(
            f"{folder / missing[0]}: another node has written it, and it is not here: run.dir must be on a file system "
            f"that all nodes share"
        )
    try:
        texts = {INDEX: staging.index.text(), NAME: json.dumps(asdict(commit), indent=1) + "\n"}
        written = {name: durable_io.write_text(folder / name, text).checksum for name, text in texts.items()}
        durable_io.write_text(folder / durable_io.SUMS, durable_io.sums_text(sums | written))
        durable_io.sync_folder(folder)
        for name, wanted in written.items():
            durable_io.check_file(folder, name, wanted)
        if durable_io.read_sums(folder) != sums | written:
            raise DamagedCommitError(f"{folder / durable_io.SUMS}: the disk gave back other bytes than were written")
        if target.exists():  # to replace it would take two renames, and a kill between them would lose it
            raise CheckpointError(
                f"{target}: exists already; another process trains in this run.dir. End one of the two"
            )
        os.rename(folder, target)
    except OSError as error:
        raise _refused(error) from None
    return target


def settle(folder: Path, keep: int) -> list[str]:
    """After a rename: have it on the disk, and let all but the newest `keep` commits, and the best one that each of
    them names, go. First rank only. Returns warnings: the commit is there, whatever the disk refuses now."""
    root = folder.parent
    try:
        durable_io.sync_folder(root)
    except OSError as error:  # as long as a power cut may undo the rename, nothing older goes
        return [f"{folder}: complete, but its name may not be on the disk yet: {error.strerror}; older commits stay"]
    warnings = []
    found = complete(root)
    kept = {*found[-keep:], *(root / name_of(step) for step in _best_of(found[-keep:]))}
    for old in found:
        if old not in kept and (problem := _remove(old)):
            warnings.append(problem)
    return warnings


def _best_of(commits: list[Path]) -> Iterator[int]:
    for folder in commits:
        with suppress(CheckpointError):  # damaged: it will be told when it is to be loaded
            if (step := read(folder).selection.best_step) is not None:
                yield step


def discard(staging: Staging) -> None:
    """Remove what was staged, as far as the disk lets us: the next commit tries again. First rank only."""
    shutil.rmtree(staging.folder, ignore_errors=True)


def put_aside(root: Path) -> list[Path]:
    """The commits that were found damaged in earlier starts."""
    return sorted(root.glob("damaged-*"))


def set_aside(folder: Path) -> Path:
    """Give a damaged commit a name under which no run looks for one; its files stay for whoever wants to see them."""
    place = folder.with_name(f"damaged-{folder.name}")
    number = 1
    while place.exists():
        number += 1
        place = folder.with_name(f"damaged-{number}-{folder.name}")
    try:
        os.rename(folder, place)
    except OSError as error:
        raise _refused(error) from None
    return place


def _all_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in parts that stay in the cache."""
    return not tensor.is_floating_point() or all(bool(part.isfinite().all()) for part in tensor.reshape(-1).split(NEAR))


def _make(staging: Staging) -> None:
    """An empty hidden folder; what killed attempts left behind is removed as far as the disk lets us."""
    for pattern in HIDDEN:
        for old in staging.root.glob(pattern):
            shutil.rmtree(old, ignore_errors=True)
    try:
        staging.root.mkdir(exist_ok=True)  # never the run's folder itself: it was renamed where it is not there
        staging.folder.mkdir()
    except OSError as error:
        raise _refused(error) from None


def _remove(folder: Path) -> str | None:
    """Renamed first: a kill while files are being removed must not leave a commit with a part of them. What can not be
    removed now will be tried again before the next commit. Returns a warning if not even the name can be changed."""
    doomed = folder.with_name(f".old-{folder.name}")
    try:
        os.rename(folder, doomed)
    except OSError as error:
        return f"{folder}: an older commit, which can not be removed: {error.strerror}; remove it by hand"
    shutil.rmtree(doomed, ignore_errors=True)
    return None


def _refused(error: OSError) -> CheckpointError:
    return CheckpointError(f"{error.filename}: can not be written: {error.strerror}; older commits are intact")
