"""A plan -> what fills the memory of each rank while it trains. Bytes; an estimate, checked by `make plan-memory`."""

from dataclasses import dataclass, field

from dist_mtl.config import Config
from dist_mtl.parallel.optimizer_bytes import DENSE_BYTES, state_bytes, state_parts
from dist_mtl.parallel.plan import CACHING, KERNELS
from dist_mtl.tools.planning.device import GB, Cluster
from dist_mtl.tools.planning.workload import TableLoad, Workload

ON_HOST = (KERNELS["uvm"], CACHING)  # kernels that keep the weights there
# Shuffle windows that the loader has in memory: encoded (in use, read ahead), and as Arrow (being read, and open row
# groups of at most two windows).
ENCODED_WINDOWS, READ_WINDOWS = 2, 3
ID_BYTES, LENGTH_BYTES, POOLED_BYTES = 8, 4, 4

Rows = list[dict]  # a plan, as parallel.plan.describe_plan tells it


@dataclass
class RankMemory:
    """Bytes of one rank, by what they are for. A rank on CPU has all of it in `host`."""

    hbm: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)

    def total(self, place: str) -> float:
        return sum(getattr(self, place).values())


def memory_of(plan: Rows, load: Workload, config: Config, cluster: Cluster) -> list[RankMemory]:
    """By rank."""
    group = cluster.ranks
    ranks = [RankMemory() for _ in range(group)]
    on_device = "hbm" if cluster.profile.device == "cuda" else "host"
    rows_per_rank = config.train.global_batch // cluster.ranks
    for row in plan:
        _add_table(ranks, row, load.tables[row["table"]], config.optim.embedding.kind, on_device)
    for rank, one in enumerate(ranks):
        device = getattr(one, on_device)
        device["dense weights, gradients, AdamW"] = DENSE_BYTES * load.dense_parameters
        copies = cluster.profile.buffer_copies
        held = 1 if config.sharding.pipeline == "base" else 2  # batches of ids: `LookAhead` is one ahead, of any kind
        device["exchange buffers"] = copies * _exchange(plan, load, rank, rows_per_rank, group, held)
        # Pooled vectors and their gradients once more, in the order of the features.
        kept = load.kept_bytes + 2 * POOLED_BYTES * load.pooled_columns
        device["activations"] = copies * rows_per_rank * kept
        if on_device == "hbm":
            one.hbm["process"] = cluster.profile.process_device_gb * GB
        if config.train.commit == "background":
            one.host["commit copy"] = sum(
                memory.get(part, 0.0)
                for memory in ([one.host] if on_device == "host" else [one.hbm, one.host])
                for part in ("table weights", "optimizer states")
            )
        window = config.data.shuffle_rows if config.data.shuffle else config.train.global_batch
        per_window = ENCODED_WINDOWS * load.encoded_bytes + READ_WINDOWS * load.read_bytes
        one.host["loader"] = max(window // cluster.ranks, rows_per_rank) * per_window
        one.host["process"] = cluster.profile.process_host_gb * GB
    return ranks


def _add_table(ranks: list[RankMemory], row: dict, table: TableLoad, kind: str, on_device: str) -> None:
    """Weights and optimizer states of one table, where its kernel keeps them."""
    if row["sharding"] == "data_parallel":
        for one in ranks:
            device = getattr(one, on_device)
            weights = 4 * table.rows * table.dim  # a dense parameter; its gradient is as large
            _add(device, "table weights", weights)
            _add(device, "table gradients", weights)
            _add(device, "optimizer states", state_bytes(kind, table.rows, table.dim))
        return
    for shard in row["shards"]:
        rows, columns = shard["size"]
        one = ranks[shard["rank"]]
        weights, (by_row, by_element) = table.weight_bytes(rows, columns), state_parts(kind, rows, columns)
        home = one.host if row["kernel"] in ON_HOST else getattr(one, on_device)
        _add(home, "table weights", weights)
        # FBGEMM keeps states of one number a row in the GPU, wherever the weights are; the others beside the weights.
        _add(getattr(one, on_device), "optimizer states", by_row)
        _add(home, "optimizer states", by_element)
        if row["kernel"] == CACHING:
            # FBGEMM: the cached rows; a map of 4 bytes a row of the table, two numbers of 8 a row of the cache.
            _add(one.hbm, "uvm cache", weights * table.cache_share + rows * (4 + 16 * table.cache_share))


def _exchange(plan: Rows, load: Workload, rank: int, rows_per_rank: int, group: int, held: int) -> float:
    """Ids on their way in, pooled vectors on their way out and their gradients on the way back, sent and received."""
    ids = held * rows_per_rank * load.ids * ID_BYTES
    pooled = 2 * rows_per_rank * load.pooled_columns * POOLED_BYTES
    for row in plan:
        table = load.tables[row["table"]]
        for shard in row["shards"]:
            if shard["rank"] == rank:
                rows, columns = shard["size"]
                arriving = rows_per_rank * group
                ids += held * arriving * (table.ids * rows / table.rows * ID_BYTES + table.features * LENGTH_BYTES)
                pooled += 2 * arriving * table.features * columns * POOLED_BYTES
    return ids + pooled


def _add(memory: dict[str, float], part: str, amount: float) -> None:
    memory[part] = memory.get(part, 0.0) + amount


def worst(ranks: list[RankMemory], place: str) -> int:
    """The rank with the most bytes in `hbm` or `host`."""
    return max(range(len(ranks)), key=lambda rank: ranks[rank].total(place))


def mean(ranks: list[RankMemory], place: str) -> float:
    """Bytes of a rank, on average."""
    return sum(one.total(place) for one in ranks) / len(ranks)
