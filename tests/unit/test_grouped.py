"""R10: metrics of groups against their plain definitions, and the same bits however the rows are cut and ordered."""

import math
import os
import resource
import tempfile
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import DataError, InternalError, NonFiniteError
from dist_mtl.metrics.exchange import GroupedScores
from dist_mtl.metrics.grouped import (
    GroupMetrics,
    GroupSums,
    GroupValues,
    _exact_sum,
    group_metrics,
    group_sums,
    group_values,
    row_weights,
)
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.world import World
from tests.support.group_workers import Table, difference, plain, score

KS = (1, 3, 5, 10)
ALONE = Runtime(World.from_env(), torch.device("cpu"), None, RunConfig(dir="unused"))
CASES = settings(deadline=None, max_examples=150, derandomize=True)


def values(keys: list, logits: list, labels: list, weights: list | None = None, ks: tuple = KS) -> GroupValues:
    weights = np.ones(len(keys)) if weights is None else np.array(weights, float)
    return group_values(
        np.array(keys, np.int64), np.array(logits, np.float32), np.array(labels, bool), row_weights(weights), ks
    )


def metrics(table: Table, task: int = 0) -> GroupMetrics:
    return group_metrics(sums(table, task), KS)


def sums(table: Table, task: int = 0) -> GroupSums:
    return group_sums(values(table.keys_N, *(x[:, task] for x in list(vars(table).values())[1:])))


def searches(rows: int, groups: int, seed: int = 0, tasks: int = 1, scores: int = 12) -> Table:
    """Groups of very different sizes (of one row, too) and labels (of one class, too), ties, weights with zeros."""
    draw = np.random.default_rng(seed)
    names = draw.integers(-(2**63), 2**63 - 1, groups, endpoint=True)
    rate = np.where(draw.random(groups) < 0.2, 0.0, draw.random(groups) ** 3)
    place = (groups * draw.random(rows) ** 2).astype(int)
    logits = (draw.integers(0, scores, (rows, tasks)) / 4 - 5).astype(np.float32)
    labels = draw.random((rows, tasks)) < rate[place, None]
    weights = draw.choice(np.array([0, 0.5, 1, 1, 1, 2.75, 0.1], np.float32), (rows, tasks))
    return Table(names[place], logits, labels, weights)


@pytest.mark.parametrize(
    ("rows", "groups", "scores"), [(3_000, 400, 12), (3_000, 40, 3), (2_000, 30, 2**20), (200, 9, 1)]
)
def test_equal_to_pandas_and_scikit_learn(rows: int, groups: int, scores: int) -> None:
    table = searches(rows, groups, scores=scores)
    table.weights_NM[:] = row_weights(table.weights_NM) * 2.0**-20  # as they are counted: 0.1 is no multiple
    found, expected = metrics(table), plain(table, 0, KS)
    print(
        f"{rows} rows, {found.groups} of {found.groups_total} groups: max difference {difference(found, expected):.1e}"
    )
    assert found.groups > 1 and difference(found, expected) < 1e-12


def test_the_values_of_a_group_by_hand() -> None:
    found = values([7, 7, 7, -3], [2, 1, 0, 5], [0, 1, 0, 1], ks=(1, 2))
    assert found.keys_G.tolist() == [-3, 7] and found.rows_G.tolist() == [1, 3]
    assert math.isnan(found.auc_G[0]) and found.auc_G[1] == 0.5
    assert found.mrr_G.tolist() == [1, 0.5]
    assert found.ndcg_KG[0].tolist() == [1, 0]
    assert math.isclose(found.ndcg_KG[1, 1], 1 / math.log2(3), rel_tol=1e-14)


@pytest.mark.parametrize("rows", [2, 3, 49, 1_000, 4_097])
def test_a_perfect_group_is_exactly_1_and_its_reverse_0(rows: int) -> None:
    logits, labels = np.arange(rows), np.arange(rows) >= rows - rows // 2
    weights = np.random.default_rng(0).random(rows) + 0.1
    best, worst = (values([1] * rows, x, labels, weights) for x in (logits, -logits))
    assert (best.auc_G, best.mrr_G, worst.auc_G) == (1, 1, 0) and (best.ndcg_KG == 1).all()


def test_values_are_rounded_so_that_their_squares_sum_exactly() -> None:
    table = searches(3_000, 200)
    found = values(table.keys_N, *(x[:, 0] for x in list(vars(table).values())[1:]))
    for some in (found.auc_G, found.mrr_G, found.ndcg_KG):
        assert (np.nan_to_num(some) * 2.0**48 % 1 == 0).all() and len(np.unique(some)) > 5


