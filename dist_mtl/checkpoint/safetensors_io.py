"""One file of tensors in the safetensors format: a header of JSON, then the numbers. Nothing in it can run.

Written in pieces of 16 MiB straight from the tensors' own memory, with the checksum taken on the way; read through a
memory map, so that a rank touches the rows that it needs and no others. https://github.com/huggingface/safetensors
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_mtl.bounded import parse_json
from dist_mtl.checkpoint.durable_io import CHUNK, Stored, checksum, create, measure, regular, syncing, write
from dist_mtl.errors import CheckpointError, DamagedCommitError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_AXES = 16  # dimensions of a tensor; ours have 5 at most
MAX_HEADER = 100_000_000  # bytes; the format's own bound, so that a bad length can not ask for all the memory


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Stored:
    """Write a file that must not exist, read it back, and have it on the disk when this returns.

    It is read from the kernel's memory: that finds what went wrong on the way there, and not what a medium does. Raises
    OSError; CheckpointError: other bytes came back.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    stop = 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    found, size = checksum(), 8 + len(text) + stop
    with create(path) as file:
        for block in (len(text).to_bytes(8, "little") + text, *_blocks(tensors.values())):
            found.update(block)
            write(file, block)
        with syncing(file):
            back = measure(path)
    if back != (stored := Stored(size, found.hexdigest())):
        raise CheckpointError(f"{path}: the disk gave back other bytes than were written; older commits are intact")
    return stored


def _blocks(tensors: Iterator[Tensor]) -> Iterator[memoryview]:
    for tensor in tensors:
        flat = tensor.reshape(-1)
        step = max(1, CHUNK // tensor.element_size())
        for start in range(0, len(flat), step):  # only so much of a GPU's table is copied at a time
            yield memoryview(flat[start : start + step].cpu().view(torch.uint8).numpy())


@dataclass(frozen=True)
class Archive:
    """A file that was opened: its tensors by name, none of them read yet."""

    path: Path
    header: dict[str, dict[str, Any]]
    start: int

    @classmethod
    def of(cls, path: Path) -> "Archive":
        """Raises DamagedCommitError: absent, no regular file, or not in the format."""
        with regular(path) as file:
            size = os.fstat(file).st_size
            length = int.from_bytes(os.pread(file, 8, 0), "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise DamagedCommitError(f"{path}: not a file of tensors: its header is said to have {length:,} bytes")
            try:
                header = parse_json(os.pread(file, length, 8))
                header.pop("__metadata__", None)
                for name, entry in header.items():
                    _check(path, name, entry, size - 8 - length)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DamagedCommitError(f"{path}: not a file of tensors: {error}") from None
        return cls(path, header, 8 + length)

    def tensor(self, name: str) -> Tensor:
        """A tensor in the memory of the map: what is written to it stays here. Raises DamagedCommitError."""
        if (entry := self.header.get(name)) is None:
            raise DamagedCommitError(f"{self.path}: has no tensor {name}")
        dtype, shape, (start, stop) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if start == stop:
            return torch.empty(shape, dtype=dtype)
        bytes_N = np.memmap(self.path, np.uint8, "c", self.start + start, (stop - start,))
        return torch.from_numpy(bytes_N).view(dtype).view(shape)


def _check(path: Path, name: str, entry: dict[str, Any], room: int) -> None:
    """Raises DamagedCommitError if a tensor is not where it is said to be, KeyError and the like if nothing is said."""
    start, stop = entry["data_offsets"]
    count, axes = 1, entry["shape"]
    if len(axes) > MAX_AXES or not all(isinstance(length, int) and length >= 0 for length in axes):
        raise DamagedCommitError(f"{path}: {name} has the shape {str(axes)[:80]}")
    for length in axes:
        count *= length
    if not 0 <= start <= stop <= room or stop - start != count * DTYPES[entry["dtype"]].itemsize:
        raise DamagedCommitError(f"{path}: {name} of shape {entry['shape']} does not fit into bytes {start} to {stop}")
