"""The best commit and the end of a run, from the scores of its evaluations."""

from dist_mtl.checkpoint.train_state import Selection
from dist_mtl.config.training import SelectConfig


def walk(scores: list[float], **spec: object) -> list[Selection]:
    """The selection after each evaluation, at steps 10, 20, ..."""
    select = SelectConfig(metrics={"ctr.auc": 1.0}, **spec)
    found = [Selection()]
    for index, score in enumerate(scores):
        found.append(found[-1].after(10 * (index + 1), score, select))
    return found[1:]


def test_the_best_is_the_highest_and_the_first_of_equals() -> None:
    walked = walk([0.5, 0.7, 0.7, 0.6, 0.8])
    assert [s.best_step for s in walked] == [10, 20, 20, 20, 50]
    assert [s.stale for s in walked] == [0, 0, 1, 2, 0]
    assert walked[-1].best_score == 0.8


def test_a_negative_score_is_a_score() -> None:
    assert walk([-3.0, -2.0])[-1] == Selection(20, -2.0, 0)


def test_a_gain_must_be_large_enough() -> None:
    assert [s.best_step for s in walk([0.5, 0.505, 0.511], min_gain=0.01)] == [10, 10, 30]


def test_patience() -> None:
    spec = SelectConfig(metrics={"ctr.auc": 1.0}, patience=2)
    stops = [s.stops(spec) for s in walk([0.5, 0.4, 0.6, 0.5, 0.5], patience=2)]
    assert stops == [False, False, False, False, True]
    assert not any(s.stops(SelectConfig(metrics={"ctr.auc": 1.0})) for s in walk([0.5] * 9))
    assert not Selection(10, 0.5, 99).stops(None)
