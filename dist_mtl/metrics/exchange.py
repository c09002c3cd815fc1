"""Group metrics over ranks: each row travels to the one rank that owns its group, in bounded memory.

A group's owner is a hash of its key. An owner keeps `rows_in_memory` rows, 8 * (1 + tasks) bytes each, and spills
beyond that to disk, in BUCKETS by another part of the hash; the metrics are then computed bucket by bucket. So memory
is bounded by the larger of `rows_in_memory` and the largest bucket (1/256 of the owner's rows, or one larger group: a
group can not be split), plus the rows of `calls_per_exchange` updates of all ranks, should one rank own them all.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dist_mtl.data.hashing import GOLDEN, mix
from dist_mtl.errors import DataError, DistMtlError, InternalError, NonFiniteError
from dist_mtl.metrics.grouped import (
    GroupMetrics,
    GroupSums,
    group_metrics,
    group_sums,
    row_weights,
    values_of_numbered,
)
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.terminal.wording import plural

T = TypeVar("T")
Array = np.ndarray | torch.Tensor

ROWS_IN_MEMORY = 1 << 22  # of three tasks 134 MB, and 0.6 GB at the peak, while they are sorted
CALLS_PER_EXCHANGE = 16  # an exchange of few rows is all latency
BUCKETS = 256


class GroupedScores:
    """Collects rows of M tasks that share their groups' keys, and computes each task's GroupMetrics.

    Every rank makes the same calls. A fault of one rank (a full disk, a score that is not finite) is raised by all, at
    the next exchange. Closed after `compute` and after any agreed error. What is spilled goes into a file without a
    name in the folder `scratch`, or, where that can not be written to, in the system's for temporary files (TMPDIR).
    So the room is free again however the process ends, and no other evaluation is in the way.
    """

    def __init__(
        self,
        num_tasks: int,
        ndcg_at: tuple[int, ...],
        rt: Runtime,
        scratch: Path,
        rows_in_memory: int = ROWS_IN_MEMORY,
        calls_per_exchange: int = CALLS_PER_EXCHANGE,
    ) -> None:
        self._num_tasks, self._ndcg_at, self._rt = num_tasks, tuple(ndcg_at), rt
        self._calls_per_exchange, self._calls = calls_per_exchange, 0
        self._outgoing: list[np.ndarray] = []
        self._owned = _OwnedRows(1 + num_tasks, scratch, rows_in_memory, rt.size)
        self._fault: DistMtlError | None = None

    def __enter__(self) -> "GroupedScores":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all rows. No collective."""
        self._outgoing = []
        self._owned.close()

    def update(self, keys_B: Array, logits_BM: Array, labels_BM: Array, weights_BM: Array) -> None:
        """Add B rows (B may differ by call and rank): numpy, or tensors on the CPU. Every few calls a collective.

        Keys are int64. Logits and weights are taken as float32; a weight of 0 leaves a row out of a task.
        """
        self._try(lambda: self._outgoing.append(_pack(keys_B, logits_BM, labels_BM, weights_BM)))
        self._calls += 1
        if self._calls % self._calls_per_exchange == 0:
            self._exchange()

    def compute(self) -> list[GroupMetrics]:
        """The metrics of every task, the same bits on every rank and on any number of ranks. A collective."""
        try:
            self._exchange()
            sums = self._all_ranks(self._sums)
            limbs = torch.from_numpy(np.concatenate([one.limbs() for one in sums])).to(self._rt.device)
            totals_ML = self._rt.all_reduce(limbs).cpu().numpy().reshape(self._num_tasks, -1)
        finally:
            self.close()
        return [group_metrics(GroupSums.from_limbs(total_L), self._ndcg_at) for total_L in totals_ML]

    def _sums(self) -> list[GroupSums]:
        self._raise_fault()
        sums = [GroupSums.zero(len(self._ndcg_at))] * self._num_tasks
        for rows_NC in self._owned.chunks():
            sums = [a + b for a, b in zip(sums, _sums_of(rows_NC, self._ndcg_at), strict=True)]
        return sums

    def _exchange(self) -> None:
        """Rows to their owners. All ranks are told of a fault first, so that none waits for one that has ended."""
        self._all_ranks(self._raise_fault)
        rows_NC = np.concatenate([np.empty((0, 1 + self._num_tasks), np.int64), *self._outgoing])
        self._outgoing = []
        world = self._rt.size
        if world > 1:
            rows_NC, counts_W = _split(rows_NC, (_hash(rows_NC[:, 0]) % np.uint64(world)).astype(np.int64), world)
            rows_NC = self._rt.all_to_all(torch.from_numpy(rows_NC), torch.from_numpy(counts_W)).cpu().numpy()
        self._try(lambda: self._owned.add(rows_NC))

    def _try(self, action: Callable[[], None]) -> None:
        """Keep the first error for the next exchange: to raise it here would leave the other ranks in a collective."""
        if self._fault is None:
            try:
                action()
            except DistMtlError as error:
                self._fault = error

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _all_ranks(self, action: Callable[[], T]) -> T:
        try:
            return self._rt.all_ranks(action)
        except DistMtlError:
            self.close()
            raise


