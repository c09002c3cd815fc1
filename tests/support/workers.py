"""What the ranks of a case run. Imported by the fork server, so that a rank starts at once."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from dist_mtl.build import build, check_world, open_dataset
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.config import Config
from dist_mtl.data.features.encode import Encoder
from dist_mtl.errors import DistMtlError
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import runtime
from dist_mtl.parallel.shard import ShardedModel
from dist_mtl.parallel.train_step import train_step

Parts = dict[str, tuple[tuple[int, ...], list[tuple[tuple[int, ...], np.ndarray]]]]


@dataclass
class Trace:
    """What one rank saw and did."""

    rows: np.ndarray  # (steps, slots): the rows' numbers, -1 for padding
    losses: np.ndarray  # (steps, tasks), float64
    first: Parts  # the state after step 1
    last: Parts  # the state after the last step
    plan: list[dict[str, Any]]


def trace(config: Config, steps: int) -> Trace:
    """Train `steps` steps, without commits."""
    check_world(config)
    with runtime(config.run) as rt:
        dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
        model = build(config, rt, steps)
        objective = Objective.of(config)
        rows, losses, first = [], [], {}
        for batch in batches(dataset, rt, 0, steps):
            rows.append(row_numbers(config, batch))
            losses.append(train_step(model, objective, batch, rt).terms_L.numpy())
            if batch.step == 1:
                first = parts(model)
        return Trace(np.stack(rows), np.stack(losses), first, parts(model), model.plan)


def row_numbers(config: Config, batch: Any) -> np.ndarray:
    """The numbers of a batch's rows, from the dense feature that carries them; -1 for padding."""
    numbers = batch.dense_BD[:, Encoder(config).dense.index("row")] * 4096
    return torch.where(batch.weight_B > 0, numbers, -1.0).numpy().astype(np.int64)


def parts(model: ShardedModel) -> Parts:
    """Name -> (shape of the whole, this rank's pieces by offset) of weights and optimizer states; copies."""
    return {
        name: (one.shape, [(part.offsets, part.tensor.cpu().numpy().copy()) for part in one.parts])
        for name, one in held(model.state()).items()
    }


def assemble(ranks: list[Parts]) -> dict[str, np.ndarray]:
    """The whole tensors from every rank's pieces. Raises AssertionError if two copies differ or a piece is missing."""
    whole: dict[str, np.ndarray] = {}
    filled: dict[str, np.ndarray] = {}
    for mine in ranks:
        for name, (shape, pieces) in mine.items():
            values = whole.setdefault(name, np.zeros(shape))
            known = filled.setdefault(name, np.zeros(shape, bool))
            for offsets, piece in pieces:
                place = tuple(slice(o, o + n) for o, n in zip(offsets, piece.shape, strict=True))
                assert (values[place] == piece)[known[place]].all(), f"ranks hold different copies of {name}"
                values[place], known[place] = piece, True
    assert all(known.all() for known in filled.values()), "a piece of a tensor is on no rank"
    return whole


def state_after(config: Config, commit: str) -> Parts:
    """This rank's part of a commit, loaded into a fresh model of `config`."""
    with runtime(config.run) as rt:
        model = build(config, rt, steps=1)  # to train: with its optimizer states
        store.load(model, Path(commit), rt)
        return parts(model)


def commit_state(folder: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a commit, whole, put together from its files by their index, by safetensors' own reader."""
    index = json.loads((Path(folder) / "index.json").read_text())["tensors"]
    files = {path.name: load_file(path) for path in Path(folder).glob("*.safetensors")}
    found: dict[str, np.ndarray] = {}
    for name, whole in index.items():
        found[name] = np.zeros(whole["shape"], files[whole["blocks"][0]["file"]][whole["blocks"][0]["key"]].dtype)
        for block in whole["blocks"]:
            place = tuple(slice(o, o + n) for o, n in zip(block["offsets"], block["sizes"], strict=True))
            found[name][place] = files[block["file"]][block["key"]]
    return found


def train(config: Config) -> dict[str, dict] | None:
    """The product's own loop; the final table."""
    from dist_mtl.train import train

    evaluation = train(config)
    return None if evaluation is None else {name: asdict(m) for name, m in evaluation.tasks.items()}


def error_of(config: Config, steps: int = 1) -> tuple[str, str, int] | None:
    """The error that `trace` raises on this rank: its class, its words, its exit code."""
    try:
        trace(config, steps)
    except DistMtlError as error:
        return type(error).__name__, str(error), error.exit_code
    return None


@dataclass
class Inside:
    """What a rank's sharded model looks like inside, and its pooled embeddings of step 1."""

    keys: list[str]  # order of the sharded collection's own columns
    pooled: dict[str, np.ndarray]  # feature -> (B, dim), as the model sees them
    slots: np.ndarray
    held: list[str]  # parameters with elements on this rank
    parts: dict[str, list[str]]  # optimizer -> its parameters that have elements
    classes: set[str]  # of the optimizers of data-parallel tables and dense weights
    kernels: set[tuple[str, float]]  # (fused optimizer, learning rate) of each lookup kernel


def look_inside(config: Config) -> Inside:
    """Build the model and embed the first batch; nothing is trained."""
    with runtime(config.run) as rt:
        model = build(config, rt, steps=1)  # to train: with its optimizer states
        embeddings = model.module.module.embeddings
        batch = next(batches(open_dataset(config.data.train, config, config.data.shuffle, rt), rt))
        with torch.no_grad():
            keys = list(embeddings.collection(batch.ids).keys())
            columns = torch.split(embeddings(batch.ids), list(embeddings.dims), dim=1)
        lookups = [
            k._emb_module for lookup in embeddings.collection._lookups for k in getattr(lookup, "_emb_modules", [])
        ]
        held = {name for name, p in model.module.named_parameters() if p.numel()}
        return Inside(
            keys,
            {f: c.numpy() for f, c in zip(embeddings.features, columns, strict=True)},
            batch.slots_B.numpy(),
            sorted(held),
            {key: sorted(held & set(part.params)) for key, part in model.optimizer.optimizers},
            {type(part._optimizer).__name__ for key, part in model.optimizer.optimizers if key != "fused"},
            {(k.optimizer.name, k.get_learning_rate()) for k in lookups if hasattr(k, "optimizer")},
        )


def error_of_train(config: Config) -> tuple[str, str, int] | None:
    """The error that the product's loop raises on this rank."""
    try:
        train(config)
    except DistMtlError as error:
        return type(error).__name__, str(error), error.exit_code
    return None


@dataclass
class Room:
    """Bytes of one rank: before its model, after training, the most ever; and its plan."""

    before: int
    after: int
    peak: int
    plan: list[dict[str, Any]]


def room(config: Config, steps: int) -> Room:
    """Train `steps` steps and look at /proc. Peaks of the process before it was forked do not count."""
    with runtime(config.run) as rt:
        dataset = open_dataset(config.data.train, config, config.data.shuffle, rt)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        model = build(config, rt, steps)
        objective = Objective.of(config)
        for batch in batches(dataset, rt, 0, steps):
            train_step(model, objective, batch, rt)
        return Room(before, _status("VmRSS"), _status("VmHWM"), model.plan)


def _status(key: str) -> int:
    [line] = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024
