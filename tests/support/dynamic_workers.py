"""What ranks do in the cases of dynamic tables, and logs whose ids come and go."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dist_mtl.build import build, build_for_scoring, open_dataset, open_to_score
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.data.features.idmap import IdMap
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DistMtlError
from dist_mtl.model.embedding import initial
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import train_step
from tests.support import samples
from tests.support.workers import Parts, parts, row_numbers

USERS, ITEMS = "user", "item"  # the dynamic tables: two features look into the second one


def write_logs(folder: Path, rows: int, seed: int = 0) -> None:
    """`samples.logs` with users and items of whom new ones come all the time; users clicked by their last digit."""
    draw = np.random.default_rng(seed)
    table, lived = samples.logs(rows, seed), np.arange(rows) // 4
    user = lived + (200 * draw.random(rows) ** 3).astype(np.int64)
    item = lived // 2 + (300 * draw.random(rows) ** 2).astype(np.int64) - 10
    history = table.column("history").combine_chunks()
    moved = pa.array(history.values.to_numpy() + np.repeat(lived, np.diff(history.offsets.to_numpy())))
    columns = {"user": user * 2**40 - 1, "item": item, "history": pa.ListArray.from_arrays(history.offsets, moved)}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    write_dataset(folder, [table], file_rows=-(-rows // 2), row_group_rows=100)


def write_fuzz(folder: Path, rows: int, seed: int = 0) -> None:
    """Ids at every edge of 64 bits, nulls, empty bags, one of 10,000 ids, and an id many times in one bag."""
    draw, table = np.random.default_rng(seed), samples.logs(rows, seed)
    edges = np.array([-(2**63), -(2**31), -2, -1, 0, 1, 127, 128, 199, 200, 201, 2**31, 2**32, 2**62, 2**63 - 1])
    lengths = draw.choice([0, 0, 1, 2, 40], rows)
    lengths[rows // 2] = 10_000
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    wild = draw.integers(-(2**63), 2**63, int(offsets[-1]), dtype=np.int64)
    ids = np.where(draw.random(len(wild)) < 0.7, draw.choice(edges, len(wild)), wild)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
    weights = pa.ListArray.from_arrays(pa.array(offsets), pa.array(draw.random(len(ids), np.float32)))
    columns = {
        "user": pa.array(draw.choice(edges, rows), mask=draw.random(rows) < 0.2),
        "item": pa.array(draw.integers(-(2**63), 2**63, rows, dtype=np.int64)),
        "history": lists,
        "history_weight": weights,
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    write_dataset(folder, [table], file_rows=rows, row_group_rows=100)


def config(folder: Path, *overrides: str, sharding: str = "table_wise", evict: str = "lfu") -> Config:
    """Both tables full after a few steps. Adagrad: every plan trains the same."""
    tables = (
        f"tables.user={{rows=200, dim=16, sharding='{sharding}', dynamic={{evict='{evict}'}}}}",
        f"tables.item={{rows=128, dim=8, sharding='{sharding}', pooling='mean', dynamic={{admit=1, fallback=0.5}}}}",
    )
    fixed = ("optim.embedding.kind='adagrad'", "data.shuffle=false", "run.threads=1", "run.step_timeout=120")
    features = tuple(f"features.{name}.policy='dynamic'" for name in ("user", "item", "history"))
    return samples.config(folder, *fixed, *tables, *features, *overrides, sharding=sharding)


def follow(config: Config, steps: int) -> tuple[dict, np.ndarray, Parts, int]:
    """Train `steps` steps beside one map that sees the keys of all ranks, and compare.

    Returns rows by (row number, feature) of this rank, the losses, its part of the state, and how many rows were
    renewed.
    """
    with runtime(config.run) as rt:
        dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
        model, objective = build(config, rt, steps), Objective.of(config)
        single = IdMap({name: config.tables[name] for name in (USERS, ITEMS)}, 0, 1)
        rows, losses, renewed = {}, [], 0
        for batch in batches(dataset, rt, 0, steps):
            keys = {name: batch.ids[name].values().numpy() for name in ("user", "item", "history")}
            learnt = _of_all_ranks(single, list(keys.values()), batch.step, rt)
            found = model.learn_ids(batch)
            told = np.concatenate([found.ids[name].values().numpy() for name in keys])
            assert np.array_equal(told, learnt.row_N)
            renewed += len(learnt.renewed_E2)
            _assert_begins_anew(model, config, learnt.renewed_E2)
            lengths = {name: found.ids[name].lengths().numpy() for name in keys}
            numbers = row_numbers(config, batch)
            for name in keys:
                places = np.repeat(numbers, lengths[name])
                for number, row in zip(places.tolist(), found.ids[name].values().tolist(), strict=True):
                    rows.setdefault((number, name), []).append(row)
            losses.append(train_step(model, objective, found, rt).terms_L.numpy())
        return rows, np.stack(losses), parts(model), renewed


def _of_all_ranks(single: IdMap, keys: list[np.ndarray], step: int, rt: Runtime) -> Any:
    """What the single map says to this rank's keys, after the keys of all ranks went into it."""
    table = np.repeat([0, 1, 1], [len(one) for one in keys])
    tables, flat = zip(*rt.gather((table, np.concatenate(keys))), strict=True)
    learnt = single.learn(np.concatenate(tables), np.concatenate(flat), np.ones(sum(map(len, flat)), np.int64), step)
    before = sum(len(one) for one in flat[: rt.rank])
    return type(learnt)(learnt.row_N[before : before + len(table)], learnt.renewed_E2)