class _OwnedRows:
    """The packed rows of the groups of this rank: in memory, or in a file once they were more than `limit`."""

    def __init__(self, columns: int, scratch: Path, limit: int, world: int) -> None:
        self._columns, self._scratch, self._limit, self._world = columns, Path(scratch), limit, world
        self._rows: list[np.ndarray] = []
        self._count = self._spilled = 0
        self._file: FileIO | None = None
        self._bounds: list[np.ndarray] = []  # of each spill: the row of the file where each bucket begins, and its end

    def add(self, rows_NC: np.ndarray) -> None:
        """Raises InternalError if they can not be written."""
        self._rows.append(rows_NC)
        self._count += len(rows_NC)
        if self._count > self._limit:
            self._spill()

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows, no group in two chunks."""
        if self._file is None:
            yield self._together()
            return
        self._spill()
        for bucket in range(BUCKETS):
            spans = [(int(bounds[bucket]), int(bounds[bucket + 1])) for bounds in self._bounds]
            rows_NC = np.empty((sum(stop - start for start, stop in spans), self._columns), np.int64)
            filled = 0
            for start, stop in spans:
                self._read(start, rows_NC[filled : filled + stop - start])
                filled += stop - start
            yield rows_NC

    def close(self) -> None:
        self._rows, self._count = [], 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _together(self) -> np.ndarray:
        rows_NC = np.concatenate([np.empty((0, self._columns), np.int64), *self._rows])
        self._rows, self._count = [], 0
        return rows_NC

    def _spill(self) -> None:
        rows_NC = self._together()
        bucket_N = (_hash(rows_NC[:, 0]) // np.uint64(self._world) % np.uint64(BUCKETS)).astype(np.int64)
        rows_NC, counts = _split(rows_NC, bucket_N, BUCKETS)
        folder = self._scratch
        try:
            if not os.access(folder, os.W_OK):
                folder = Path(tempfile.gettempdir())
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=folder)
            left = _bytes(rows_NC)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise InternalError(
                f"{folder}: {rows_NC.nbytes:,} bytes of grouped scores could not be written ({error.strerror}); "
                f"make room there, or evaluate with fewer metrics.groups or on more ranks"
            ) from error
        self._bounds.append(self._spilled + np.concatenate([[0], np.cumsum(counts)]))
        self._spilled += len(rows_NC)

    def _read(self, start: int, rows_NC: np.ndarray) -> None:
        """Fill the rows with those from `start` on in the file."""
        left = _bytes(rows_NC)
        self._file.seek(start * 8 * self._columns)
        while left:
            count = self._file.readinto(left)
            if not count:
                raise InternalError(f"{self._scratch}: grouped scores that were written are gone; evaluate again")
            left = left[count:]


def _bytes(rows_NC: np.ndarray) -> memoryview:
    return memoryview(rows_NC.reshape(-1).view(np.uint8))


def _pack(keys_B: Array, logits_BM: Array, labels_BM: Array, weights_BM: Array) -> np.ndarray:
    """(B, 1 + M) int64: the key, and for each task the bits of its logit and of its weight, whose sign is the label.

    Rows without weight in any task (padding) are dropped.
    """
    weights_BM = np.asarray(weights_BM, np.float32)
    kept_B = (weights_BM != 0).any(axis=1)
    logits_BM, weights_BM = np.asarray(logits_BM, np.float32)[kept_B], weights_BM[kept_B]
    if bad := int((~np.isfinite(logits_BM)).sum()):
        raise NonFiniteError(
            f"{plural(bad, 'score of a group is', 'scores of groups are')} not finite; score with weights of "
            "an older commit"
        )
    if not ((weights_BM >= 0) & np.isfinite(weights_BM)).all():
        raise DataError(f"weights of {weights_BM.min()} .. {weights_BM.max()}: want finite ones >= 0; correct the data")
    rows_BC = np.empty((len(weights_BM), 1 + weights_BM.shape[1]), np.int64)
    rows_BC[:, 0] = np.asarray(keys_B, np.int64)[kept_B]
    halves_BH = rows_BC.view(np.float32)
    halves_BH[:, 2::2] = logits_BM
    halves_BH[:, 3::2] = np.where(np.asarray(labels_BM)[kept_B] != 0, -weights_BM, weights_BM)
    return rows_BC


def _sums_of(rows_NC: np.ndarray, ks: tuple[int, ...]) -> list[GroupSums]:
    """Each task's sums over the whole groups of these packed rows."""
    keys_G, group_N = np.unique(rows_NC[:, 0], return_inverse=True)
    halves_NH = rows_NC.view(np.float32)
    sums = []
    for task in range(1, rows_NC.shape[1]):
        logits_N, signed_N = halves_NH[:, 2 * task], halves_NH[:, 2 * task + 1]
        values = values_of_numbered(keys_G, group_N, logits_N, signed_N < 0, row_weights(np.abs(signed_N)), ks)
        sums.append(group_sums(values))
    return sums


def _hash(keys_N: np.ndarray) -> np.ndarray:
    """uint64; other keys than those of the tables' rows, whose `hash_ids` adds another salt."""
    return mix(keys_N.astype(np.uint64) + np.uint64(GOLDEN))


def _split(rows_NC: np.ndarray, part_N: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows in ascending order of their part, and how many there are of each."""
    return rows_NC[np.argsort(part_N)], np.bincount(part_N, minlength=parts)
