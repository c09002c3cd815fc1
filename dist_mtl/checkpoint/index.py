"""`index.json`: which file of a commit holds which block of which tensor. Every rank comes to the same one.

A commit is written by all ranks, each block once: a block that several ranks hold (replicated weights, groups of
replicas) goes to the one of them that has the fewest bytes to write so far.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter
from torch import Tensor

from dist_mtl.bounded import parse_json
from dist_mtl.checkpoint import durable_io
from dist_mtl.checkpoint.safetensors_io import NAMES, Archive
from dist_mtl.checkpoint.state_shards import Held, Part
from dist_mtl.errors import CheckpointError, DamagedCommitError, InternalError

INDEX = "index.json"
MAX_INDEX = 1 << 28  # bytes: 1.5 million blocks; parsed it takes 16 times as many
FILE = re.compile(r"rank-\d{5}\.safetensors")


@dataclass(frozen=True)
class Block:
    """A block of a tensor in a file: where it begins in the whole, and its shape."""

    file: str
    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """A tensor of a commit. Its blocks do not overlap, and leave nothing out."""

    dtype: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Index:
    """The tensors of a commit by name."""

    tensors: dict[str, Whole] = field(default_factory=dict)

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class Listing:
    """What one rank tells the others of a tensor that it holds."""

    dtype: str
    shape: tuple[int, ...]
    blocks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # offsets, sizes
    item_bytes: int


def file_of(rank: int) -> str:
    """The file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def listing(tensors: Mapping[str, Held]) -> dict[str, Listing]:
    """What this rank has, without the numbers."""
    return {
        name: Listing(
            NAMES[one.parts[0].tensor.dtype],
            one.shape,
            tuple((part.offsets, tuple(part.tensor.shape)) for part in one.parts),
            one.parts[0].tensor.element_size(),
        )
        for name, one in tensors.items()
        if one.parts
    }


def arrange(ranks: list[dict[str, Listing]]) -> Index:
    """Who writes what. Raises InternalError if the ranks do not hold the whole of a tensor, or in different forms."""
    load = [0] * len(ranks)
    found: dict[str, Whole] = {}
    for name in sorted(set().union(*ranks)):
        holders: dict[tuple, list[int]] = {}
        kinds = {(one.dtype, one.shape) for rank in ranks if (one := rank.get(name)) is not None}
        if len(kinds) > 1:
            raise InternalError(f"{name}: the ranks hold it in different forms, {sorted(kinds)}")
        for number, rank in enumerate(ranks):
            for block in rank[name].blocks if name in rank else ():
                holders.setdefault(block, []).append(number)
        [(dtype, shape)] = kinds
        if (held := sum(math.prod(sizes) for _, sizes in holders)) != math.prod(shape):
            raise InternalError(f"{name} of shape {shape}: the ranks hold {held} of its {math.prod(shape)} numbers")
        blocks = []
        for (offsets, sizes), numbers in sorted(holders.items()):
            writer = min(numbers, key=lambda number: (load[number], number))
            load[writer] += math.prod(sizes) * ranks[writer][name].item_bytes
            blocks.append(Block(file_of(writer), _key(name, offsets), offsets, sizes))
        found[name] = Whole(dtype, shape, tuple(blocks))
    return Index(found)


def _key(name: str, offsets: tuple[int, ...]) -> str:
    return f"{name}@{','.join(map(str, offsets))}" if any(offsets) else name


def to_write(index: Index, tensors: Mapping[str, Held], rank: int) -> dict[str, Tensor]:
    """Key -> tensor of what this rank writes."""
    mine = file_of(rank)
    return {
        block.key: part.tensor
        for name, whole in index.tensors.items()
        for block in whole.blocks
        if block.file == mine
        for part in tensors[name].parts
        if part.offsets == block.offsets
    }