def test_ties_are_expectations_over_random_order() -> None:
    """Every order of the rows of a tie, one by one."""
    for labels in ([1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0]):
        orders = [[0, 0, *order] for order in permutations(labels)]  # below two negatives
        ranks = [order.index(1) + 1 for order in orders]
        found = values([5] * (2 + len(labels)), [9, 9] + [3] * len(labels), [0, 0, *labels])
        assert math.isclose(found.mrr_G[0], np.mean([1 / r for r in ranks]), rel_tol=1e-13)
        gains = [sum(y / math.log2(i + 2) for i, y in enumerate(order[:3])) for order in orders]
        ideal = sum(1 / math.log2(i + 2) for i in range(min(3, sum(labels))))
        assert math.isclose(found.ndcg_KG[KS.index(3), 0], np.mean(gains) / ideal, rel_tol=1e-13)


@pytest.mark.parametrize(("rows", "positives"), [(100_000, 1), (100_000, 2), (50_001, 25_000)])
def test_reciprocal_rank_of_one_great_tie(rows: int, positives: int) -> None:
    """A constant score: exact fractions for the definition, which doubles the terms until they no longer matter."""
    labels = np.arange(rows) < positives
    expected, left = Fraction(0), 1.0
    for j in range(rows - positives + 1):
        expected += Fraction(left * positives / (rows - j) / (j + 1))
        left *= (rows - positives - j) / (rows - j)
        if left < 1e-30:
            break
    found = values([1] * rows, [0.5] * rows, labels)
    assert math.isclose(found.mrr_G[0], expected, rel_tol=1e-11)
    assert found.auc_G[0] == 0.5


def test_a_weight_is_a_multiplicity_in_the_auc_and_0_leaves_out() -> None:
    table = searches(500, 20)
    logits, labels = table.logits_NM[:, 0], table.labels_NM[:, 0]
    weights = np.random.default_rng(1).integers(0, 4, 500)
    weighted = values(table.keys_N, logits, labels, weights)
    repeated = values(*(np.repeat(x, weights) for x in (table.keys_N, logits, labels)))
    once = values(*(x[weights > 0] for x in (table.keys_N, logits, labels)))
    for name in ("keys_G", "auc_G", "weights_G"):
        np.testing.assert_array_equal(getattr(weighted, name), getattr(repeated, name))
    for name in ("mrr_G", "ndcg_KG", "rows_G"):
        np.testing.assert_array_equal(getattr(weighted, name), getattr(once, name))


def test_zeros_of_both_signs_and_negative_logits_are_in_order() -> None:
    assert values([1] * 2, [0.0, -0.0], [0, 1]).auc_G == 0.5
    logits = np.float32([-3e38, -2, -1e-40, 0, 1e-40, 2, 3e38])
    labels = [0, 1, 0, 1, 1, 0, 1]
    assert math.isclose(values([1] * 7, logits, labels).auc_G[0], roc_auc_score(labels, logits), rel_tol=1e-14)


@pytest.mark.parametrize("case", ["empty", "weights of 0", "negatives", "positives", "one group"])
def test_what_is_not_defined_is_nan(case: str) -> None:
    table = searches(0 if case == "empty" else 30, 5)
    if case in ("negatives", "positives"):
        table.labels_NM[:] = case == "positives"
    if case == "one group":
        table.keys_N[:], table.labels_NM[:3], table.labels_NM[3:] = 4, True, False
    table.weights_NM[:] = case != "weights of 0"
    found = metrics(table)
    assert difference(found, plain(table, 0, KS)) < 1e-12
    assert math.isnan(found.gauc) == (case != "one group") and math.isnan(found.gauc_error)
    assert math.isnan(found.mrr) == (case in ("empty", "weights of 0", "negatives"))


@CASES
@given(st.data())
def test_cut_shuffled_and_merged_sums_are_the_same_bits(data: st.DataObject) -> None:
    table = searches(data.draw(st.integers(0, 120)), data.draw(st.integers(1, 30)), data.draw(st.integers(0, 999)))
    order = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(len(table.keys_N))
    parts = data.draw(st.integers(1, 5))
    owner = (table.keys_N.astype(np.uint64) >> np.uint64(20)) % np.uint64(parts)
    pieces = [sums(table.rows(order[owner[order] == part])) for part in range(parts)]
    whole = sums(table)
    assert sum(data.draw(st.permutations(pieces)), GroupSums.zero(len(KS))) == whole
    assert GroupSums.from_limbs(np.sum([piece.limbs() for piece in pieces], axis=0)) == whole


@CASES
@given(st.lists(st.tuples(st.integers(0, 2**53), st.integers(-96, 60)), max_size=40))
def test_sums_of_floats_are_exact(parts: list[tuple[int, int]]) -> None:
    numbers = [math.ldexp(mantissa, exponent) for mantissa, exponent in parts]
    assert _exact_sum(np.array(numbers)) == sum(map(Fraction, numbers)) * 2**96


