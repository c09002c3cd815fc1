"""Is +0.1 % real: the statistics of a comparison against plain definitions, what they promise, and their words."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DataError, InternalError
from dist_mtl.metrics.grouped import group_values
from dist_mtl.metrics.paired import Paired, holm, paired_delong, paired_means
from dist_mtl.tools.compare import statistics, verdict
from dist_mtl.tools.compare.aligned_predictions import Joint, Keys, TaskRows, read
from dist_mtl.tools.compare.statistics import slice_differences, task_differences

TASKS = ("ctr", "cvr", "ctcvr")


def joint(rows: int = 6_000, groups: int = 300, seed: int = 0, weights: np.ndarray | None = None) -> Joint:
    """Clicks and conversions, and two noisy scores of them; rows of a group share a part of their noise."""
    draw = np.random.default_rng(seed)
    user_N = draw.integers(0, groups, rows)
    truth_N = draw.normal(size=rows) - 1.5
    click_N = draw.random(rows) < 1 / (1 + np.exp(-truth_N))
    labels_LN = np.stack([click_N, click_N & (draw.random(rows) < 0.3)])

    def scores(noise: float) -> np.ndarray:
        shared = draw.normal(size=groups)[user_N]
        return (truth_N + noise * (draw.normal(size=(3, rows)) + shared)).astype(np.float32)

    searches = Keys(user_N * 1000 + draw.integers(0, 5, rows), np.ones(rows, bool))
    keys = {"user": Keys(user_N, draw.random(rows) < 0.95), "search": searches}
    days = {"day": draw.integers(0, 3, rows).astype(np.int32)}
    ones = np.ones(rows, np.float32) if weights is None else weights
    return Joint(TASKS, scores(0.6), scores(0.5), labels_LN, ones, keys, days)


def plain(x: Joint, task: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and both scores of the task's own space, written out."""
    click, conversion = x.labels_LN
    space = click if TASKS[task] == "cvr" else np.ones(len(click), bool)
    label = click if TASKS[task] == "ctr" else conversion
    return label[space], x.a_MN[task][space], x.b_MN[task][space]


@pytest.mark.parametrize("task", range(3), ids=TASKS)
def test_metrics_are_those_of_scikit_learn(task: int) -> None:
    x = joint()
    found = task_differences(x, None, {}, (5,), None)[TASKS[task]]
    labels, a, b = plain(x, task)
    base = log_loss(labels, np.full(len(labels), labels.mean()))
    off = 0.0
    for side, scores in (("a", a), ("b", b)):
        p = 1 / (1 + np.exp(-scores.astype(float)))
        expected = (
            roc_auc_score(labels, scores),
            log_loss(labels, p),
            log_loss(labels, p) / base,
            p.sum() / labels.sum(),
        )
        got = found.auc, found.logloss, found.normalised_entropy, found.pcoc
        off = max(off, *(abs(getattr(m, side) - e) for m, e in zip(got, expected, strict=True)))
    print(f"{TASKS[task]}: {found.rows} rows, {found.positives} positives; max difference from scikit-learn {off:.1e}")
    assert off < 1e-9
    assert (found.rows, found.positives) == (len(labels), int(labels.sum()))
    assert found.auc == paired_delong(a, b, labels)
    assert found.normalised_entropy.p_value == found.logloss.p_value


def test_a_row_of_weight_0_does_not_count_and_no_other_task_sees_it() -> None:
    weights = np.ones(6_000, np.float32)
    weights[::3] = 0
    x, kept = joint(weights=weights), np.arange(6_000) % 3 > 0
    less = Joint(TASKS, x.a_MN[:, kept], x.b_MN[:, kept], x.labels_LN[:, kept], weights[kept],
                 {n: Keys(k.keys_N[kept], k.present_N[kept]) for n, k in x.keys.items()}, {})  # fmt: skip
    arguments = ("user", {"user": "user"}, (5,), None)
    assert task_differences(x, *arguments) == task_differences(less, *arguments)


def test_p_values_of_a_family_are_corrected_together() -> None:
    x = joint()
    tasks = task_differences(x, "user", {}, (5,), None)
    adjusted = holm(np.array([one.auc.p_value for one in tasks.values()]))
    assert [one.auc_adjusted for one in tasks.values()] == adjusted.tolist()
    slices = slice_differences(x, "user", {"day": ("mon", "tue", "wed", "other")}, None)["day"]
    assert list(slices) == ["mon", "tue", "wed"]  # no row is in `other`
    flat = [one for day in slices.values() for one in day.values()]
    assert sorted(one.auc_adjusted for one in flat) == sorted(
        holm(np.array([one.auc.p_value for one in flat])).tolist()
    )
    assert all(one.testable for one in flat)
    labels, a, b = plain(x, 1)
    today = x.places["day"][x.labels_LN[0]] == 1
    clusters = x.keys["user"].clusters()[x.labels_LN[0]][today]
    assert slices["tue"]["cvr"].auc == paired_delong(a[today], b[today], labels[today], clusters)


