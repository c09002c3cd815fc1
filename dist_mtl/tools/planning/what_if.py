"""What would make a model fit: each knob alone with its figures, then the nearest fits.

A knob is a list of overrides, as `--set` takes them, so that what is told here can be tried at once. A plan that the
configuration names is of those tables on those ranks, so the search is without it, and so is the advice.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from torchrec.distributed.planner.constants import UVM_CACHING_RATIO

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.errors import ConfigError
from dist_mtl.tools.planning.device import Cluster
from dist_mtl.tools.planning.estimate import Outlook, outlook

MOST_NODES = 4096
# What a knob costs the model or the step, for the order in which combinations are tried: the lesser harm first.
HARM = {
    "blocking": 1,  # training waits for its commits
    "row_wise": 1,  # more exchange
    "rowwise_adagrad": 2,  # another optimizer, the usual one
    "fp16": 3,  # weights of half the precision
    "uvm_caching": 5,  # rows over the bus
    "uvm": 8,  # all of them
    "half_dim": 13,  # another model
}
WORDS = {
    "blocking": "blocking commits: no copy of the tables",
    "row_wise": "split all tables by rows",
    "rowwise_adagrad": "rowwise_adagrad for the tables",
    "fp16": "fp16 weights",
    "uvm_caching": f"uvm_caching: rows on the host, {UVM_CACHING_RATIO:.0%} cached",
    "uvm": "uvm: rows on the host",
    "half_dim": "half the dim of all tables",
}


@dataclass(frozen=True)
class Turned:
    """A configuration after a knob, or several, on some nodes: what it then needs."""

    names: tuple[str, ...]
    overrides: tuple[str, ...]
    found: Outlook

    @property
    def words(self) -> str:
        return " + ".join(WORDS[name] for name in self.names) or "planned anew"


def turned(config: Config, overrides: Iterable[str]) -> Config:
    """The configuration with overrides on top. Raises ConfigError for what does not go together."""
    return parse(json.loads(config.model_dump_json(exclude_none=True)), tuple(overrides))


def each(start: Outlook, bag_ids: float | None) -> list[Turned]:
    """Every knob alone, on the same cluster; those that change nothing, or can not be turned here, are left out."""
    config = _unplanned(start.config)
    sets = [*_anew(start.config), *((name,) for name in HARM)]
    found = (_try(config, start.cluster, names, bag_ids, search=True) for names in sets)
    return [one for one in found if one is not None]


def nearest(start: Outlook, bag_ids: float | None) -> tuple[Turned | None, Turned | None]:
    """The fewest nodes that fit with nothing else changed; the least harmful knobs that fit on these nodes."""
    config = _unplanned(start.config)
    sets = [*_anew(start.config), *_combinations()]
    return _fewest_nodes(config, start.cluster, bag_ids), _least_harm(config, start.cluster, sets, bag_ids)


def _unplanned(config: Config) -> Config:
    """The configuration without the plan that it names."""
    return config.model_copy(update={"sharding": config.sharding.model_copy(update={"plan": None})})


def _anew(config: Config) -> list[tuple[str, ...]]:
    """No knob at all: a change only where there was a plan."""
    return [] if config.sharding.plan is None else [()]


def overrides_of(name: str, config: Config, device: str) -> list[str]:
    """The overrides of one knob; empty where it would change nothing."""
    tables = config.tables.items()
    # Where the kernel is `auto` the planner has tried the cache already.
    from_device = {"uvm_caching": ("fused",), "uvm": ("auto", "fused", "uvm_caching")}.get(name, ())
    moved = [t for t, table in tables if table.kernel in from_device and not table.traits.replicated]
    match name:
        case "blocking":
            return ["train.commit=blocking"] if config.train.commit == "background" else []
        case "row_wise":
            whole = [t for t, table in tables if table.sharding != "auto" and not table.traits.sums]
            return [f"tables.{t}.sharding=row_wise" for t in whole]
        case "rowwise_adagrad":
            heavy = config.optim.embedding.kind in ("adagrad", "adam", "partial_rowwise_adam")
            return ["optim.embedding.kind=rowwise_adagrad"] if heavy else []
        case "fp16":
            return [f"tables.{t}.precision=fp16" for t, table in tables if table.precision == "fp32"]
        case "uvm_caching" | "uvm" if device == "cuda":
            return [f"tables.{t}.kernel={name}" for t in moved]
        case "half_dim":
            return [f"tables.{t}.dim={table.dim // 2}" for t, table in tables if table.dim % 8 == 0]
    return []


def _try(
    config: Config, cluster: Cluster, names: tuple[str, ...], bag_ids: float | None, search: bool
) -> Turned | None:
    overrides = [text for name in names for text in overrides_of(name, config, cluster.profile.device)]
    if any(not overrides_of(name, config, cluster.profile.device) for name in names):
        return None
    try:
        return Turned(names, tuple(overrides), outlook(turned(config, overrides), cluster, bag_ids, search))
    except ConfigError:  # column_wise under row-wise Adagrad, say: no configuration, so no advice
        return None


def _combinations() -> Iterator[tuple[str, ...]]:
    """Sets of knobs, by their harm."""
    sets = [
        names for count in range(1, 5) for names in combinations(HARM, count) if not {"uvm", "uvm_caching"} <= {*names}
    ]
    yield from sorted(sets, key=lambda names: (sum(HARM[name] for name in names), len(names)))


def _least_harm(
    config: Config, cluster: Cluster, sets: Iterable[tuple[str, ...]], bag_ids: float | None
) -> Turned | None:
    return _first(
        (_try(config, cluster, names, bag_ids, search=False) for names in sets),
        lambda one: _try(config, cluster, one.names, bag_ids, search=True),
    )


def _fewest_nodes(config: Config, cluster: Cluster, bag_ids: float | None) -> Turned | None:
    """Numbers of nodes, upwards, over whose ranks a batch can be cut."""

    def on(nodes: int, search: bool) -> Turned | None:
        try:
            found = outlook(config, replace(cluster, nodes=nodes), bag_ids, search)
        except ConfigError:
            return None
        return Turned((), (), found)

    low = cluster.nodes
    counts = [n for n in range(low + 1, MOST_NODES + 1) if config.train.global_batch % (n * cluster.gpus) == 0]
    return _first((on(n, search=False) for n in counts), lambda one: on(one.found.cluster.nodes, search=True))


def _first(quick: Iterator[Turned | None], sure: Callable[[Turned], Turned | None]) -> Turned | None:
    """The first candidate that fits when spread evenly, and then by the planner, too."""
    for one in quick:
        if one is not None and one.found.fits:
            one = sure(one)
            if one is not None and one.found.fits:
                return one
    return None
