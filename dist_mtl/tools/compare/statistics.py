"""Every metric of two runs on the same rows, with the difference B - A, its 95 % interval and its p-value.

Most of a metric's noise is the rows', which both runs share; paired, it cancels. Rows of one user or search are not
independent of each other, so that they are taken together as one cluster (`--by`): rows taken one by one would make the
intervals too narrow. What is used:

    AUC           DeLong on the joint predictions; with clusters its cluster-robust form (Obuchowski, Biometrics 1997).
                  Bootstrap over the clusters (else the rows) where replicates are asked for, and where rows weigh
                  differently, which DeLong has no form for
    logloss, NE   mean of the rows' differences, variance between clusters; NE takes the entropy of the base rate, which
                  both runs share, as known
    PCOC          ratio of two sums over the same rows, by the delta method, variance between clusters
    GAUC, NDCG,   mean of the groups' differences; groups are independent of each other, or within `--by` if each lies
    MRR           within one value of it (searches of users)

P-values of the tasks' AUCs are corrected by Holm's method as one family; those of the slices as another one, AUCs and
loglosses each. The others are as they are. All intervals are normal: a task with fewer than FEWEST rows of its rarer
class, or FEWEST_CLUSTERS clusters, is warned of; a slice that small is shown but not tested, for Holm's method asks how
likely the far tails are, where few rows are least normal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from dist_mtl.errors import InternalError
from dist_mtl.metrics.bootstrap import ClusteredAuc, bootstrap
from dist_mtl.metrics.grouped import group_values, row_weights
from dist_mtl.metrics.paired import Paired, codes, holm, paired_delong, paired_means, paired_ratios
from dist_mtl.tools.compare.aligned_predictions import Joint, Keys, TaskRows

FEWEST = 50
FEWEST_CLUSTERS = 40  # with fewer the variance between clusters comes out too small
REPLICATES = 1000  # of the bootstrap where rows weigh differently and no number was asked for


@dataclass(frozen=True)
class TaskDifference:
    """One task on its own space: `rows` that count, `positives` among them, metrics of A and B, differences B - A."""

    rows: int
    positives: int
    clusters: int | None  # None: rows are taken as independent
    identical: bool  # every row has the same score
    auc: Paired
    auc_adjusted: float  # p-value after Holm's correction
    logloss: Paired
    normalised_entropy: Paired
    pcoc: Paired
    groups: dict[str, dict[str, Paired]]  # column -> gauc, gauc_unweighted, ndcg@k, mrr


@dataclass(frozen=True)
class SliceDifference:
    """One task in one slice. The p-values after Holm's correction are NaN for a slice too small to be tested."""

    rows: int
    positives: int
    clusters: int | None
    auc: Paired
    auc_adjusted: float
    logloss: Paired
    logloss_adjusted: float

    @property
    def testable(self) -> bool:
        fewer = min(self.positives, self.rows - self.positives)
        return fewer >= FEWEST and (self.clusters is None or self.clusters >= FEWEST_CLUSTERS)


Slices = dict[str, dict[str, dict[str, SliceDifference]]]  # column -> value -> task


def replicates_for(joint: Joint, asked: int | None) -> int | None:
    """Replicates of the bootstrap of AUCs; None: DeLong, which rows of different weights do not allow."""
    counted = joint.weights_N[joint.weights_N > 0]
    return asked or (REPLICATES if len(counted) and np.ptp(counted) > 0 else None)


