"""Parquet -> Parquet with scores, on any number of ranks: the same scores, to the bit, that an evaluation counts.

Rank r writes the files part-RRRRR-*; together they stand in the order of the dataset. Columns: `row_number` (the row's
number in the dataset), the columns kept, and for every task logit_TASK and p_TASK (float32).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from dist_mtl.bounded import parse_json, read_bytes
from dist_mtl.build import build_for_scoring, check_world, open_to_score
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.durable_io import read_text
from dist_mtl.config import Config
from dist_mtl.config.extensions import Extensions
from dist_mtl.config.training import RunConfig
from dist_mtl.data.files import manifest
from dist_mtl.data.files.disk import alone, clear, writing
from dist_mtl.data.files.folder import Folder, local
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.files.writer import Files, publish
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import DataError
from dist_mtl.metrics.slices import column_of
from dist_mtl.observability.run_dir import check, check_path, write_file
from dist_mtl.parallel.runtime import Runtime, runtime
from dist_mtl.scoring.score import NO_EXTENSIONS, Scored, probabilities, score
from dist_mtl.scoring.trained_run import Trained, find

ABOUT = "_predictions.json"  # engines pass over it, as over the manifest
MAX_ABOUT = 1 << 24  # bytes of it: the names of 100,000 columns
ROW = "row_number"


@dataclass(frozen=True)
class Predictions:
    """`_predictions.json`: what a folder of predictions was made from."""

    run: str
    step: int
    data: str
    digest: str  # of the dataset's manifest
    rows: int
    tasks: tuple[str, ...]
    labels: tuple[str, ...]  # empty: the dataset has none
    weight: str | None
    columns: tuple[str, ...]  # of the dataset, kept beside the scores
    adjusted: bool  # corrected for sampling, recalibrated
    fingerprint: str  # of all that decides the scores
    world: int


def predict_run(
    run_dir: str,
    data: str,
    out: str | Path,
    keep: Sequence[str] = (),
    which: str = "best",
    raw: bool = False,
    embedded: bool = False,
    extensions: Extensions = NO_EXTENSIONS,
) -> Predictions:
    """Score the dataset `data` by a commit of a run into the new folder `out`, itself a dataset. All ranks.

    `keep`: columns that are kept beside the labels and the columns of the run's `metrics`. `which` and `raw` as in
    `scoring.find`, `embedded` as in `runtime`. Raises DataError: `out` exists, a column is missing, the disk refuses;
    NonFiniteError for a score that is not finite. All on every rank, at the end of a window at the latest; `out` is
    then not there.
    """
    check_path(out)
    with runtime(RunConfig.at(run_dir), embedded) as rt:
        trained = find(run_dir, which, (), raw, rt, extensions)
        return predict(trained, run_dir, data, local(out), keep, rt)


def predict(trained: Trained, run_dir: str, data: str, out: Path, keep: Sequence[str], rt: Runtime) -> Predictions:
    """The same within a runtime."""
    config = trained.config
    check_world(config)
    staged = out.parent / f".staged-{out.name}"
    rt.from_first(lambda: _refuse_existing(out, staged))
    dataset = _open(data, trained, keep, rt)
    model = build_for_scoring(config, rt, trained.folder)
    store.load(model, trained.folder, rt, weights_only=True)
    about = rt.from_first(lambda: _about(trained, run_dir, data, dataset, rt.size))
    with ExitStack() as ending:
        rt.from_first(lambda: ending.enter_context(_staging(staged, out)))
        part = _Part(staged, rt.rank)
        for scored in score(model, dataset, config, rt, trained.adjustment, part.check):
            part.add(scored, config.tasks)
        # Each rank has hashed its own files by now: however large they are, none waits long for the first to publish.
        parts = rt.gather(rt.all_ranks(part.close))
        rt.from_first(lambda: _publish(staged, out, parts, about))
    return about


def _about(trained: Trained, run_dir: str, data: str, dataset: Dataset, world: int) -> Predictions:
    config, labelled = trained.config, dataset.encoder.labelled
    return Predictions(
        run=run_dir,
        step=commits.read(trained.folder).step,
        data=data,
        digest=dataset.manifest.digest,
        rows=dataset.manifest.num_rows,
        tasks=config.tasks,
        labels=config.data.labels if labelled else (),
        weight=config.data.weight if labelled else None,
        columns=dataset.carry,
        adjusted=any((trained.adjustment.kept, *trained.adjustment.maps)),
        fingerprint=fingerprint(trained, dataset.manifest.digest),
        world=world,
    )


def fingerprint(trained: Trained, digest: str) -> str:
    """Of all that decides the scores of these data, but for the number of ranks, which moves a logit by 2e-5 at most.

    With the time of the commit: a run made afresh may have one of the same step and the same description.
    """
    description = trained.folder / commits.NAME
    told = {
        "commit": hashlib.sha256(read_text(description, commits.MAX_BYTES).encode()).hexdigest(),
        "made": description.stat().st_mtime_ns,
        "adjustment": asdict(trained.adjustment),
        "data": digest,
        "versions": commits.versions(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _open(data: str, trained: Trained, keep: Sequence[str], rt: Runtime) -> Dataset:
    """The dataset with the columns that its predictions keep; labels only where it has them. Collective."""
    config = trained.config
    dataset = open_to_score(data, config, rt, keep, labelled=False, trained_on=trained.on)
    metrics = [column_of(config, name) for name in (*config.metrics.groups, *config.metrics.slices)]
    there = [name for name in metrics if name in dataset.schema.names]
    dataset = replace(dataset, carry=tuple(dict.fromkeys((*dataset.encoder.answers, *there, *keep))))
    rt.all_ranks(lambda: _refuse_taken(dataset, config))
    return dataset


def _refuse_taken(dataset: Dataset, config: Config) -> None:
    ours = {ROW, *(f"{kind}_{task}" for kind in ("logit", "p") for task in config.tasks)}
    if clash := ours & set(dataset.carry):
        raise DataError(
            f"{dataset.folder}: column `{min(clash)}` can not be kept, predictions have one of that name; rename it"
        )


class _Part:
    """One rank's files. The first fault is kept for `check`: to raise it between two would leave the others waiting."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._files = folder, Files(folder, f"part-{rank:05d}")
        self._fault: DataError | None = None

    def add(self, scored: Scored, tasks: Sequence[str]) -> None:
        """Write the rows of a batch."""
        if self._fault is None:
            try:
                with writing(self._folder):
                    self._files.add(_table(scored, tasks))
            except DataError as error:
                self._fault = error

    def check(self) -> None:
        """Raise the first fault, if there is one."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> Manifest:
        """End the last file, and list them all. Raises DataError."""
        with writing(self._folder):
            return manifest.joined(self._folder, self._files.close())


def _table(scored: Scored, tasks: Sequence[str]) -> pa.Table:
    """The rows of a batch without the padding: number, kept columns, logits, probabilities."""
    table, first = scored.carried.table, scored.carried.first_row
    rows = scored.carried.num_rows
    logits_NM = scored.readings.logits_BM[:rows].float().cpu()
    columns = {ROW: pa.array(np.arange(first, first + rows))}
    columns |= {name: table.column(name) for name in table.column_names}
    columns |= {f"logit_{task}": pa.array(logits_NM[:, m].numpy()) for m, task in enumerate(tasks)}
    p_NM = probabilities(logits_NM)
    columns |= {f"p_{task}": pa.array(p_NM[:, m].numpy()) for m, task in enumerate(tasks)}
    return pa.table(columns)


def _refuse_existing(out: Path, staged: Path) -> None:
    check(out.parent, folders=(staged.name,))
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; predictions are never overwritten. Remove it or choose another folder")


@contextmanager
def _staging(staged: Path, out: Path) -> Iterator[None]:
    """While `staged` is empty and ours alone; it is gone in the end. Raises DataError: another process makes `out`."""
    with alone(staged):
        try:
            _refuse_existing(out, staged)  # again: another process may have made it while this one got ready
            with writing(staged):
                clear(staged)  # of a killed attempt
            yield
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise


def _publish(staged: Path, out: Path, parts: Sequence[Manifest], about: Predictions) -> None:
    """Make the folder a dataset and give it its name: complete, or not there."""
    with writing(staged):
        write_file(staged / ABOUT, json.dumps(asdict(about), indent=1) + "\n")
        publish(staged, out, parts)


def read_about(folder: str | Path) -> Predictions:
    """What a folder of predictions was made from; its old name is read, too. Raises DataError if it is none."""
    path = Path(folder) / Folder.of(folder).beside(ABOUT)
    try:
        return TypeAdapter(Predictions).validate_python(parse_json(read_bytes(path, MAX_ABOUT)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a folder of predictions: {str(error).splitlines()[0]}") from None
