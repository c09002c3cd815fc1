"""What the ranks of the id fuzz run: rows with any ids, pooled under every sharding plan, against plain sums."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dist_mtl.build import build, open_dataset
from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.batch import collate
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import cross
from dist_mtl.data.hashing import hash_ids, key
from dist_mtl.errors import DistMtlError
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel

PLANS = ("table_wise", "row_wise", "column_wise", "data_parallel")
# What a collection of tables can be: sums alone; means and weights, all of them then weighted sums; means by TorchRec.
VARIANTS = ("sums", "weighted", "means")
N, ROWS, LONG = 53, 8, 10_000  # rows of each table, rows of a case, ids of a long bag
TOGETHER = 10  # cases of one global batch: a collective takes as long for one
EDGES = (-1, 0, N - 1, N, N + 1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63))
WIDE = ("short_mean", "long_mean")  # features whose sums are divided: equal to rounding, not to the bit


def tree(sharding: str, variant: str) -> dict[str, Any]:
    """Every policy, single and in bags, two features of one table, a cross, two dims, both poolings."""
    dims = {"hash": 8, "clamp": 16, "reject": 8} | ({} if variant == "sums" else {"means": 8})
    weights = {"weights": "w"} if variant == "weighted" else {}
    means = {
        "long_mean": {"kind": "bag", "column": "bag", "table": "means", **weights},
        "short_mean": {"kind": "bag", "column": "valid_bag", "table": "means"},
    }
    return {
        "run": {"dir": "unused", "device": "cpu", "start_timeout": 60, "step_timeout": 30},
        "data": {"train": "unused", "shuffle_rows": TOGETHER * ROWS},
        "tables": {
            name: {"rows": N, "dim": dim, "sharding": sharding, "pooling": "mean" if name == "means" else "sum"}
            for name, dim in dims.items()
        },
        "features": {
            "hashed": {"kind": "id", "column": "any", "table": "hash"},
            "other": {"kind": "id", "table": "hash"},
            "pair": {"kind": "cross", "of": ["hashed", "other"], "table": "hash"},
            "clamped": {"kind": "id", "column": "any", "table": "clamp", "policy": "clamp"},
            "taken": {"kind": "id", "column": "valid", "table": "reject", "policy": "reject"},
            "long": {"kind": "bag", "column": "bag", "table": "hash", **weights},
            "short": {"kind": "bag", "column": "bag", "table": "clamp", "policy": "clamp", "max_length": 5, **weights},
            "kept": {"kind": "bag", "column": "valid_bag", "table": "reject", "policy": "reject"},
        }
        | ({} if variant == "sums" else means),
        "optim": {"embedding": {"kind": "sgd"}},  # adagrad's would do; rowwise_adagrad's maths is not column-wise
        "model": {"backbone": {"kind": "shared_bottom", "hidden": [8]}, "tower": [8]},
        "train": {"global_batch": TOGETHER * ROWS},
    }


@dataclass(frozen=True)
class Case:
    """The raw columns of a few rows."""

    any: list[int | None]
    other: list[int | None]
    valid: list[int | None]
    bag: list[list[int]]
    valid_bag: list[list[int]]
    w: list[list[float]]

    def table(self) -> pa.Table:
        """The same with labels."""
        labels = {name: pa.array([0] * ROWS, pa.int8()) for name in ("click", "conversion")}
        lists = {name: pa.array(getattr(self, name), pa.list_(pa.int64())) for name in ("bag", "valid_bag")}
        singles = {name: pa.array(getattr(self, name), pa.int64()) for name in ("any", "other", "valid")}
        return pa.table(singles | lists | {"w": pa.array(self.w, pa.list_(pa.float64()))} | labels)


def cases(count: int) -> Iterator[Case]:
    """Edges, duplicates, nulls, empty lists; every eighth case has a list of 10^4 ids."""
    for number in range(count):
        draw = np.random.default_rng(number)
        anything = [*EDGES, *draw.integers(-(2**63), 2**63 - 1, 3).tolist(), *draw.integers(0, N, 3).tolist()]
        inside = [0, N - 1, *draw.integers(0, N, 3).tolist()]  # few: most lists have an id twice

        def pick(source: list[int], length: int, draw: np.random.Generator = draw) -> list[int]:
            return [source[i] for i in draw.integers(0, len(source), length)]

        def column(source: list[int], draw: np.random.Generator = draw) -> list[int | None]:
            return [None if draw.random() < 0.1 else pick(source, 1, draw)[0] for _ in range(ROWS)]

        lengths = draw.choice([0, 0, 1, 2, 5, 9], (2, ROWS))
        if number % 8 == 0:
            lengths[:, draw.integers(ROWS)] = LONG
        bag, valid_bag = [pick(anything, n) for n in lengths[0]], [pick(inside, n) for n in lengths[1]]
        weights = [(draw.integers(0, 9, len(one)) / 4).tolist() for one in bag]
        yield Case(column(anything), column(anything), column(inside), bag, valid_bag, weights)


def weight_of(table: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The weight at each row and column: small whole numbers, so that sums are exact in any order."""
    return ((rows[:, None] * 31 + columns * 7 + len(table)) % 17 - 8).astype(np.float32)


def set_weights(model: ShardedModel) -> None:
    """`weight_of` into every table, wherever its parts are."""
    for name, value in model.state()["model"].items():
        if not name.endswith(".weight") or "embedding_bags." not in name:
            continue
        table = name.split("embedding_bags.")[1].split(".")[0]
        shards = getattr(value, "local_shards", None)
        parts = [(s.tensor, s.metadata.shard_offsets) for s in shards()] if shards else [(value, (0, 0))]
        for tensor, (row, column) in parts:
            rows, columns = row + np.arange(tensor.shape[0]), column + np.arange(tensor.shape[1])
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(weight_of(table, rows, columns)))


