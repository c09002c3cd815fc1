"""A run folder that is used: the first true reason why a run does not continue there, and all that has changed."""

from pathlib import Path

import pytest

from dist_mtl.checkpoint.format import VERSION, Commit, check_same_run
from dist_mtl.config import Config
from dist_mtl.data import order
from dist_mtl.errors import CheckpointError
from tests.support import samples

STREAM = ("data.stream.by='day'",)


def refusal(before: Config, now: Config, manifest: str = "a" * 64, steps: int = 200, step: int = 40) -> str:
    """What is said of a checkpoint of `step`, trained on the data `aaa...`."""
    tree = before.model_dump(mode="json")
    commit = Commit(VERSION, step, 2, "a" * 64, {}, tree, [], {}, order=order.VERSION)
    with pytest.raises(CheckpointError) as caught:
        check_same_run(commit, now, manifest, steps, Path("run/checkpoints/step-40"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("train.global_batch=128",), "another batch"),
        (("train.global_batch=128", "features.user.policy='reject'", "seed=3"), "another batch"),
        (("features.price.mean=3.0", "model.head='ctcvr'"), "other features"),
        (("features.extra={kind='dense'}",), "other features"),
        (("tables.user.rows=7",), "other tables"),
        (("data.violations='drop'",), "another reading of the data"),
        (("model.tower=[9]", "optim.dense.lr=0.1"), "another model"),
        (("model.initial_bias='random'",), "another model"),
        (("optim.embedding.lr=0.1", "seed=3"), "other optimizers"),
        (("seed=3",), "another seed"),
        (("train.dense='bf16'",), "another configuration"),
    ],
)
@pytest.mark.parametrize("steps", [10, 200])
def test_the_reason_comes_before_the_number_of_steps(overrides: tuple[str, ...], reason: str, steps: int) -> None:
    message = refusal(samples.config("x"), samples.config("x", *overrides), steps=steps)
    assert f"step-40: made with {reason}, so this run would not continue it:\n" in message
    for key in (text.partition("=")[0] for text in overrides):
        assert f"\n  {key}" in message, "every key is named"
    assert "raise train.epochs" not in message and "data.train" not in message


@pytest.mark.parametrize("steps", [10, 200])
def test_other_data_come_first_of_all(steps: int) -> None:
    now = samples.config("x", "data.train='other'", "train.global_batch=128", "seed=3")
    message = refusal(samples.config("x"), now, "b" * 64, steps)
    assert "made with other data, so" in message
    assert f"\n  data.train: x/train (manifest {'a' * 12}) -> other (manifest {'b' * 12})\n" in message
    assert "\n  seed: 1 -> 3\n" in message and "\n  train.global_batch: 64 -> 128\n" in message
    assert "Choose another run.dir, or restore the data" in message
    same_name = refusal(samples.config("x"), samples.config("x"), "b" * 64, steps)
    assert "made with other data, so" in same_name and "x/train (manifest bbbbbbbbbbbb)" in same_name


def test_a_stream_of_another_batch_is_not_called_other_data() -> None:
    """Its digest is of the partitions up to a step, which a larger batch has moved."""
    before = samples.config("x", *STREAM)
    assert "made with another batch, so" in refusal(before, samples.config("x", *STREAM, "train.global_batch=128"), "b")
    assert "made with another reading of the data, so" in refusal(before, samples.config("x"), "b")
    assert "made with other data, so" in refusal(before, samples.config("x", *STREAM), "b")


def test_a_run_that_is_only_shorter_is_said_to_be_so() -> None:
    config = samples.config("x")
    assert "trained 1 step, more than the 0 that" in refusal(config, config, steps=0, step=1)
    assert "trained 1,500 steps, more than the 1,200 that" in refusal(config, config, steps=1200, step=1500)
