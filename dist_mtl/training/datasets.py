"""The datasets of a run: opened, fitted and checked before the first step."""

import time
from dataclasses import dataclass, replace

import torch

from dist_mtl.build import fit, open_dataset
from dist_mtl.checkpoint import format as commits
from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.fit import inherited, unfitted, with_found
from dist_mtl.data.files import manifest
from dist_mtl.data.label_counts import count_classes
from dist_mtl.data.loader import Dataset
from dist_mtl.data.shuffle_quality import advice
from dist_mtl.data.synthetic.logs import write_sample
from dist_mtl.errors import DataError
from dist_mtl.observability.events import Observer
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.scoring.evaluate import TestSet, open_test
from dist_mtl.training.progressive_validation import Ahead


@dataclass(frozen=True)
class Data:
    """The datasets of a run, opened and verified before anything is trained: a mistake in them must not wait."""

    train: Dataset
    validation: TestSet | None  # only if it is evaluated on the way
    test: TestSet | None
    ahead: Ahead | None = None  # the partitions of a stream


def open_data(config: Config, rt: Runtime, observer: Observer) -> tuple[Config, Data]:
    """Open them all; where `data.train` does not exist and `data.sample` describes it, the first rank makes it.

    The configuration comes back with what its features ask of the training rows.
    """
    if config.data.sample is not None:
        rt.from_first(lambda: _make_sample(config, observer))
    train = open_dataset(config.data.train, config, config.data.shuffle, rt)
    if message := advice(train.order):
        observer.event("warning", message=message)
    if unfitted(config):
        config = _fitted(config, train, rt, observer)
        train = replace(train, encoder=Encoder(config))
    on, others = train.trained_on, config.data
    test = open_test(others.test, config, rt, on) if others.test else None
    validation = test if others.validation is None else open_test(others.validation, config, rt, on)
    return config, Data(train, validation if config.evaluation_steps else None, test, Ahead.of(train, config, rt))


def _fitted(config: Config, train: Dataset, rt: Runtime, observer: Observer) -> Config:
    """A run that goes on takes what its newest commit has; all else is found in one pass over the training rows."""
    commit = rt.from_first(lambda: store.newest_description(config.run.dir))
    if commit is not None:
        earlier = rt.all_ranks(lambda: commits.config_of(commit, config.run.dir))
        config = with_found(config, inherited(config, earlier))
    if not unfitted(config):
        return config
    started = time.monotonic()
    found, warnings = fit(config, train, rt)
    observer.event("fitted", features=found, seconds=time.monotonic() - started)
    for message in warnings:
        observer.event("warning", message=message)
    return with_found(config, found)


def check_classes(data: Data, config: Config, rt: Runtime, observer: Observer) -> None:
    """Tell of tasks that a dataset can not judge. Raises DataError, on every rank, if `select` is to go by one."""
    sets = {str(test.dataset.folder): test.dataset for test in (data.test, data.validation) if test is not None}
    for folder, dataset in sets.items():
        lacking = _one_class(dataset, config, rt)
        if config.select is not None and folder == str(data.validation.dataset.folder):
            named = [name for name in config.select.metrics if name.rpartition(".")[2] not in ("logloss", "ece")]
            judged = sorted(t for t in lacking if any(name.startswith(f"{t}.") for name in named))
            rt.all_ranks(lambda tasks=judged, place=folder: _refuse_selection(tasks, place))
        for task in lacking:
            message = f"{folder}: one class only for {task.upper()}, so its AUC and NE are not defined there"
            observer.event("warning", message=message)


def _one_class(dataset: Dataset, config: Config, rt: Runtime) -> list[str]:
    """The tasks of which a dataset has no positive, or nothing else."""
    counts = rt.all_ranks(lambda: count_classes(dataset, rt.rank, rt.size))
    total = rt.all_reduce(torch.from_numpy(counts).to(rt.device)).tolist()
    return [task for task, both in zip(config.tasks, total, strict=True) if not all(both)]


def _refuse_selection(tasks: list[str], folder: str) -> None:
    if tasks:
        raise DataError(
            f"select.metrics: {folder} has one class only for {', '.join(tasks)}, so their metrics are not defined "
            f"there; validate on more rows, or select by another task"
        )


def _make_sample(config: Config, observer: Observer) -> None:
    there, started = manifest.exists(config.data.train), time.monotonic()
    try:
        write_sample(config.data.sample, config.data.train, config.data.test)
    except OSError as error:
        raise DataError(f"{error.filename}: the sample logs can not be written: {error.strerror}") from None
    seconds = time.monotonic() - started
    if there:
        return
    observer.event("sample_logs", train=config.data.train, test=config.data.test, seconds=seconds)
