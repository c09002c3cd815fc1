"""The tables of a model whole on one device, only to look ids up: no process group, no shards, no optimizer.

By the same kernels as a sharded collection, so that the pooled embeddings are the same to the bit.
"""

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dist_mtl.config import TableConfig

LOCATIONS = {"uvm": EmbeddingLocation.MANAGED, "uvm_caching": EmbeddingLocation.MANAGED_CACHING}  # else on the device


class LocalTables(nn.Module):
    """Takes the place of an EmbeddingBagCollection; `weights` are to be filled. Call it without gradients."""

    def __init__(self, like: EmbeddingBagCollection, tables: dict[str, TableConfig], device: torch.device) -> None:
        super().__init__()
        self._described, self._weighted = like.embedding_bag_configs(), like.is_weighted()
        self._keys = [feature for table in self._described for feature in table.feature_names]
        self._lengths = [table.embedding_dim for table in self._described for _ in table.feature_names]
        # A plain list: how a kernel keeps its weights is not the names of a state dict.
        self._kernels = [_kernel(table, tables[table.name], device) for table in self._described]

    @property
    def weights(self) -> dict[str, Tensor]:
        """(rows, dim) by table, sharing the kernels' memory."""
        kernels = zip(self._described, self._kernels, strict=True)
        return {table.name: kernel.split_embedding_weights()[0] for table, kernel in kernels}

    def forward(self, ids: KeyedJaggedTensor) -> KeyedTensor:
        by_feature = ids.to_dict()
        pooled = []
        for table, kernel in zip(self._described, self._kernels, strict=True):
            mine = [by_feature[feature] for feature in table.feature_names]
            values = torch.cat([one.values() for one in mine])
            lengths = torch.cat([one.lengths() for one in mine])
            offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths.long())
            weights = torch.cat([one.weights() for one in mine]) if self._weighted else None
            pooled.append(kernel(values, offsets, weights))
        return KeyedTensor(self._keys, self._lengths, torch.cat(pooled, dim=1))


def _kernel(
    table: EmbeddingBagConfig, spec: TableConfig, device: torch.device
) -> SplitTableBatchedEmbeddingBagsCodegen:
    is_cuda = device.type == "cuda"
    location = LOCATIONS.get(spec.kernel, EmbeddingLocation.DEVICE) if is_cuda else EmbeddingLocation.HOST
    compute = ComputeDevice.CUDA if is_cuda else ComputeDevice.CPU
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(table.num_embeddings, table.embedding_dim, location, compute)],
        feature_table_map=[0] * len(table.feature_names),
        pooling_mode=PoolingMode.MEAN if table.pooling == PoolingType.MEAN else PoolingMode.SUM,
        weights_precision=SparseType.FP16 if table.data_type == DataType.FP16 else SparseType.FP32,
        output_dtype=SparseType.FP32,
        optimizer=EmbOptimType.EXACT_SGD,  # the one without a state
        device=device,
    )
