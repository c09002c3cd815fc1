"""The Python interface in one process, as in a notebook: it lives through every error, and leaves no trace."""

import doctest
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import dist_mtl as dm
from dist_mtl.checkpoint import store
from dist_mtl.data.files.writer import write_dataset
from tests.support import samples
from tests.support.harness import ROOT, Cluster, events
from tests.support.workers import commit_state
from tests.support.workers import train as train_afresh


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with `train` and `test`."""
    samples.write_logs(tmp_path / "train", 640)
    samples.write_logs(tmp_path / "test", 200, seed=1)
    return tmp_path


def config_for(folder: Path, name: str = "run", **overrides: Any) -> dm.Config:
    where = {"run.dir": folder / name, "data.test": folder / "test"}
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return dm.load_config(samples.tree(folder), where | dotted)


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    return commit_state(store.latest(run_dir))


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def process() -> dict[str, Any]:
    """What a process has for all of its code, and a training may touch."""
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    return {
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "wakeup": before,
        "threads": torch.get_num_threads(),
        "python threads": sorted(thread.name for thread in threading.enumerate() if thread.is_alive()),
        "filters": list(warnings.filters),
        "hook": sys.excepthook,
        "random": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "group": torch.distributed.is_initialized(),
        "flags": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
    }


def settled() -> dict[str, Any]:
    """The same once threads that were asked to end have done so."""
    deadline = time.monotonic() + 10
    while any(thread.name in ("signals", "window") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process()


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, dist_mtl; print(sorted({'torch', 'pyarrow', 'pydantic', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_functions_keep_their_names_once_their_modules_are_imported() -> None:
    import dist_mtl.scoring.evaluate
    import dist_mtl.scoring.predict
    import dist_mtl.tools.compare.comparison
    import dist_mtl.train  # noqa: F401

    assert all(callable(getattr(dm, name)) for name in ("train", "evaluate", "predict", "compare"))
    assert set(dm.__all__) <= {*dm.__all__} and all(getattr(dm, name) is not None for name in dm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dm.trian


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    failed, attempted = doctest.testmod(dm)
    assert not failed and attempted > 25


def test_train_score_compare(logs: Path) -> None:
    run = dm.train(config_for(logs, "a", train__epochs=2))
    other = dm.train(config_for(logs, "b", seed=2))
    assert (run.steps, other.steps) == (20, 10)
    assert 0 < run.evaluation.tasks["cvr"].auc.value < 1
    assert [event["step"] for event in run.events("commit")] == [20]
    assert run.config.train.epochs == 2
    scores = dm.load_model(run, checkpoint="best").predict(samples.logs(30))
    assert scores.column_names == ["ctr", "cvr", "ctcvr"] and scores.num_rows == 30
    assert dm.compare(run, logs / "b").verdict.overall
    assert dm.evaluate(run).tasks == run.evaluation.tasks
    made = dm.predict(run, logs / "test", logs / "scores", keep=["row"])
    assert (made.rows, made.step) == (200, 20)


def broken_data(folder: Path) -> dm.Config:
    rows = samples.logs(640).set_column(9, "click", pa.array(np.full(640, 2, np.int8)))
    write_dataset(folder / "broken", [rows])
    return config_for(folder, data__train=folder / "broken")


FAULTS: dict[str, tuple[type[BaseException], Callable[[Path], Any]]] = {
    "no configuration": (dm.ConfigError, lambda folder: dm.load_config(folder / "none.toml")),
    "a wrong key": (dm.ConfigError, lambda folder: config_for(folder, train__epoch=1)),
    "no Config": (dm.ConfigError, lambda folder: dm.train("configs/quickstart.toml")),
    "a world that does not fit": (dm.ConfigError, lambda folder: dm.train(config_for(folder, run__device="cuda"))),
    "no data": (dm.DataError, lambda folder: dm.train(config_for(folder, data__train=folder / "none"))),
    "a label of 2": (dm.DataError, lambda folder: dm.train(broken_data(folder))),
    "losses that are not finite": (
        dm.NonFiniteError,
        lambda folder: dm.train(config_for(folder, features__price__std=1e-30, run__dir=folder / "nan")),
    ),
    "no checkpoint": (dm.CheckpointError, lambda folder: dm.load_model(folder)),
    "another configuration": (dm.CheckpointError, lambda folder: retrained(folder)),
}


def retrained(folder: Path) -> dm.Run:
    dm.train(config_for(folder, "twice", train__max_steps=1))
    return dm.train(config_for(folder, "twice", seed=5))


@pytest.mark.parametrize("fault", FAULTS)
def test_after_an_error_the_next_call_works_and_the_process_is_as_before(
    fault: str, logs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if fault == "a world that does not fit" and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    kind, action = FAULTS[fault]
    torch.set_num_threads(1)
    before = process()
    with pytest.raises(kind) as caught:
        action(logs)
    assert isinstance(caught.value, dm.DistMtlError)
    assert settled() == before
    assert "Traceback" not in "".join(capfd.readouterr())
    assert dm.train(config_for(logs, "after", train__max_steps=2, run__threads=2)).steps == 2
    assert settled() == before


def test_trainings_of_one_process_have_the_bits_of_fresh_ones(logs: Path) -> None:
    options = {"train__epochs": 2, "model__dropout": 0.1}
    Cluster(1).run(train_afresh, config_for(logs, "afresh", **options))
    torch.manual_seed(123)
    for name in ("first", "second"):
        dm.train(config_for(logs, name, **options))
        assert_same_bits(weights(logs / name), weights(logs / "afresh"))
        torch.rand(7)


def interrupt_at(run_dir: Path, step: int, times: int) -> threading.Thread:
    """Ctrl-C, so many times, once the run has reached a step."""

    def work() -> None:
        while not any(event["step"] >= step for event in events(run_dir, "step")):
            time.sleep(0.005)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_an_interrupt_saves_and_the_same_call_continues(logs: Path) -> None:
    options = {"train__epochs": 40}
    dm.train(config_for(logs, "whole", **options))
    before = settled()
    thread = interrupt_at(logs / "cut", 3, times=1)
    with pytest.raises(dm.Preempted, match="committed"):
        dm.train(config_for(logs, "cut", **options))
    thread.join()
    assert settled() == before
    assert dm.train(config_for(logs, "cut", **options)).steps == 400
    assert_same_bits(weights(logs / "cut"), weights(logs / "whole"))


def test_a_second_interrupt_ends_the_call_and_not_the_process(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first is not looked at: in the middle of a step that takes long."""
    from dist_mtl.training import session

    def stuck(*_: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        time.sleep(60)

    for attempt in range(4):  # more often than run.attempts
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(session.Session, "examine", stuck)
            dm.train(config_for(logs))
        assert not torch.distributed.is_initialized(), attempt
    assert dm.train(config_for(logs)).steps == 10


def test_a_defect_is_an_internal_error_with_its_cause(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dist_mtl.training import session

    def defect(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    for _ in range(4):  # more often than run.attempts
        with monkeypatch.context() as patch, pytest.raises(dm.InternalError, match="by zero") as caught:
            patch.setattr(session.Session, "examine", defect)
            dm.train(config_for(logs))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert dm.train(config_for(logs)).steps == 10


def test_a_group_of_the_caller_is_named(logs: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(dm.InternalError, match="in a process group"):
            dm.train(config_for(logs))
    finally:
        torch.distributed.destroy_process_group()
    assert dm.train(config_for(logs)).steps == 10


@pytest.mark.parametrize("sharding", ["row_wise", "table_row_wise", "grid", "data_parallel"])
def test_every_sharding_trains_twice(sharding: str, logs: Path) -> None:
    """TorchRec keeps the process groups of nodes for a whole process."""
    tree = samples.tree(logs, sharding) | {"optim": {"embedding": {"kind": "adagrad"}}}
    for name in ("a", "b"):
        run = dm.train(dm.load_config(tree, {"run.dir": logs / name, "train.max_steps": 2}))
        assert dm.load_model(run).predict(samples.logs(3)).num_rows == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.epoch": 3}, "train.epoch is not a key"),
        ({"train.epochs": "3"}, "train.epochs: "),
        ({"train.epochs.x": 3}, r"overrides\['train.epochs.x'\]: `epochs` is a value"),
        ({"": 3}, "a key is written as"),
        ("train.epochs=3", "is one text"),
    ],
)
def test_overrides_are_checked(overrides: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(dm.ConfigError, match=message):
        dm.load_config(samples.tree(tmp_path) | {"train": {"epochs": 1}}, overrides)


def test_overrides_are_values_of_python(tmp_path: Path) -> None:
    values = {
        "train.epochs": np.int64(3),
        "run.dir": tmp_path / "x",
        "model.tower": (8, 4),
        "data.weight": "importance",
    }
    config = dm.load_config(samples.tree(tmp_path), values)
    texts = ["train.epochs=3", f"run.dir={tmp_path / 'x'}", "model.tower=[8, 4]", "data.weight=importance"]
    assert config == dm.load_config(samples.tree(tmp_path), texts)
    assert dm.load_config(samples.write_toml(tmp_path / "c.toml", samples.tree(tmp_path)), values) == config
