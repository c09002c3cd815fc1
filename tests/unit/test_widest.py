"""The widest table: FBGEMM's CUDA kernels have a bound on the columns of a shard, its CPU kernels have none."""

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from dist_mtl.errors import ConfigError
from dist_mtl.parallel.capabilities import too_wide
from dist_mtl.tools.planning.estimate import outlook
from tests.support.outlooks import cluster, config

REFUSED = "tables.a.dim = 2,052: FBGEMM's CUDA kernels take at most 2,048 columns of a table on a rank, and the plan"


def table(dim: int, **more: str) -> dict[str, dict]:
    return {"a": {"rows": 1000, "dim": dim, **more}}


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam"])
@pytest.mark.parametrize("sharding", ["auto", "table_wise", "row_wise", "data_parallel"])
def test_just_at_the_bound_fits_and_just_above_is_refused_by_its_key(kind: str, sharding: str) -> None:
    optimizer = f"optim.embedding.kind='{'sgd' if sharding == 'data_parallel' else kind}'"
    assert outlook(config(table(2048, sharding=sharding), optimizer), cluster()).fits
    with pytest.raises(ConfigError, match=f"{REFUSED}.*; use dim = 2048"):
        outlook(config(table(2052, sharding=sharding), optimizer), cluster())


@pytest.mark.parametrize("kernel", ["fused", "uvm", "uvm_caching"])
def test_every_kernel_has_the_bound(kernel: str) -> None:
    assert outlook(config(table(2048, kernel=kernel, sharding="table_wise")), cluster()).fits
    with pytest.raises(ConfigError, match=REFUSED):
        outlook(config(table(2052, kernel=kernel, sharding="table_wise")), cluster())


@pytest.mark.parametrize(("dim", "widths"), [(4096, [2048] * 2), (4104, [1368] * 3), (16_384, [2048] * 8)])
@pytest.mark.parametrize("sharding", ["column_wise", "grid"])
def test_of_a_table_that_is_cut_by_columns_the_shards_count(sharding: str, dim: int, widths: list[int]) -> None:
    found = outlook(config(table(dim, sharding=sharding), "optim.embedding.kind='adagrad'"), cluster(nodes=2))
    (row,) = found.plan
    columns = {shard["offset"][1]: shard["size"][1] for shard in row["shards"]}
    assert found.fits and [columns[place] for place in sorted(columns)] == widths


def test_a_width_that_no_equal_shards_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="tables.a.dim = 4,168"):  # 8 x 521
        outlook(config(table(4168, sharding="column_wise"), "optim.embedding.kind='adagrad'"), cluster(nodes=2))


def test_the_feature_that_makes_a_wide_table_is_named_and_a_cpu_has_no_bound() -> None:
    wide = config(table(4096))
    plan = [{"table": "a", "sharding": "table_wise", "kernel": "fused", "shards": [{"size": [1000, 4096]}]}]
    assert len(list(too_wide(wide, plan, torch.device("cuda")))) == 1
    assert not list(too_wide(wide, plan, torch.device("cpu")))
    assert outlook(config(table(8192)), cluster(device="cpu")).fits


@pytest.mark.parametrize("dim", [2048, 2052, 8192])
def test_the_cpu_kernel_learns_a_table_of_any_width(dim: int) -> None:
    """Row-wise Adagrad over one lookup of two ids, against its formula."""
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(10, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        eps=1e-8,
    )
    (weights,) = kernel.split_embedding_weights()
    torch.nn.init.normal_(weights)
    before = weights.clone()
    pooled = kernel(torch.tensor([3, 7]), torch.tensor([0, 2]))
    assert torch.allclose(pooled[0], before[3] + before[7])
    gradient = torch.linspace(-1, 1, dim)[None]
    pooled.backward(gradient)
    expected = before[3] - 0.1 * gradient[0] / (gradient.square().mean().sqrt() + 1e-8)
    assert torch.allclose(weights[3], expected, atol=1e-5) and torch.equal(weights[0], before[0])