def test_standard_errors_are_those_of_a_bootstrap_over_groups() -> None:
    table = searches(20_000, 800)
    found, one = metrics(table), values(table.keys_N, *(x[:, 0] for x in list(vars(table).values())[1:]))
    draw, both, some = np.random.default_rng(0), ~np.isnan(one.auc_G), ~np.isnan(one.mrr_G)
    again = []
    for _ in range(2_000):
        a, s = (draw.choice(np.flatnonzero(m), m.sum()) for m in (both, some))
        gauc = np.average(one.auc_G[a], weights=one.weights_G[a])
        again.append((gauc, one.auc_G[a].mean(), one.mrr_G[s].mean(), one.ndcg_KG[2, s].mean()))
    stated = (found.gauc_error, found.gauc_unweighted_error, found.mrr_error, found.ndcg_error["5"])
    for name, error, boot in zip(("gauc", "unweighted", "mrr", "ndcg@5"), stated, np.std(again, axis=0), strict=True):
        print(f"{name}: standard error {error:.5f}, bootstrap {boot:.5f}")
        assert abs(error / boot - 1) < 0.08


def test_weights_that_would_overflow_are_refused() -> None:
    with pytest.raises(DataError, match="scale them down"):
        row_weights(np.full(5, 2.0**41))
    assert row_weights(np.full(3, 2.0**40)).sum() == 3 << 60
    heavy = searches(60, 6)
    heavy.weights_NM[:] *= 2.0**34
    light = searches(60, 6)
    assert math.isclose(metrics(heavy).gauc, metrics(light).gauc, rel_tol=1e-6)


def scores(scratch: Path, limit: int, batch: int, table: Table, calls: int = 3) -> list[GroupMetrics]:
    with GroupedScores(table.labels_NM.shape[1], KS, ALONE, scratch, limit, calls) as grouped:
        return score(grouped, table, batch)


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder, named or not."""
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith(f"{folder}/")]


def test_spilled_rows_give_the_same_bits_and_leave_no_file(tmp_path: Path) -> None:
    table = searches(4_000, 300, tasks=3)
    kept = scores(tmp_path / "none", 10_000, 512, table)
    assert not (tmp_path / "none").exists()  # nothing is written that fits into memory
    assert difference(kept[1], metrics(table, 1)) == 0
    for limit, batch in ((0, 64), (700, 100), (3_900, 512)):
        assert scores(tmp_path, limit, batch, table) == kept
        assert not list(tmp_path.iterdir()) and not open_files(tmp_path)


def test_a_rank_without_rows(tmp_path: Path) -> None:
    empty = searches(0, 3, tasks=2)
    assert [m.groups_total for m in scores(tmp_path, 10, 4, empty)] == [0, 0]


def test_a_spill_has_no_name_and_ends_with_an_error(tmp_path: Path) -> None:
    """So that a killed process leaves nothing either: the kernel frees what no name and no process holds."""
    table = searches(100, 10)
    with pytest.raises(KeyboardInterrupt), GroupedScores(1, KS, ALONE, tmp_path, 20, 1) as grouped:
        grouped.update(*vars(table).values())
        print(open_files(tmp_path))
        assert len(open_files(tmp_path)) == 1 and not list(tmp_path.iterdir())
        raise KeyboardInterrupt
    assert not open_files(tmp_path)


def test_a_folder_that_is_read_only_spills_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # what tempfile remembers of TMPDIR
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    table = searches(100, 10)
    with GroupedScores(1, KS, ALONE, Path("/proc/self"), 20, 1) as grouped:  # not even root writes there
        grouped.update(*vars(table).values())
        assert len(open_files(tmp_path)) == 1
        assert difference(grouped.compute()[0], metrics(table)) == 0


@pytest.mark.parametrize(("column", "value"), [(1, math.nan), (1, math.inf), (3, math.nan), (3, -1.0)])
def test_bad_scores_and_weights_are_refused(tmp_path: Path, column: int, value: float) -> None:
    table = searches(100, 10)
    table.weights_NM[:] = 1
    list(vars(table).values())[column][50] = value
    with pytest.raises(NonFiniteError if column == 1 else DataError, match="not finite|want finite"):
        scores(tmp_path, 1_000, 10, table)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InternalError, match=r"file: .* bytes of grouped scores could not be written \(Not a directory"):
        scores(tmp_path / "file", 10, 10, searches(100, 10))


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(InternalError, match=r"could not be written \(File too large\); make room there"):
            scores(tmp_path, 10, 10, searches(100, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not open_files(tmp_path)