def read_index(folder: Path) -> Index:
    """Raises DamagedCommitError: absent, or not an index."""
    path = folder / INDEX
    text = durable_io.read_text(path, MAX_INDEX)
    try:
        index = TypeAdapter(Index).validate_python(parse_json(text.encode()))
    except ValueError as error:
        raise DamagedCommitError(f"{path}: not an index: {str(error).splitlines()[0]}") from None
    for name, whole in index.tensors.items():
        for block in whole.blocks:
            if not FILE.fullmatch(block.file):
                raise DamagedCommitError(f"{path}: {name} is said to be in the file {block.file!r}")
            if not len(block.offsets) == len(block.sizes) == len(whole.shape):
                raise DamagedCommitError(f"{path}: a block of {name} has other dimensions than the tensor")
            if not all(0 <= o <= o + n <= w for o, n, w in zip(block.offsets, block.sizes, whole.shape, strict=True)):
                raise DamagedCommitError(f"{path}: a block of {name} lies outside of the tensor")
        if not are_apart([block for block in whole.blocks if all(block.sizes)], [*range(len(whole.shape))] * 2):
            raise DamagedCommitError(f"{path}: blocks of {name} overlap, so a part of it may be in none")
    return index


def are_apart(blocks: Sequence[Block], axes: Sequence[int]) -> bool:
    """Whether no two blocks share a number: along each axis in turn they are parted where none reaches across.

    Shards by rows, by columns, and columns whose rows are cut differently, are parted by going twice over the axes.
    """
    if len(blocks) < 2 or not axes:
        return len(blocks) < 2
    groups: list[list[Block]] = []
    stop = 0
    for block in sorted(blocks, key=lambda block: block.offsets[axes[0]]):
        if not groups or block.offsets[axes[0]] >= stop:
            groups.append([])
        groups[-1].append(block)
        stop = max(stop, block.offsets[axes[0]] + block.sizes[axes[0]])
    return all(are_apart(group, axes[1:]) for group in groups)


def fill(folder: Path, index: Index, tensors: Mapping[str, Held]) -> None:
    """Copy this rank's parts from a commit, of whatever ranks and plan. Raises CheckpointError: a tensor is missing, or
    has another shape or type; DamagedCommitError: the files do not hold what the index says."""
    archives: dict[str, Archive] = {}
    for name, one in tensors.items():
        if not one.parts:
            continue
        if (whole := index.tensors.get(name)) is None:
            raise CheckpointError(f"{folder}: can not be loaded into this model: it has no {name}")
        wanted = NAMES[one.parts[0].tensor.dtype], one.shape
        if (whole.dtype, whole.shape) != wanted:
            told = f"{name} is {whole.dtype} of shape {list(whole.shape)}, here {wanted[0]} of {list(one.shape)}"
            raise CheckpointError(f"{folder}: can not be loaded into this model: {told}")
        for part in one.parts:
            copied = sum(_copy(folder, block, part, archives) for block in whole.blocks)
            if copied != part.tensor.numel():
                raise DamagedCommitError(f"{folder / INDEX}: its blocks leave out a part of {name}, or overlap")


def _copy(folder: Path, block: Block, part: Part, archives: dict[str, Archive]) -> int:
    """The numbers that a block and a part share, from the one to the other; how many they are."""
    ours, theirs = [], []
    for start, size, first, length in zip(part.offsets, part.tensor.shape, block.offsets, block.sizes, strict=True):
        low, high = max(start, first), min(start + size, first + length)
        if low >= high:
            return 0
        ours.append(slice(low - start, high - start))
        theirs.append(slice(low - first, high - first))
    if block.file not in archives:
        archives[block.file] = Archive.of(folder / block.file)
    source = archives[block.file].tensor(block.key)
    if tuple(source.shape) != block.sizes:
        raise DamagedCommitError(f"{folder / block.file}: {block.key} is not of the shape that the index tells")
    target = part.tensor[tuple(ours)]
    target.copy_(source[tuple(theirs)])
    return target.numel()