def test_slices_that_share_a_name_are_refused() -> None:
    with pytest.raises(InternalError, match="`day`: several slices are called tue"):
        slice_differences(joint(), "user", {"day": ("tue", "wed", "tue")}, None)


def test_a_slice_too_small_is_shown_and_not_tested() -> None:
    x = joint()
    x.places["day"][:] = np.arange(6_000) >= 200
    small, large = slice_differences(x, "user", {"day": ("mon", "tue")}, None)["day"].values()
    assert small["ctr"].positives < 50 and math.isnan(small["ctr"].auc_adjusted) and small["ctr"].auc.p_value > 0
    family = np.array([one.auc.p_value for one in large.values()])
    assert [one.auc_adjusted for one in large.values()] == holm(family).tolist()  # the small ones cost it nothing
    words = verdict.slices_verdict(slice_differences(x, "user", {"day": ("mon", "tue")}, None))
    assert words is not None and "after Holm over 3 slices and tasks" in words
    x.keys["user"].keys_N[:] %= 39
    x.keys["user"].present_N[:] = True
    assert "none is large enough" in str(
        verdict.slices_verdict(slice_differences(x, "user", {"day": ("mon", "tue")}, None))
    )


def test_false_positives_with_rows_of_users() -> None:
    """Two models that are equally good, whose noise is the user's: rows taken one by one cry wolf, clusters do not."""
    alone, together = 0, 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        user = np.repeat(np.arange(100), 20)
        truth = draw.normal(size=2_000) - 1
        labels = draw.random(2_000) < 1 / (1 + np.exp(-truth))
        a, b = ((truth + draw.normal(size=100)[user]).astype(np.float32) for _ in range(2))
        rows = TaskRows(a, b, labels, np.ones(2_000), np.arange(2_000))
        alone += statistics.auc(rows, None, None).p_value < 0.05
        together += statistics.auc(rows, user, None).p_value < 0.05
    print(f"false positives at 5 %: {together / 3:.1f} % by user, {alone / 3:.1f} % with rows taken as independent")
    assert 2 < together / 3 < 8 < alone / 3


def test_bootstrap_agrees_with_delong() -> None:
    x = joint()
    formula, drawn = (task_differences(x, "user", {}, (5,), r) for r in (None, 400))
    for name in TASKS:
        d, b = formula[name].auc, drawn[name].auc
        print(f"{name}: standard error {d.standard_error:.5f} by DeLong, {b.standard_error:.5f} by bootstrap")
        assert b.difference == pytest.approx(d.difference, abs=1e-12)
        assert b.standard_error == pytest.approx(d.standard_error, rel=0.15)


def test_rows_of_different_weight_are_bootstrapped() -> None:
    draw = np.random.default_rng(3)
    x = joint(weights=draw.integers(0, 4, 6_000).astype(np.float32) / 2)
    assert (
        statistics.replicates_for(x, None) == statistics.REPLICATES and statistics.replicates_for(joint(), None) is None
    )
    found = task_differences(x, "user", {}, (5,), 100)["ctr"]
    labels, a, b = plain(x, 0)
    expected = [roc_auc_score(labels, s, sample_weight=x.weights_N) for s in (a, b)]
    off = max(abs(found.auc.a - expected[0]), abs(found.auc.b - expected[1]))
    print(f"weighted AUC {found.auc.a:.6f}: {off:.1e} from scikit-learn")
    assert off < 1e-12 and found.auc.standard_error > 0


def within(a_G: np.ndarray, b_G: np.ndarray, clusters_G: np.ndarray) -> Paired:
    defined_G = ~np.isnan(a_G)
    return paired_means(a_G[defined_G], b_G[defined_G], None, clusters_G[defined_G])


def test_group_metrics_are_paired_over_groups() -> None:
    x = joint()
    found = task_differences(x, "user", {"user": "user", "search": "search"}, (3,), None)["ctr"].groups
    assert list(found["user"]) == ["gauc", "gauc_unweighted", "ndcg@3", "mrr"]
    labels, a, b = plain(x, 0)
    users = x.keys["user"]
    of_user = [np.flatnonzero((users.keys_N == u) & users.present_N) for u in range(300)]
    of_user = [rows for rows in of_user if 0 < labels[rows].sum() < len(rows)]
    a_G, b_G = (np.array([roc_auc_score(labels[rows], s[rows]) for rows in of_user]) for s in (a, b))
    expected = paired_means(a_G, b_G, np.array([float(len(rows)) for rows in of_user]))
    gaps = [abs(getattr(found["user"]["gauc"], f) - getattr(expected, f)) for f in Paired.__dataclass_fields__]
    print(f"GAUC by user {expected.a:.4f} and {expected.b:.4f}; max difference from scikit-learn {max(gaps):.1e}")
    assert max(gaps) < 1e-9
    # A search lies within one user here but for users that are not known, so searches are not all nested.
    loose = task_differences(x, None, {"search": "search"}, (3,), None)["ctr"].groups["search"]
    assert found["search"] == loose
    x.keys["user"].present_N[:] = True
    nested = task_differences(x, "user", {"search": "search"}, (3,), None)["ctr"].groups["search"]
    values = [group_values(x.keys["search"].keys_N, s, labels, np.full(6_000, 1 << 20), (3,)) for s in (a, b)]
    users_G = values[0].keys_G // 1000
    assert nested["ndcg@3"] == within(values[0].ndcg_KG[0], values[1].ndcg_KG[0], users_G)
    assert nested["mrr"] == within(values[0].mrr_G, values[1].mrr_G, users_G) != loose["mrr"]


