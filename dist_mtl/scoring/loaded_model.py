"""A checkpoint as a model in this process, whole on one device, which scores rows in memory.

The same logits to the bit as `predict` gives for a dataset of the same rows: by the same batches, encoder, kernels and
corrections.
"""

from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from dist_mtl.build import STATELESS
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.index import fill, read_index
from dist_mtl.checkpoint.memory_check import check_model
from dist_mtl.checkpoint.state_shards import held
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.training import RunConfig
from dist_mtl.data.batch import Batch
from dist_mtl.data.frame import FrameRows, answer
from dist_mtl.errors import ConfigError
from dist_mtl.model.local_tables import LocalTables
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.dynamic_tables import DynamicIds
from dist_mtl.parallel.runtime import Runtime, alone
from dist_mtl.parallel.shard import DYNAMIC
from dist_mtl.parallel.world import World
from dist_mtl.scoring.score import probabilities, score
from dist_mtl.scoring.trained_run import find

TABLE = "embeddings.collection.embedding_bags.{}.weight"  # the name of a table's weight in a state dict


class LoadedModel:
    """A trained model. `tasks`: the columns of its scores; `step`: that of its checkpoint; `module`: as a torch module.

    Safe to call from several threads, one at a time scores.
    """

    def __init__(self, run_dir: str | Path, which: str, raw: bool, extensions: Extensions) -> None:
        """`which`, `raw` and `extensions` as in `scoring.find`. Raises CheckpointError, ConfigError (several ranks)."""
        if World.from_env().size > 1:
            raise ConfigError(
                "load_model: a loaded model is whole in one process, and here are several ranks, which would each hold "
                "all tables; score a dataset folder with dist_mtl.scoring.predict, which shards them"
            )
        self.run_dir = Path(run_dir)
        self._rt = alone(RunConfig.at(run_dir))
        self._trained = find(str(run_dir), which, (), raw, self._rt, extensions)
        self.config: Config = self._trained.config
        self.step = commits.read(self._trained.folder).step
        self.module, self._ids = _load(self._trained.folder, self.config, self._rt)
        self._scoring = Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is predicted, in the order of the columns."""
        return self.config.tasks

    def look_up(self, batch: Batch) -> Batch:
        """The batch with rows for the keys of dynamic tables."""
        return batch if self._ids is None else replace(batch, ids=self._ids.look_up(batch.ids))

    def predict(self, frame: Any, logits: bool = False) -> Any:
        """Score the rows of `frame`: a pandas frame, an Arrow table or a list of dicts. The same kind comes back.

        Columns: the probability of each task, float32; with `logits` also logit_TASK. A pandas index is kept. Labels
        and other columns that no feature reads are ignored. Raises DataError: a column is missing or of another type,
        or a value breaks a rule of its feature; NonFiniteError.
        """
        rows = FrameRows.of(frame, self.config, self._trained.on)
        logits_NM = np.empty((rows.order.num_rows, len(self.tasks)), np.float32)
        with self._scoring:
            for scored in score(self, rows, self.config, self._rt, self._trained.adjustment):
                start, count = scored.carried.first_row, scored.carried.num_rows
                logits_NM[start : start + count] = scored.readings.logits_BM[:count].float().cpu().numpy()
        p_NM = probabilities(torch.from_numpy(logits_NM)).numpy()
        columns = {task: p_NM[:, m] for m, task in enumerate(self.tasks)}
        if logits:
            columns |= {f"logit_{task}": logits_NM[:, m] for m, task in enumerate(self.tasks)}
        return answer(frame, columns)


def _load(folder: Path, config: Config, rt: Runtime) -> tuple[MultiTaskModel, DynamicIds | None]:
    """The model of a configuration with the weights of a checkpoint. Raises CheckpointError."""
    check_model(config, STATELESS, True, rt, folder)
    module = MultiTaskModel(config, torch.device("meta"), scoring=True)
    tables = LocalTables(module.embeddings.collection, config.all_tables, rt.device)
    module.embeddings.collection = tables
    module.to(rt.device).eval().requires_grad_(False)
    ids = DynamicIds.of(config, rt, learns=False)
    weights = module.state_dict() | {TABLE.format(name): weight for name, weight in tables.weights.items()}
    state = {"model": weights} if ids is None else {"model": weights, DYNAMIC: ids.state()}
    store.verify(folder, rt)
    fill(folder, read_index(folder), held(state))
    if ids is not None:
        ids.filled()
    return module, ids