def _assert_begins_anew(model: ShardedModel, config: Config, renewed_E2: np.ndarray) -> None:
    for number, table in enumerate((USERS, ITEMS)):
        rows = renewed_E2[renewed_E2[:, 0] == number, 1]
        for name, (_, pieces) in parts(model).items():
            if f"embedding_bags.{table}." not in name:
                continue
            for offsets, piece in pieces:
                if piece.ndim == 0:
                    continue
                here = rows[(rows >= offsets[0]) & (rows < offsets[0] + len(piece))]
                values = piece[here - offsets[0]]
                if name.startswith("model/"):
                    size = config.tables[table].rows
                    begin = initial(torch.from_numpy(here), values.shape[1], config.seed, table, size, offsets[1])
                    assert np.array_equal(values, begin.numpy()), name
                else:
                    assert not values.any(), name


def logits_of(config: Config, commit: str, data: str) -> tuple[np.ndarray, np.ndarray, str]:
    """(row numbers, logits) of this rank's rows by a commit, twice the same; and its map's keys, as one string."""
    with runtime(config.run) as rt:
        model = build_for_scoring(config, rt)
        store.load(model, Path(commit), rt, weights_only=True)
        keys = model.ids.map.rows.key_GW.copy()
        passes = []
        for _ in range(2):
            dataset, numbers, logits = open_to_score(data, config, rt), [], []
            with torch.no_grad():
                model.module.eval()
                for batch in batches(dataset, rt):
                    numbers.append(row_numbers(config, batch))
                    logits.append(model.module(model.look_up(batch)).logits_BT.numpy())
            passes.append((np.concatenate(numbers), np.concatenate(logits)))
        assert all(np.array_equal(a, b) for a, b in zip(*passes, strict=True))
        assert np.array_equal(keys, model.ids.map.rows.key_GW)
        return *passes[0], keys.tobytes().hex()


def saved_again(config: Config, commit: str, misplace: bool = False) -> str:
    """Load a commit and commit it once more, to the run of `config`; `misplace`: two keys in each other's place."""
    with runtime(config.run) as rt:
        model = build(config, rt, 1)
        store.load(model, Path(commit), rt)
        if misplace:
            keys = model.ids.map.rows.key_GW
            keys[[0, 2], 0] = keys[[2, 0], 0]
        return str(store.save(model, Progress(1), {}, "end", config, "", rt))


def deviation_of(config: Config, commit: str, data: str) -> float:
    """The standard deviation of the relatedness over a dataset, by the rows that the map gives; on one rank."""
    with runtime(config.run) as rt:
        model, found = build(config, rt, 1), []
        store.load(model, Path(commit), rt, weights_only=True)
        for batch in batches(open_to_score(data, config, rt), rt):
            with torch.no_grad():
                outputs = model.module(model.look_up(batch))
            found.append(torch.sigmoid(outputs.training.relatedness_BU[: batch.carried.num_rows].double()))
        return float(torch.cat(found).std(correction=0))


def error_of_load(config: Config, commit: str) -> tuple[str, str, int] | None:
    """The error that loading a commit raises on this rank."""
    try:
        with runtime(config.run) as rt:
            store.load(build(config, rt, 1), Path(commit), rt)
    except DistMtlError as error:
        return type(error).__name__, str(error), error.exit_code
    return None