def test_one_class_one_cluster_and_no_row_have_no_interval() -> None:
    empty = TaskRows(*(np.empty(0, np.float32),) * 2, np.empty(0, bool), np.empty(0), np.empty(0, int))
    one_class = TaskRows(*(np.zeros(5, np.float32),) * 2, np.zeros(5, bool), np.ones(5), np.arange(5))
    for rows in (empty, one_class):
        for replicates in (None, 100):
            assert math.isnan(statistics.auc(rows, None, replicates).p_value)
        assert math.isnan(statistics.base_entropy(rows)) and math.isnan(statistics.pcoc(rows, None).p_value)
    x = joint(rows=50).of(0)
    for replicates in (None, 100):
        assert math.isnan(statistics.auc(x, np.zeros(50, int), replicates).p_value)


# ---------------------------------------------------------------------------------------------------------------- joint
def folder(path: Path, **columns: object) -> Path:
    write_dataset(path, [pa.table(columns)], file_rows=4, row_group_rows=2)
    return path


def test_read_takes_the_rows_as_an_evaluation_counts_them(tmp_path: Path) -> None:
    """Row 3 breaks the funnel, row 4 weighs nothing."""
    rows, logits = np.arange(6), np.arange(6, dtype=np.float32)
    three = {f"logit_{task}": logits for task in TASKS}
    answers = {"click": [0, 1, 1, 0, 1, 1], "bought": [False, True, False, True, True, True], "w": [1, 2, 1, 1, 0, 1.0]}
    a = folder(tmp_path / "a", row_number=rows, **three, **answers, user=["x", None, "x", "y", "y", "y"])
    b = folder(tmp_path / "b", row_number=rows, **{name: -values for name, values in three.items()})
    x = read((a, b), TASKS, ("click", "bought"), "w", ("user",), ())
    assert x.weights_N.tolist() == [1, 2, 1, 0, 0, 1]
    cvr = x.of(1)
    assert (cvr.rows_n.tolist(), cvr.labels_n.tolist(), cvr.weights_n.tolist()) == ([1, 2, 5], [1, 0, 1], [2, 1, 1])
    assert cvr.a_n.tolist() == [1, 2, 5] and cvr.b_n.tolist() == [-1, -2, -5]
    assert x.of(0).rows_n.tolist() == x.of(2).rows_n.tolist() == [0, 1, 2, 5]
    assert x.of(0).labels_n.tolist() == [0, 1, 1, 1] and x.of(2).labels_n.tolist() == [0, 1, 0, 1]
    assert len(set(x.keys["user"].clusters().tolist())) == 3 and x.keys["user"].present_N.sum() == 5


def test_other_rows_are_refused(tmp_path: Path) -> None:
    scores = {"logit_ctr": np.zeros(6, np.float32), "click": np.zeros(6)}
    a = folder(tmp_path / "a", row_number=np.arange(6), **scores)
    b = folder(tmp_path / "b", row_number=np.array([0, 1, 3, 2, 4, 5]), **scores)
    c = folder(tmp_path / "c", row_number=np.arange(4), logit_ctr=np.zeros(4, np.float32))
    with pytest.raises(DataError, match=r"part-00000.parquet does not hold rows 2 to 3 in order.*remove the folder"):
        read((a, b), ("ctr",), ("click",), None, (), ())
    with pytest.raises(DataError, match=r"4 rows, .* has 6"):
        read((a, c), ("ctr",), ("click",), None, (), ())


def test_few_groups_are_warned_of() -> None:
    x = task_differences(joint(groups=30), "user", {}, (5,), None)
    assert x["ctr"].clusters > 300  # rows without a user are clusters of their own
    assert verdict.sample_warnings(x, "user") == []
    tiny = joint(groups=30)
    tiny.keys["user"].present_N[:] = True
    warnings = verdict.sample_warnings(task_differences(tiny, "user", {}, (5,), None), "user")
    assert len(warnings) == 3 and "30 values of `user` only" in warnings[0]