def task_differences(
    joint: Joint, by: str | None, groups: dict[str, str], ndcg_at: tuple[int, ...], replicates: int | None
) -> dict[str, TaskDifference]:
    """Every task. `by` and the values of `groups` (name -> column) are columns of `joint.keys`."""
    clusters_N = None if by is None else joint.keys[by].clusters()
    found = {}
    for task, name in enumerate(joint.tasks):
        rows = joint.of(task)
        clusters_n = None if clusters_N is None else clusters_N[rows.rows_n]
        found[name] = TaskDifference(
            rows=len(rows.labels_n),
            positives=int(rows.labels_n.sum()),
            clusters=_count(clusters_n),
            identical=np.array_equal(rows.a_n, rows.b_n),
            auc=auc(rows, clusters_n, replicates),
            auc_adjusted=math.nan,
            logloss=(loss := logloss(rows, clusters_n)),
            normalised_entropy=_scaled(loss, base_entropy(rows)),
            pcoc=pcoc(rows, clusters_n),
            groups={
                title: within_groups(rows, joint.keys[column], None if column == by else clusters_n, ndcg_at)
                for title, column in groups.items()
            },
        )
    adjusted = holm(np.array([one.auc.p_value for one in found.values()])).tolist()
    return {name: replace(one, auc_adjusted=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def slice_differences(
    joint: Joint, by: str | None, names: dict[str, tuple[str, ...]], replicates: int | None
) -> Slices:
    """Every task in every slice of `names`: by the name of a slicing, its values. Slices without a row are left out.

    Raises InternalError if two slices of a column share a name.
    """
    for column, values in names.items():
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise InternalError(f"metrics.slices `{column}`: several slices are called {', '.join(twice)}")
    clusters_N = None if by is None else joint.keys[by].clusters()
    keys, plain = [], []
    for task, task_name in enumerate(joint.tasks if names else ()):
        rows = joint.of(task)
        for column, values in names.items():
            places_n = joint.places[column][rows.rows_n]
            order_n = np.argsort(places_n, kind="stable")
            cuts = np.searchsorted(places_n[order_n], np.arange(1, len(values)))
            for value, picked in zip(values, np.split(order_n, cuts), strict=True):
                if len(picked):
                    keys.append((column, value, task_name))
                    part = rows.at(picked)
                    plain.append(_slice(part, None if clusters_N is None else clusters_N[part.rows_n], replicates))
    corrected = _corrected(plain)
    found: Slices = {column: {value: {} for value in values} for column, values in names.items()}
    for (column, value, task_name), one in zip(keys, corrected, strict=True):
        found[column][value][task_name] = one
    return {column: {v: tasks for v, tasks in values.items() if tasks} for column, values in found.items()}


def _count(clusters_n: np.ndarray | None) -> int | None:
    return None if clusters_n is None else len(np.unique(clusters_n))


def _slice(rows: TaskRows, clusters_n: np.ndarray | None, replicates: int | None) -> SliceDifference:
    size = len(rows.labels_n), int(rows.labels_n.sum()), _count(clusters_n)
    return SliceDifference(*size, auc(rows, clusters_n, replicates), math.nan, logloss(rows, clusters_n), math.nan)


def _corrected(found: Sequence[SliceDifference]) -> list[SliceDifference]:
    aucs, losses = (
        holm(np.array([m.p_value if s.testable else math.nan for s, m in zip(found, family, strict=True)])).tolist()
        for family in ([s.auc for s in found], [s.logloss for s in found])
    )
    pairs = zip(found, aucs, losses, strict=True)
    return [replace(one, auc_adjusted=p, logloss_adjusted=q) for one, p, q in pairs]


def auc(rows: TaskRows, clusters_n: np.ndarray | None, replicates: int | None) -> Paired:
    """DeLong of rows that weigh the same, or, with `replicates`, the bootstrap of any."""
    both_classes = 0 < int(rows.labels_n.sum()) < len(rows.labels_n)
    if replicates is None or not both_classes:
        return paired_delong(rows.a_n, rows.b_n, rows.labels_n, clusters_n)
    codes_n = np.arange(len(rows.labels_n)) if clusters_n is None else codes(clusters_n)
    weights_n = rows.weights_n if np.ptp(rows.weights_n) > 0 else None
    a, b = (ClusteredAuc.of(s_n, rows.labels_n, codes_n, weights_n) for s_n in (rows.a_n, rows.b_n))
    clusters = int(codes_n.max()) + 1
    found = bootstrap(a, b, clusters, replicates)
    # Resampling a single cluster gives that cluster again and again, which is no certainty.
    return found if clusters > 1 else Paired(found.a, found.b, found.difference, *[math.nan] * 4)


def logloss(rows: TaskRows, clusters_n: np.ndarray | None) -> Paired:
    """Of the scores as they are; exact in float64 for any logit."""
    sign_n = np.where(rows.labels_n, -1.0, 1.0)
    losses = (np.logaddexp(0, sign_n * logits_n) for logits_n in (rows.a_n, rows.b_n))
    return paired_means(*losses, rows.weights_n, clusters_n)


def base_entropy(rows: TaskRows) -> float:
    """The logloss of a constant, the base rate; NaN with one class only."""
    total = float(rows.weights_n.sum())
    rate = float(rows.weights_n[rows.labels_n].sum()) / total if total else 0.0
    return -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate)) if 0 < rate < 1 else math.nan


def _scaled(paired: Paired, by: float) -> Paired:
    """In another unit: the p-value stays."""
    numbers = (x / by for x in (paired.a, paired.b, paired.difference, paired.standard_error, paired.low, paired.high))
    return Paired(*numbers, math.nan if math.isnan(by) else paired.p_value)


def pcoc(rows: TaskRows, clusters_n: np.ndarray | None) -> Paired:
    """Predicted over observed positives."""
    predicted = (expit(logits_n.astype(np.float64)) * rows.weights_n for logits_n in (rows.a_n, rows.b_n))
    return paired_ratios(*predicted, rows.labels_n * rows.weights_n, clusters_n)


def within_groups(
    rows: TaskRows, column: Keys, clusters_n: np.ndarray | None, ndcg_at: tuple[int, ...]
) -> dict[str, Paired]:
    """Paired over the groups that a column makes. `clusters_n`: how its groups may belong together, see the module."""
    present_n = column.present_N[rows.rows_n]
    keys_n, rows = column.keys_N[rows.rows_n[present_n]], rows.at(present_n)
    units_n = row_weights(rows.weights_n)
    scores = (group_values(keys_n, s_n, rows.labels_n, units_n, ndcg_at) for s_n in (rows.a_n, rows.b_n))
    a, b = scores
    owners_G = None if clusters_n is None else _owners(keys_n, clusters_n[present_n], a.keys_G)
    pairs = {
        "gauc": (a.auc_G, b.auc_G, a.weights_G),
        "gauc_unweighted": (a.auc_G, b.auc_G, None),
        **{f"ndcg@{k}": (a.ndcg_KG[i], b.ndcg_KG[i], None) for i, k in enumerate(ndcg_at)},
        "mrr": (a.mrr_G, b.mrr_G, None),
    }
    found = {}
    for name, (a_G, b_G, weights_G) in pairs.items():
        defined_G = ~np.isnan(a_G)  # labels decide, so that it is the same in B
        owners = None if owners_G is None else owners_G[defined_G]
        weights = None if weights_G is None else weights_G[defined_G].astype(np.float64)
        found[name] = paired_means(a_G[defined_G], b_G[defined_G], weights, owners)
    return found


def _owners(keys_n: np.ndarray, clusters_n: np.ndarray, keys_G: np.ndarray) -> np.ndarray | None:
    """The cluster that each group lies in; None if one lies in several."""
    unique, first, inverse_n = np.unique(keys_n, return_index=True, return_inverse=True)
    owners = clusters_n[first]
    return owners[np.searchsorted(unique, keys_G)] if np.array_equal(owners[inverse_n], clusters_n) else None
