"""A plan -> the parts of a step, as a roofline: bytes over bandwidths, FLOPs over rates. An estimate, never measured.

Each part takes as long as the rank that has most of it. Ids are taken to be equally frequent, so a row shard gets its
share of the lookups. Reading the data is not a part of it: `python -m benchmarks.speed --loader` measures that.
"""

from dataclasses import dataclass

from dist_mtl.config import Config
from dist_mtl.config.sharding import SHARDINGS
from dist_mtl.parallel.optimizer_bytes import STATE_NUMBERS, state_bytes
from dist_mtl.parallel.plan import CACHING
from dist_mtl.tools.planning.device import GB, Cluster
from dist_mtl.tools.planning.memory import ID_BYTES, LENGTH_BYTES, ON_HOST, Rows
from dist_mtl.tools.planning.workload import Workload

COMMUNICATION_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# TorchRec's names of those whose partial sums meet within a node first.
BY_NODE = tuple(traits.torchrec for traits in SHARDINGS.values() if traits.rows == "node")


@dataclass(frozen=True)
class Part:
    """A part of a step; `hidden` of its seconds pass while another part is at work."""

    name: str
    seconds: float
    hidden: float = 0.0

    @property
    def visible(self) -> float:
        return self.seconds - self.hidden


@dataclass(frozen=True)
class Links:
    """How a group of ranks is wired; seconds for what the busiest rank sends."""

    nvlink: float  # bytes/s
    network: float
    latency: float  # seconds
    ranks: int
    local: int  # ranks of a node that are in the group

    @classmethod
    def of(cls, cluster: Cluster) -> "Links":
        profile, reached = cluster.profile, cluster.profile.achieved.links * GB
        latency = profile.collective_us * 1e-6
        near, far = profile.nvlink_gbps * reached, profile.network_gbps * reached
        return cls(near, far, latency, cluster.ranks, cluster.gpus)

    def all_to_all(self, sent: float) -> float:
        """`sent` bytes for all ranks alike; the node's links and the network work at the same time."""
        if self.ranks == 1:
            return 0.0
        near, far = (self.local - 1) / self.ranks, (self.ranks - self.local) / self.ranks
        return max(sent * near / self.nvlink, sent * far / self.network) + self.latency

    def by_node(self, sent: float) -> float:
        """A reduce-scatter within the node, then the rest of it to the ranks of one's own place on other nodes."""
        if self.ranks == 1:
            return 0.0
        nodes = self.ranks / self.local
        rest = sent / self.local * (nodes - 1) / nodes
        return sent * (self.local - 1) / self.local / self.nvlink + rest / self.network + 2 * self.latency

    def all_reduce(self, size: float) -> float:
        """Rings over all ranks, which use every link of a node at once."""
        if self.ranks == 1 or not size:
            return 0.0
        rate = self.nvlink if self.ranks == self.local else min(self.nvlink, self.network * self.local)
        return 2 * size * (self.ranks - 1) / self.ranks / rate + self.latency


@dataclass(frozen=True)
class _Traffic:
    """Bytes of one rank in a step, on their way and in memory."""

    ids: float = 0.0  # arriving
    flat: float = 0.0  # pooled numbers leaving straight to all ranks
    by_node: float = 0.0  # those that are summed within the node first
    lookup: float = 0.0  # seconds
    missed: float = 0.0  # seconds of `lookup` that rows take over the host link into a cache
    update: float = 0.0  # seconds


