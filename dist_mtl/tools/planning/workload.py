"""What a configuration asks of a step, row by row: a function of the configuration alone, no data and no table needed.

The dense part is run once on the meta device, where a tensor has a shape and no memory: its FLOPs are counted, and the
bytes that its backward pass keeps.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from torchrec.distributed.planner.constants import UVM_CACHING_RATIO

from dist_mtl.config import AnyFeature, BagFeature, BucketFeature, Config
from dist_mtl.data.features.encode import Encoder
from dist_mtl.model.mtl import MultiTaskModel

PROBE_ROWS = 64  # costs are those of a row, times rows; the products above the embeddings are linear in them
BAG_IDS = 10  # assumed of a bag without max_length: its lengths are in the data


@dataclass(frozen=True)
class TableLoad:
    """A table, and what an impression asks of it."""

    rows: int
    dim: int
    element_bytes: int
    features: int  # pooled vectors of an impression
    ids: float  # of an impression, over all features
    cache_share: float

    def weight_bytes(self, rows: int, columns: int) -> int:
        return rows * columns * self.element_bytes


@dataclass(frozen=True)
class Workload:
    """The tables, and the costs of one impression above them."""

    tables: dict[str, TableLoad]
    ids: float
    pooled_columns: int
    dense_parameters: int
    flops: float  # forward and backward
    kept_bytes: float  # of activations, until the backward pass is through them
    encoded_bytes: float  # of a row in a shuffle window
    read_bytes: float  # of a row as Arrow has it
    notes: tuple[str, ...]  # what had to be assumed


def workload_of(config: Config, model: MultiTaskModel, bag_ids: float | None) -> Workload:
    """What `model`, whose tables are on the meta device, costs a row. `bag_ids`: ids of a bag, None: see the notes."""
    lengths = {name: _ids(feature, bag_ids) for name, feature in config.features.items()}
    flops, kept = _above_the_tables(model, config)
    tables = {
        name: TableLoad(
            rows=table.rows,
            dim=table.dim,
            element_bytes=table.element_bytes,
            features=sum(config.table_of(f) == name for f in config.features),
            ids=sum(lengths[f] for f in config.features if config.table_of(f) == name),
            cache_share=UVM_CACHING_RATIO if table.cache_share is None else table.cache_share,
        )
        for name, table in config.all_tables.items()
    }
    encoded, read = _row_bytes(config, lengths)
    return Workload(
        tables=tables,
        ids=sum(table.ids for table in tables.values()),
        pooled_columns=sum(model.embeddings.dims),
        dense_parameters=sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embeddings.")),
        flops=flops,
        kept_bytes=kept,
        encoded_bytes=encoded,
        read_bytes=read,
        notes=tuple(_notes(config, bag_ids)),
    )


def _ids(feature: AnyFeature, bag_ids: float | None) -> float:
    """Ids of an impression."""
    if feature.table_of("") is None:
        return 0
    if not isinstance(feature, BagFeature):
        return 1
    known = bag_ids or feature.max_length or BAG_IDS
    return min(known, feature.max_length or known)


def _above_the_tables(model: MultiTaskModel, config: Config) -> tuple[float, float]:
    """FLOPs of a row, forward and backward, and the bytes that the backward pass waits with."""
    parts = nn.ModuleList([model.interaction, model.backbone, model.towers]).to("meta")
    weights = {p.untyped_storage()._cdata for p in parts.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    pooled = torch.empty(PROBE_ROWS, sum(model.embeddings.dims), device="meta", requires_grad=True)
    dense = torch.empty(PROBE_ROWS, len(Encoder(config).dense), device="meta")
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            inputs = model.backbone(model.interaction(pooled, dense), None).by_task
            logits = [tower(task, None)[1] for tower, task in zip(model.towers, inputs, strict=True)]
        torch.stack(logits).sum().backward()
    return counter.get_total_flops() / PROBE_ROWS, sum(kept.values()) / PROBE_ROWS


def _row_bytes(config: Config, lengths: dict[str, float]) -> tuple[float, float]:
    """Of a row in a shuffle window: encoded, and as Arrow reads it (8 bytes a number or an id; strings are longer)."""
    encoder = Encoder(config)
    bags = sum(lengths[name] * (12 if encoder.weighted else 8) + 8 for name in encoder.bags)
    encoded = 8 * len(encoder.singles) + bags + 4 * len(encoder.dense) + 4 * len(config.data.labels) + 4 + 4 + 1
    return encoded, 8 * len(encoder.columns) + sum(8 * lengths[name] for name in encoder.bags)


def _notes(config: Config, bag_ids: float | None) -> list[str]:
    """What stands in the data only, and what the figures leave out."""
    notes = []
    open_bags = [n for n, f in config.features.items() if isinstance(f, BagFeature) and f.max_length is None]
    cut_bags = [n for n, f in config.features.items() if isinstance(f, BagFeature) and f.max_length is not None]
    if bag_ids is None and open_bags:
        notes.append(
            f"features.{', '.join(open_bags)}: how long the lists are is in the data; {BAG_IDS} ids are assumed, "
            f"say --bag-ids N"
        )
    if bag_ids is None and cut_bags:
        notes.append(f"features.{', '.join(cut_bags)}: every list is taken to be max_length long, say --bag-ids N")
    found = [n for n, f in config.features.items() if isinstance(f, BucketFeature) and not f.is_fitted]
    if found:
        notes.append(f"features.{', '.join(found)}: boundaries are found in the data; the most rows there can be count")
    model = config.model
    if (model.alignment.kind, model.pairwise.kind, model.balance) != ("off", "off", "fixed"):
        notes.append(
            "model.alignment, pairwise and balance add to a training step what docs/methods.md tells; not here"
        )
    if any(table.dynamic is not None for table in config.tables.values()):
        notes.append("dynamic tables: the exchange of their keys, and the map of their ids on the host, are left out")
    if any(t.kernel == "uvm_caching" for t in config.tables.values()):
        notes.append(
            "uvm_caching: ids are taken to be equally frequent, so that the cache serves `cache_share` of them; "
            "skewed ids are served better"
        )
    if config.train.compile:
        notes.append("train.compile: fused kernels move fewer bytes than counted here")
    return notes
