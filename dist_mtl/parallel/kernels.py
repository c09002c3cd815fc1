"""FBGEMM's lookup kernels of a sharded model: their count of steps, their caches, and the bits they travel in."""

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.types import QuantizedCommCodecs

from dist_mtl.config.sharding import ShardingConfig
from dist_mtl.data.hashing import signed_key
from dist_mtl.model.embedding import PooledEmbeddings

COUNTING = (EmbOptimType.ADAM, EmbOptimType.PARTIAL_ROWWISE_ADAM)  # whose kernels count a step when they look ids up


class Kernels:
    """Those of a module on this rank. TorchRec keeps them in a plain list, where `module.modules()` does not look."""

    def __init__(self, module: nn.Module, seed: int, rank: int) -> None:
        lookups = [
            lookup
            for pooled in module.modules()
            if isinstance(pooled, PooledEmbeddings)
            for lookup in getattr(pooled.collection, "_lookups", ())
        ]
        self.all = [
            kernel
            for lookup in lookups
            for kernel in lookup.modules()
            if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen)
        ]
        self._counting = [kernel for kernel in self.all if kernel.optimizer in COUNTING]

        halves = [kernel for kernel in self.all if kernel.weights_precision == SparseType.FP16]
        self._rounds = any(not kernel.use_cpu for kernel in halves)  # at random; FBGEMM's CPU kernels to the nearest
        self._seed, self._rank = seed, rank

    def begin(self, step: int, applied: int) -> None:
        """Before a lookup that is trained: global step `step`, of which `applied` others before have changed weights.

        What a kernel keeps beside the weights is in no commit, so it is made a function of the step: Adam's count,
        to which each lookup adds one, those of an evaluation too; and the draws of stochastic rounding, which come
        from CUDA's generator (nothing else here draws from it).
        """
        for kernel in self._counting:
            kernel.iter.fill_(applied)
            kernel.iter_cpu.fill_(applied)
        if self._rounds:
            torch.cuda.manual_seed(signed_key(self._seed, step, f"rounding of rank {self._rank}"))

    def flush(self) -> None:
        """Write what is newer in a cache to the table behind it, before the table is read. Written, never run."""
        for kernel in self.all:
            if not kernel.use_cpu:
                kernel.flush()

    def forget(self) -> None:
        """Empty the caches, after the tables behind them were written. Written, never run."""
        for kernel in self.all:
            if not kernel.use_cpu:
                kernel.reset_cache_states()


def codecs(sharding: ShardingConfig, device: torch.device, rows_per_rank: int) -> dict[str, QuantizedCommCodecs] | None:
    """What embeddings and their gradients are packed with on their way between ranks; None: they travel as they are.

    A gradient of a mean over R rows is about 1/R of what float16 is made for, so that it is scaled by about R (a power
    of two: exact) for the journey. FBGEMM clamps to the range of float16, so nothing becomes infinite on the way.
    """
    if (sharding.forward, sharding.backward) == ("fp32", "fp32"):
        return None
    packing = QCommsConfig(
        forward_precision=CommType(sharding.forward),
        backward_precision=CommType(sharding.backward),
        backward_loss_scale=float(1 << rows_per_rank.bit_length()) if sharding.backward == "fp16" else None,
    )
    return get_qcomm_codecs_registry(packing, device=device)