def step_of(plan: Rows, load: Workload, config: Config, cluster: Cluster) -> list[Part]:
    """The parts of a training step in their order."""
    sharding = config.sharding
    links = Links.of(cluster)
    rows_per_rank = config.train.global_batch // cluster.ranks
    ranks = [_traffic(plan, load, config, cluster, rank, rows_per_rank * links.ranks) for rank in range(links.ranks)]
    sent_ids = rows_per_rank * (load.ids * ID_BYTES + sum(t.features for t in load.tables.values()) * LENGTH_BYTES)
    inputs = 2 * links.all_to_all(max(sent_ids, *(one.ids for one in ranks)) / 2)  # lengths first, then ids
    ways = []
    for kind in (sharding.forward, sharding.backward):
        size = COMMUNICATION_BYTES[kind]
        flat, near = max(one.flat for one in ranks) * size, max(one.by_node for one in ranks) * size
        ways.append((links.all_to_all(flat) if flat else 0.0) + (links.by_node(near) if near else 0.0))
    dense = _dense(load, config, cluster, rows_per_rank)
    replicated = sum(
        4 * load.tables[row["table"]].rows * load.tables[row["table"]].dim
        for row in plan
        if row["sharding"] == "data_parallel"
    )
    reduce = links.all_reduce(4 * load.dense_parameters + replicated)
    lookup, missed = max(one.lookup for one in ranks), max(one.missed for one in ranks)
    forward, backward = dense / 3, dense * 2 / 3
    early = in_cache = arrived = 0.0
    # As parallel/lookahead.py calls the parts of the next batch. What hides one journey hides no other: the ranks have
    # one network, and NCCL sends in the order of the calls.
    match sharding.pipeline:
        case "sparse_dist":  # its ids leave behind the forward pass
            early = min(inputs, backward)
            backward -= early
        case "prefetch":  # the same, but the backward pass waits for them; behind it the caches are filled
            early, in_cache = min(inputs, forward), min(missed, backward + ways[1])
        case "semi_sync":  # its ids and its lookup hold the forward pass up; its vectors travel behind the step
            arrived = min(ways[0], dense)
            backward = min(backward, dense - arrived)
    return [
        Part("input distribution", inputs, early),
        Part("lookup", lookup, in_cache),
        Part("output distribution", ways[0], arrived),
        Part("dense forward and backward", dense),
        Part("gradient distribution", ways[1]),
        Part("all-reduce of dense gradients", reduce, min(reduce, backward)),
        Part("update of the tables", max(one.update for one in ranks)),
    ]


def seconds_of(parts: list[Part]) -> float:
    """What a step takes."""
    return sum(part.visible for part in parts)


def bottleneck(parts: list[Part]) -> Part:
    """The part that a step waits for longest."""
    return max(parts, key=lambda part: part.visible)


def lookups_of(plan: Rows, load: Workload, ranks: int) -> list[float]:
    """By rank: embedding bytes looked up for one impression of the global batch."""
    work = [0.0] * ranks
    for row in plan:
        table = load.tables[row["table"]]
        for shard in row["shards"]:
            rows, columns = shard["size"]
            work[shard["rank"]] += table.ids * rows / table.rows * columns * table.element_bytes
    return work


def _traffic(plan: Rows, load: Workload, config: Config, cluster: Cluster, rank: int, batch: int) -> _Traffic:
    """What a step of `batch` impressions asks of one rank."""
    profile, reached = cluster.profile, cluster.profile.achieved
    memory, link = profile.memory_gbps * reached.memory * GB, profile.link_gbps * reached.links * GB
    by_row, by_element = STATE_NUMBERS[config.optim.embedding.kind]
    ids = flat = near = lookup = missed = update = 0.0
    for row in plan:
        table = load.tables[row["table"]]
        here = [s["size"] for s in row["shards"] if s["rank"] == rank]
        if row["sharding"] == "data_parallel":  # its own rows of the batch; the update goes over the whole table
            numbers, states = table.rows * table.dim, state_bytes(config.optim.embedding.kind, table.rows, table.dim)
            lookup += batch / cluster.ranks * table.ids * table.dim * 4 / memory
            update += (12 * numbers + 2 * states) / memory
        for rows, columns in here:
            count = batch * table.ids * rows / table.rows
            ids += count * ID_BYTES + batch * table.features * LENGTH_BYTES
            pooled = batch * table.features * columns
            flat, near = (flat, near + pooled) if row["sharding"] in BY_NODE else (flat + pooled, near)
            is_far, is_cached = row["kernel"] in ON_HOST, row["kernel"] == CACHING
            far = 1 - table.cache_share if is_cached else float(is_far)
            weights = columns * table.element_bytes * ((1 - far) / memory + far / link)
            # Read and written. Where they live: see memory.py; the cache has weights only.
            states = 8 * (by_row / memory + by_element * columns / (link if is_far else memory))
            missed += far * count * columns * table.element_bytes / link if is_cached else 0.0
            lookup += count * weights
            update += count * (4 * columns / memory + 2 * weights + states)
    return _Traffic(ids, flat, near, lookup, missed, update)


def _dense(load: Workload, config: Config, cluster: Cluster, rows: int) -> float:
    """Products, or the bytes of the activations (written, read, and their gradients written) if those take longer."""
    profile = cluster.profile
    # fp32 is fp32: torch does not use TF32 unless it is told to.
    rate = {"fp32": profile.tflops_fp32, "bf16": profile.tflops_bf16}[config.train.dense] * 1e12
    products = rows * load.flops / (rate * profile.achieved.flops)
    moved = rows * 3 * load.kept_bytes + 32 * load.dense_parameters  # AdamW reads and writes four numbers of each
    return max(products, moved / (profile.memory_gbps * profile.achieved.memory * GB))
