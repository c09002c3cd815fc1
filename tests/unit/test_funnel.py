"""Which rows a task counts: an evaluation and a comparison say the same, for any number of labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dist_mtl.data.funnel import broken, spaces
from dist_mtl.scoring.score import read
from dist_mtl.tools.compare.aligned_predictions import Joint
from tests.support import samples

LABELS = ("click", "cart", "bought", "returned")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_spaces_are_those_of_the_tasks(count: int) -> None:
    names = [LABELS[s.label] if s.given is None else f"{LABELS[s.label]}|{LABELS[s.given]}" for s in spaces(count)]
    told = samples.config("unused", f"data.labels={list(LABELS[:count])}").tasks
    assert tuple(names) == told if count != 2 else told == ("ctr", "cvr", "ctcvr")
    assert [(s.label, s.given) for s in spaces(2)] == [(0, None), (1, 0), (1, None)]


def test_labels_that_are_no_funnel_are_tasks_of_their_own() -> None:
    overrides = ("data.labels=['income', 'married']", "data.funnel=false", "model.head='independent'")
    assert samples.config("unused", *overrides).tasks == ("income", "married")
    assert [(s.label, s.given) for s in spaces(2, is_funnel=False)] == [(0, None), (1, None)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evaluation_and_comparison_count_the_same_rows(count: int) -> None:
    draw = np.random.default_rng(count)
    labels_NL = np.cumprod(draw.random((200, count)) < 0.6, axis=1).astype(bool)
    weights_N = draw.integers(0, 3, 200).astype(np.float32)
    batch = SimpleNamespace(labels_BT=torch.from_numpy(labels_NL).float(), weight_B=torch.from_numpy(weights_N))
    readings = read(torch.randn(200, count), batch.labels_BT, batch.weight_B, "esmm")
    logits_MN = readings.logits_BM.T.numpy()
    joint = Joint(tuple("t" * len(logits_MN)), logits_MN, logits_MN, labels_NL.T, weights_N, {}, {})
    for task in range(len(logits_MN)):
        rows, counted = joint.of(task), readings.weights_BM[:, task].numpy() > 0
        print(f"{count} labels, task {task}: {counted.sum()} rows")
        assert rows.rows_n.tolist() == np.flatnonzero(counted).tolist() and 0 < counted.sum() < 200
        assert rows.labels_n.tolist() == (readings.labels_BM[:, task].numpy()[counted] > 0).tolist()
        assert rows.weights_n.tolist() == readings.weights_BM[:, task].numpy()[counted].tolist()


def test_broken_rows() -> None:
    labels_NT = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]])
    assert broken(labels_NT).tolist() == [[False] * 2, [False] * 2, [True, False], [False, True]]
    assert broken(labels_NT > 0).tolist() == broken(labels_NT).tolist()