def expected(case: Case, feature: str, spec: Any, config: Config) -> np.ndarray:
    """(ROWS, dim): what a feature's pooled embeddings must be, by the definitions, row by row."""
    table = config.table_of(feature)
    rows, dim = config.tables[table].rows, config.tables[table].dim
    salt, pooled = key("table", table), np.zeros((ROWS, dim))
    weights = case.w if getattr(spec, "weights", None) else [[1.0] * LONG] * ROWS
    for row in range(ROWS):
        if spec.kind == "bag":
            ids = getattr(case, spec.column)[row]
            beside = weights[row][: len(ids)]
            if spec.max_length is not None:
                ids, beside = ids[-spec.max_length :], beside[-spec.max_length :]
        elif spec.kind == "cross":
            pair = (case.any[row], case.other[row])
            ids = [] if None in pair else cross([np.array([one]) for one in pair]).tolist()
            beside = [1.0] * len(ids)
        else:
            one = getattr(case, spec.column or feature)[row]
            ids, beside = [] if one is None else [one], [1.0] * (one is not None)
        found = np.array(ids, np.int64)
        found = hash_ids(found, rows, salt) if spec.policy == "hash" else np.clip(found, 0, rows - 1)
        pooled[row] = np.array(beside, float) @ weight_of(table, found, np.arange(dim)).astype(float)
        if config.tables[table].pooling == "mean" and sum(beside):
            pooled[row] /= sum(beside)
    return pooled


@dataclass
class Differences:
    """Of one plan: how the tables really are sharded, the cases, those whose sums are not the expected bits, ..."""

    plan: str
    kinds: set[str]
    cases: int = 0
    wrong: int = 0
    off: float = 0.0  # the largest difference of a mean, or of anything beside a mean of TorchRec's, over 1 + |x|
    clamped: int = 0


def fuzz(count: int) -> list[Differences]:
    """`count` cases under every plan, a third of them in each variant. All cases in one set of ranks."""
    with runtime(parse(tree("table_wise", "sums")).run) as rt:
        found = {plan: Differences(plan, set()) for plan in PLANS}
        made = list(cases(count))
        for place, variant in enumerate(VARIANTS):
            mine = made[place :: len(VARIANTS)]
            config = parse(tree("table_wise", variant))
            right = [{n: expected(case, n, spec, config) for n, spec in config.features.items()} for case in mine]
            for plan in PLANS:
                _under(plan, variant, mine, right, found[plan], rt)
        return list(found.values())


def _under(
    plan: str, variant: str, these: list[Case], right: list[dict[str, np.ndarray]], to: Differences, rt: Runtime
) -> None:
    """Cases of one variant under one plan: half of the rows of every case on either rank."""
    config = parse(tree(plan, variant))
    model = build(config, rt, steps=1)
    set_weights(model)
    to.kinds |= {row["sharding"] for row in model.plan}
    share = ROWS // rt.size
    rows = slice(rt.rank * share, (rt.rank + 1) * share)
    for start in range(0, len(these), TOGETHER):
        group = these[start : start + TOGETHER]
        pooled, clamped = _pooled(group, rows, model, config)
        to.clamped += clamped
        for number in range(len(group)):
            ours = {name: x[number * share : (number + 1) * share] for name, x in pooled.items()}
            _compare(ours, {name: x[rows] for name, x in right[start + number].items()}, variant, to)


def _compare(ours: dict[str, np.ndarray], right: dict[str, np.ndarray], variant: str, to: Differences) -> None:
    assert ours.keys() == right.keys()
    exact = {name for name in right if name not in WIDE and variant != "means"}
    to.cases += 1
    to.wrong += any(not np.array_equal(ours[name], right[name].astype(np.float32)) for name in exact)
    off = (float((np.abs(ours[n] - x) / (1 + np.abs(x))).max()) for n, x in right.items() if n not in exact)
    to.off = max([to.off, *off])


def _pooled(group: list[Case], rows: slice, model: ShardedModel, config: Config) -> tuple[dict[str, np.ndarray], int]:
    """This rank's rows of every case, embedded; how many ids were moved."""
    encoder = Encoder(config)
    encoded = encoder.encode(pa.concat_tables(case.table() for case in group), str)
    picks = np.concatenate([number * ROWS + np.arange(ROWS)[rows] for number in range(len(group))])
    batch, embeddings = collate(encoder, encoded, picks, 1, 0), model.module.module.embeddings
    with torch.no_grad():
        columns = torch.split(embeddings(batch.ids), list(embeddings.dims), dim=1)
    return {name: column.numpy() for name, column in zip(embeddings.features, columns, strict=True)}, batch.clamped


def refusals(folder: str | Path) -> list[str]:
    """What this rank is told of each dataset below `folder`, of which one row has an id outside its table."""
    told = []
    with runtime(parse(tree("row_wise", "sums")).run) as rt:
        for data in sorted(Path(folder).iterdir()):
            config = parse(tree("row_wise", "sums"), [f"data.train='{data}'"])
            try:
                for _ in batches(open_dataset(str(data), config, True, rt), rt):
                    pass
                told.append("")
            except DistMtlError as error:
                told.append(f"{type(error).__name__}: {error}")
    return told


def one_bad(case: Case, bad: int, row: int, single: bool) -> Case:
    """The case with one id outside the table of policy reject."""
    if single:
        return replace(case, valid=[bad if n == row else v for n, v in enumerate(case.valid)])
    return replace(case, valid_bag=[[*v, bad] if n == row else v for n, v in enumerate(case.valid_bag)])
