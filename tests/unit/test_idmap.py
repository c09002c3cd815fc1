"""The id map: what the property of tests/property/test_idmap.py does not reach, and the rules of its configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_mtl.config import DynamicRows, TableConfig
from dist_mtl.config.file import parse
from dist_mtl.data.features.idmap import TALLY, TOP, IdMap, num_segments, num_shared
from dist_mtl.data.features.key_store import WAYS
from dist_mtl.data.hashing import hash_keys
from dist_mtl.errors import ConfigError
from tests.support import samples


def tables(**rules: Any) -> dict[str, TableConfig]:
    return {"user": TableConfig(rows=200, dynamic=DynamicRows(**{"fallback": 0.03} | rules))}


def learn(one: IdMap, ids: np.ndarray, step: int) -> np.ndarray:
    keys = hash_keys(np.asarray(ids), 0)
    return one.learn(np.zeros(len(keys), np.int64), keys, np.ones(len(keys), np.int64), step).row_N


@pytest.mark.parametrize("evict", ["lfu", "lru"])
def test_an_id_that_goes_on_coming_keeps_its_row(evict: str) -> None:
    """While 20 new ids a step, each seen twice, want one of 192 rows."""
    one, draw = IdMap(tables(evict=evict), 0, 1), np.random.default_rng(0)
    rows = {}
    for step in range(1, 101):
        new = np.repeat(1000 + 20 * step + np.arange(20), 2)
        found = learn(one, draw.permutation(np.concatenate([np.arange(10), np.arange(10), new])), step)
        loyal = learn(one, np.arange(10), step)
        rows.setdefault("first", loyal)
        assert np.array_equal(loyal, rows["first"]) and len(found) == 60
    tally = dict(zip(TALLY, one.tally_TX[0].tolist(), strict=True))
    print(f"{evict}: {tally}")
    assert one.occupied_T[0] == 192 == (one.rows.key_GW >= 0).sum() and tally["evicted"] > 1000


def test_lfu_forgets_what_does_not_come_any_more() -> None:
    """The ids of the past had 50 sightings each; those that come now take their rows when the counts have decayed."""
    one = IdMap(tables(half_life=100), 0, 1)
    for step in range(1, 51):
        learn(one, np.arange(300), step)
    taken = []
    for step in range(51, 151):
        rows = learn(one, 5000 + np.arange(100), step)
        taken.append(int((rows < 192).sum()))
    print(f"of 100 new ids, with a row after 2, 20, 100 steps: {taken[1]}, {taken[19]}, {taken[99]}")
    assert taken[19] < 20 and taken[99] == 100


def test_scores_are_scaled_down_without_a_trace() -> None:
    """A map whose segments are TOP half-lives old, and one whose scores were taken down before, do the same."""
    old, young = IdMap(tables(half_life=1), 0, 1), IdMap(tables(half_life=1), 0, 1)
    draw = np.random.default_rng(3)
    steps = [(600 * draw.random(150) ** 2).astype(np.int64) for _ in range(30)]
    for step, ids in enumerate(steps[:15], 1):
        for one in (old, young):
            learn(one, ids, step)
    old.age_G += TOP * WAYS
    for places in (old.rows, old.waiting):
        places.score_GW *= 2.0**TOP
    for step, ids in enumerate(steps[15:], 16):
        assert np.array_equal(learn(old, ids, step), learn(young, ids, step))
    assert np.array_equal(old.rows.score_GW, young.rows.score_GW) and np.array_equal(old.age_G, young.age_G)
    assert old.tally_TX[0, 3] > 50  # evictions, by those scores


def test_the_share_of_lookups_without_a_row_is_counted() -> None:
    one = IdMap(tables(), 0, 1)
    first = learn(one, [1, 2, 3, 3], 1)
    second = learn(one, [1, 2, 4], 2)
    assert (first[:2] >= 192).all() and (second[:2] < 192).all() and second[2] >= 192
    assert dict(zip(TALLY, one.tally_TX[0].tolist(), strict=True)) == {
        "lookups": 7, "fallback": 3, "admitted": 3, "evicted": 0,
    }  # fmt: skip
    before = one.rows.key_GW.copy(), one.tally_TX.copy()
    rows = one.look_up(np.zeros(4, np.int64), hash_keys(np.array([1, 2, 4, 99]), 0))
    assert np.array_equal(rows[:3], second) and rows[3] >= 192
    assert np.array_equal(one.rows.key_GW, before[0]) and np.array_equal(one.tally_TX, before[1])


def test_a_key_of_another_segment_is_found_out() -> None:
    one = IdMap(tables(), 0, 1)
    learn(one, np.repeat(np.arange(90), 2), 1)
    taken = one.occupied_T.copy()
    assert one.refresh() and one.occupied_T == taken == 90
    moved = one.rows.key_GW[0, 0]
    one.rows.key_GW[0, 0], one.rows.key_GW[2, 0] = one.rows.key_GW[2, 0], moved
    assert not one.refresh()


@pytest.mark.parametrize("rows", [128, 129, 191, 1_000, 1_000_003])
@pytest.mark.parametrize("fallback", [None, 0.001, 0.01, 0.5])
def test_every_dynamic_table_has_segments_and_a_fallback_part(rows: int, fallback: float | None) -> None:
    table = TableConfig(rows=rows, dynamic=DynamicRows(fallback=fallback))
    rest, share = rows - WAYS * num_segments(table), fallback or 0
    assert num_segments(table) >= 1 and rest >= max(1, rows * share) and rest < rows * share + WAYS + 1
    assert num_shared(table) == (1 if fallback is None else rest)


def test_ids_without_a_row_share_one_unless_more_are_configured() -> None:
    """And it does not depend on the step: while they wait, and when they are looked up later."""
    for rules, expected in (({"fallback": None}, {192}), ({"fallback": 0.03}, set(range(192, 200)))):
        one = IdMap(tables(**rules), 0, 1)
        learnt = learn(one, np.arange(300), 1)
        assert set(learnt.tolist()) == expected
        assert np.array_equal(learnt, one.look_up(np.zeros(300, np.int64), hash_keys(np.arange(300), 0)))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["features.user.policy='dynamic'"], "policy `dynamic` needs tables.user.dynamic"),
        (["tables.user.dynamic={}"], "every feature of that table needs policy = 'dynamic'"),
        (["tables.item.dynamic={}", "features.item.policy='dynamic'"], "features.history: tables.item.dynamic gives"),
        (["tables.user={rows=127, dynamic={}}", "features.user.policy='dynamic'"], "128 to 2**37 rows; got 127"),
        (
            ["tables.user={rows=999, dynamic={evict='lru', half_life=3}}", "features.user.policy='dynamic'"],
            "half_life: lru counts nothing",
        ),
        (["tables.user={rows=999, dynamic={fallback=0.6}}"], "dynamic.fallback"),
        (["tables.user={rows=999, dynamic={admit=0}}"], "dynamic.admit"),
        (["tables.user={rows=999, dynamic={evict='fifo'}}"], "dynamic.evict"),
    ],
)
def test_what_a_configuration_can_not_ask_for(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("*", r"\*").replace("(", r"\(")):
        parse(samples.tree(tmp_path), overrides)
