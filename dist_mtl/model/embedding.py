"""Embedding tables: the EmbeddingBagCollection, its initial values, and the hand-off of pooled embeddings."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dist_mtl.config import Config
from dist_mtl.data.hashing import signed_key

CHUNK = 1 << 16  # elements filled at a time: the int64 scratch then stays in the L2 cache


def tables_of(config: Config, weighted: bool) -> list[EmbeddingBagConfig]:
    """TorchRec's description of every table, with the features that are looked up in it.

    In a weighted collection means are weighted sums, with the weights scaled by the encoder: FBGEMM's own weighted mean
    is sum(w x) / n table-wise and sum(w x) / sum(w) row-wise, and its CPU gradient lacks the division (all measured).
    """
    users: dict[str, list[str]] = {}
    for feature in config.features:
        if (table := config.table_of(feature)) is not None:
            users.setdefault(table, []).append(feature)
    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=table.rows,
            data_type=DataType.FP16 if table.precision == "fp16" else DataType.FP32,
            embedding_dim=table.dim,
            feature_names=users[name],
            pooling=PoolingType.MEAN if table.pooling == "mean" and not weighted else PoolingType.SUM,
        )
        for name, table in config.all_tables.items()
    ]


class PooledEmbeddings(nn.Module):
    """Ids -> the pooled vectors side by side, (B, sum of dims), in the order of `features`.

    The order matters: a sharded collection returns its columns in an order that depends on the plan (measured: using
    `.values()` as they come trains silently wrong). One `split` and one `cat` give an order of our own; that is four
    times cheaper than `KTRegroupAsDict`, and its backward has no quadratic fill as that of `kt[key]` (both measured).
    """

    def __init__(self, config: Config, features: list[str], weighted: bool, device: torch.device) -> None:
        super().__init__()
        self.features = list(features)
        self.dims = tuple(config.all_tables[config.table_of(f)].dim for f in features)
        tables = tables_of(config, weighted)
        self.collection = EmbeddingBagCollection(tables=tables, is_weighted=weighted, device=device)
        self.prepared: Callable[[KeyedJaggedTensor], KeyedTensor | None] | None = None  # gives what is known early

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        pooled = None if self.prepared is None else self.prepared(ids)
        if pooled is None:
            pooled = self.collection(ids)
        keys, values = pooled.keys(), pooled.values()
        if keys == self.features:
            return values
        columns = dict(zip(keys, torch.split(values, pooled.length_per_key(), dim=1), strict=True))
        return torch.cat([columns[f] for f in self.features], dim=1)


@torch.no_grad()
def fill(out_RD: Tensor, seed: int, table: str, num_rows: int, first_row: int = 0, first_column: int = 0) -> None:
    """Initial values of rows first_row... and columns first_column... of `table`, into `out_RD` in place.

    Uniform in +-1/sqrt(num_rows) bounded below by 0.01 (TorchRec's own default without the bound is 4e-4 for 8 M rows,
    where the first updates of a small table decide everything). A value is a function of (seed, table, row, column)
    only: not of the world size, the plan or the device.
    """
    step = max(1, CHUNK // out_RD.shape[1])
    for start in range(0, out_RD.shape[0], step):
        block = out_RD[start : start + step]
        rows = torch.arange(first_row + start, first_row + start + block.shape[0], device=out_RD.device)
        block.copy_(initial(rows, block.shape[1], seed, table, num_rows, first_column))


def initial(rows_R: Tensor, columns: int, seed: int, table: str, num_rows: int, first_column: int = 0) -> Tensor:
    """The same values for these rows of `table`, (R, columns) float32."""
    scale = max(1 / math.sqrt(num_rows), 0.01)
    salt = signed_key(seed, table, "init")
    columns_D = torch.arange(first_column, first_column + columns, device=rows_R.device)
    # A row has 2**20 columns' room: more than any dim, and rows up to 2**43 keep apart.
    bits = mix_((rows_R[:, None] << 20) + columns_D + salt)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32).mul_(2.0**-23).sub_(1).mul_(scale)


def mix_(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 in place (torch shifts arithmetically, hence the masks)."""
    x ^= (x >> 30) & 0x3FFFFFFFF
    x *= -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as int64
    x ^= (x >> 27) & 0x1FFFFFFFFF
    x *= -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB as int64
    x ^= (x >> 31) & 0x1FFFFFFFF
    return x
