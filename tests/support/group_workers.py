"""What ranks run for the tests of group metrics, and the plain definitions that they are compared with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from dist_mtl.config.training import RunConfig
from dist_mtl.errors import DistMtlError
from dist_mtl.metrics.exchange import GroupedScores
from dist_mtl.metrics.grouped import GroupMetrics
from dist_mtl.parallel.runtime import runtime

RUN = RunConfig(dir="unused", device="cpu", start_timeout=60)


@dataclass(frozen=True)
class Table:
    """Rows with the logits, labels and weights of M tasks."""

    keys_N: np.ndarray
    logits_NM: np.ndarray
    labels_NM: np.ndarray
    weights_NM: np.ndarray

    def rows(self, where: np.ndarray | slice) -> "Table":
        return Table(self.keys_N[where], self.logits_NM[where], self.labels_NM[where], self.weights_NM[where])

    def save(self, folder: Path) -> None:
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path) -> "Table":
        return Table(*(np.load(folder / f"{name}.npy") for name in Table.__dataclass_fields__))


def score(grouped: GroupedScores, table: Table, batch: int) -> list[GroupMetrics]:
    """Update with batches of the table, the last one padded with weight 0, then compute."""
    for start in range(0, len(table.keys_N), batch):
        part = table.rows(slice(start, start + batch))
        missing = batch - len(part.keys_N)
        columns = [np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode="edge") for x in vars(part).values()]
        columns[3][batch - missing :] = 0
        grouped.update(columns[0], *map(torch.from_numpy, columns[1:]))
    return grouped.compute()


def score_on_ranks(folder: Path, batch: int, ndcg_at: Sequence[int], rows_in_memory: int) -> list[GroupMetrics]:
    """Rank r takes rows r, r + world, ... of the table in `folder` and must leave no file in its scratch folder."""
    table = Table.load(folder)
    with runtime(RUN) as rt:
        scratch = folder / f"scratch-{rt.size}-{rt.rank}"
        scratch.mkdir()
        grouped = GroupedScores(table.labels_NM.shape[1], tuple(ndcg_at), rt, scratch, rows_in_memory)
        longest = -(-len(table.keys_N) // rt.size)
        mine = np.arange(rt.rank, longest * rt.size, rt.size)
        rows = table.rows(np.minimum(mine, len(table.keys_N) - 1))
        rows.weights_NM[mine >= len(table.keys_N)] = 0
        found = score(grouped, rows, batch)
        assert not list(scratch.iterdir())
        return found


def fail_on_one_rank(guilty: int, fault: str, scratch: Path) -> tuple[str, str]:
    """One rank can not write, or has a score that is not finite; the error that each rank gets."""
    with runtime(RUN) as rt:
        mine = scratch / str(rt.rank)
        if rt.rank == guilty and fault == "disk":
            mine.write_text("a file where a folder should be")
        ones = np.ones((8, 1), np.float32)
        logits = ones * np.nan if rt.rank == guilty and fault == "nan" else ones
        with GroupedScores(1, (5,), rt, mine, rows_in_memory=4, calls_per_exchange=2) as grouped:
            try:
                for call in range(5):
                    grouped.update(np.arange(8) + 8 * call, logits, ones, ones)
                grouped.compute()
            except DistMtlError as error:
                assert error.all_ranks and not (mine.is_dir() and list(mine.iterdir()))
                return type(error).__name__, str(error)
    return "no error", ""


def swap() -> tuple[list[list[int]], list[int]]:
    """Rank r sends d + r rows to each other rank d: what came, and the shape of what comes if all send none."""
    with runtime(RUN) as rt:
        counts_W = torch.tensor([d + rt.rank if d != rt.rank else 0 for d in range(rt.size)])
        receiver_N = torch.arange(rt.size).repeat_interleave(counts_W)
        rows_NC = torch.stack([torch.full_like(receiver_N, rt.rank), receiver_N], dim=1)
        came = rt.all_to_all(rows_NC, counts_W)
        none = rt.all_to_all(rows_NC[:0], torch.zeros_like(counts_W))
        return came.tolist(), list(none.shape)


def plain(table: Table, task: int, ks: Sequence[int]) -> GroupMetrics:
    """The metrics of one task by their definitions: pandas' groupby, scikit-learn's AUC and NDCG."""
    names = ("logit", "label", "weight")
    columns = (table.logits_NM, table.labels_NM, table.weights_NM)
    frame = pd.DataFrame({"key": table.keys_N} | {n: c[:, task] for n, c in zip(names, columns, strict=True)})
    frame = frame[frame.weight > 0]
    groups = [group for _, group in frame.groupby("key")]
    both = [g for g in groups if g.label.nunique() == 2]
    some = [g for g in groups if g.label.any()]
    auc = [roc_auc_score(g.label, g.logit, sample_weight=g.weight.astype(float)) for g in both]
    weight = [float(g.weight.astype(float).sum()) for g in both]
    ndcg = {str(k): [_ndcg(g, k) for g in some] for k in ks}
    mrr = [_mrr(g) for g in some]
    gauc = np.average(auc, weights=weight) if both else math.nan
    spread = sum((w * (a - gauc)) ** 2 for w, a in zip(weight, auc, strict=True))
    return GroupMetrics(
        groups=len(both),
        groups_with_positive=len(some),
        groups_total=len(groups),
        rows=len(frame),
        gauc=gauc,
        gauc_error=math.sqrt(spread * len(both) / (len(both) - 1)) / sum(weight) if len(both) > 1 else math.nan,
        gauc_unweighted=_mean(auc),
        gauc_unweighted_error=_error(auc),
        ndcg={k: _mean(v) for k, v in ndcg.items()},
        ndcg_error={k: _error(v) for k, v in ndcg.items()},
        mrr=_mean(mrr),
        mrr_error=_error(mrr),
    )


def _ndcg(group: pd.DataFrame, k: int) -> float:
    if len(group) == 1:  # scikit-learn wants two documents
        return 1.0
    return float(ndcg_score([group.label.to_numpy()], [group.logit.to_numpy()], k=k))


def _mrr(group: pd.DataFrame) -> float:
    best = group.logit[group.label > 0].max()
    above, tie = int((group.logit > best).sum()), group.label[group.logit == best]
    c, p = len(tie), int(tie.sum())
    return sum(math.comb(c - j, p - 1) / math.comb(c, p) / (above + j) for j in range(1, c - p + 2))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def difference(found: GroupMetrics, expected: GroupMetrics) -> float:
    """The largest difference of any number. Raises AssertionError if a count differs or only one of two is NaN."""
    counts = ("groups", "groups_with_positive", "groups_total", "rows")
    assert [getattr(found, c) for c in counts] == [getattr(expected, c) for c in counts]
    assert found.ndcg.keys() == expected.ndcg.keys() == found.ndcg_error.keys()
    a, b = (
        np.array([*(getattr(m, name) for name in _FLOATS), *m.ndcg.values(), *m.ndcg_error.values()])
        for m in (found, expected)
    )
    assert np.array_equal(np.isnan(a), np.isnan(b)), (found, expected)
    return float(np.nanmax(np.abs(a - b), initial=0))


_FLOATS = ("gauc", "gauc_error", "gauc_unweighted", "gauc_unweighted_error", "mrr", "mrr_error")
