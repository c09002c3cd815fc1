"""`Rows` -> `Batch`: what one rank trains in one step."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_mtl.data.encode import NO_ID, Encoder, Rows
from dist_mtl.data.order import EMPTY


@dataclass(frozen=True)
class Carried:
    """Columns that travel with a batch to be scored: its rows without the padding, as they stand in the dataset."""

    first_row: int  # number of the first row in the dataset
    num_rows: int
    table: pa.Table


@dataclass(frozen=True)
class Batch:
    """B impressions of global step `step`; slot i of the global batch is row i - slots[0] here.

    `ids`: features in the encoder's order (single ids, then bags). A padding row has weight 0, no id and labels 0.
    """

    step: int
    slots_B: Tensor  # int64, this rank's places in the global batch
    ids: KeyedJaggedTensor
    dense_BD: Tensor  # float32
    labels_BT: Tensor  # float32, 0 or 1
    weight_B: Tensor  # float32
    dropped: int  # rows of weight 0 because they broke the funnel
    clamped: int  # ids that the policy `clamp` moved
    carried: Carried | None = None  # in scoring only

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; itself when it is there already."""
        if self.dense_BD.device == device:
            return self
        parts = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return replace(self, **parts)


_TENSORS = ("slots_B", "ids", "dense_BD", "labels_BT", "weight_B")


def collate(encoder: Encoder, rows: Rows, picks: np.ndarray, step: int, first_slot: int) -> Batch:
    """The rows at `picks` (EMPTY: a padding row) as a batch. Vectorised: about 1 ms for 4,096 rows of 26 ids."""
    count = len(picks)
    index = np.where(picks == EMPTY, len(rows.weight_N) - 1, picks)
    values, lengths, weights = [], [], []
    if encoder.singles:
        ids = np.ascontiguousarray(rows.singles_NS[index].T)  # (S, B): the KeyedJaggedTensor is feature-major
        present = ids != NO_ID
        values.append(ids.reshape(-1) if present.all() else ids[present])
        lengths.append(present.reshape(-1).astype(np.int32))
        if encoder.weighted:
            weights.append(np.ones(len(values[0]), np.float32))
    for bag in rows.bags:
        starts = bag.offsets[index]
        sizes = bag.offsets[index + 1] - starts
        ends = np.cumsum(sizes)
        flat = np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)
        values.append(bag.values[flat])
        lengths.append(sizes.astype(np.int32))
        if encoder.weighted:
            weights.append(np.ones(len(flat), np.float32) if bag.weights is None else bag.weights[flat])
    kjt = KeyedJaggedTensor(
        keys=[*encoder.singles, *encoder.bags],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        weights=torch.from_numpy(np.concatenate(weights)) if encoder.weighted else None,
        stride=count,
    )
    return Batch(
        step=step,
        slots_B=torch.arange(first_slot, first_slot + count),
        ids=kjt,
        dense_BD=torch.from_numpy(rows.dense_ND[index]),
        labels_BT=torch.from_numpy(rows.labels_NT[index]),
        weight_B=torch.from_numpy(rows.weight_N[index]),
        dropped=int(rows.dropped_N[index].sum()),
        clamped=int(rows.clamped_N[index].sum()),
    )
