"""R10 on 10 million rows: AUC against scikit-learn, sums against float64, merged parts bit for bit; and the peers' AUC.

python benchmarks/figures/metric_accuracy.py [--rows N]    prints Markdown; exit 1 if a promise is broken
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.metrics_config import RecTaskInfo

from dist_mtl.metrics.histogram import COARSE, FINE, LogitHistogram
from dist_mtl.metrics.task import TaskMetrics, compute

RATES = (0.1, 0.01, 0.001, 0.0002)
MOST_ERROR, MOST_RELATIVE = 1e-4, 1e-6  # of AUC; of logloss, NE and PCOC
SCORES = {  # name -> shift and scale of the logit, and the most where it is more
    "plain": (0, 1),
    "shifted -3": (-3, 1),
    "shifted -20": (-20, 1),
    "scaled x 8": (0, 8),
    "scaled x 40": (0, 40, MOST_ERROR, 5e-6),  # probabilities of e-150 and less, their sum is that of a few rows
    "scaled x 0.2": (0, 0.2),
    "shifted -150": (-150, 1, 1e-3),  # a spread of 256 bins
    "scaled x 0.01": (-5, 0.01, 3e-3),  # and of 80
}
BATCH = {1: 65_536, 2: 4_096, 4: 10_000}  # parts -> rows at once: neither may matter


@dataclass(frozen=True)
class Case:
    """One row of the table, and what is wrong with it."""

    cells: tuple[str, ...]
    broken: tuple[str, ...]


def impressions(rows: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """float64 logits of spread 1 around a base rate, and labels that follow them."""
    draw = np.random.default_rng(round(1 / rate))
    logits = math.log(rate / (1 - rate)) - 0.5 + draw.normal(0, 1, rows)
    return logits, draw.random(rows) < 1 / (1 + np.exp(-logits))


def histogram(scores: np.ndarray, labels: np.ndarray, parts: int) -> LogitHistogram:
    """Row i belongs to part i modulo `parts`; the parts are merged by addition."""
    merged = LogitHistogram(1, torch.device("cpu"))
    for part in range(parts):
        one = LogitHistogram(1, torch.device("cpu"))
        columns = [torch.from_numpy(x[part::parts].astype(np.float32))[:, None] for x in (scores, labels)]
        for logits_B1, labels_B1 in zip(*(column.split(BATCH[parts]) for column in columns), strict=True):
            one.update(logits_B1, labels_B1, torch.ones_like(logits_B1))
        for whole, piece in zip(merged.tensors, one.tensors, strict=True):
            whole += piece
    return merged


def exact(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """logloss, normalised entropy and PCOC in float64."""
    x, rate = scores.astype(np.float64), labels.mean()
    loss = float((np.logaddexp(0, x) - labels * x).mean())
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    return loss, loss / entropy, float((1 / (1 + np.exp(-x))).sum() / labels.sum())


def case(name: str, scores: np.ndarray, labels: np.ndarray, most: tuple[float, ...] = ()) -> Case:
    """Measure one set of scores."""
    merged = {parts: histogram(scores, labels, parts) for parts in BATCH}
    same = all(torch.equal(a, b) for h in merged.values() for a, b in zip(h.tensors, merged[1].tensors, strict=True))
    found: TaskMetrics = compute(merged[1])[0]
    same &= all(compute(h)[0] == found for h in merged.values())
    truth = roc_auc_score(labels, scores)
    error = abs(found.auc.value - truth)
    sums = (found.logloss, found.normalised_entropy, found.pcoc)
    relative = [abs(a / b - 1) for a, b in zip(sums, exact(scores, labels), strict=True)]
    most_error, most_relative = (*most, *(MOST_ERROR, MOST_RELATIVE)[len(most) :])
    checks = {
        "the error of the AUC is beyond its bound": error <= found.auc.error,
        f"the bound is above {most_error}": found.auc.error <= most_error,
        f"logloss, NE or PCOC is off by more than {most_relative}": max(relative) <= most_relative,
        "parts do not merge to the same bits": same,
    }
    cells = (f"{labels.mean():.3%}", name, f"{truth:.6f}", f"{found.auc.value:.6f}", f"{error:.1e}")
    cells += (f"{found.auc.error:.1e}", *(f"{x:.0e}" for x in relative), "identical" if same else "DIFFERENT")
    return Case(cells, tuple(f"{cells[0]} {name}: {what}" for what, holds in checks.items() if not holds))


PEER_SCORES = {  # of float64 logits
    "plain": lambda logits: logits,
    "shifted +20": lambda logits: logits + 20,
    "scaled x 8": lambda logits: logits * 8,
    "in steps of 0.5": lambda logits: np.round(logits * 2) / 2,
    "constant": np.zeros_like,
}


def torchmetrics_auc(scores: np.ndarray, labels: np.ndarray, thresholds: int | None) -> float:
    metric = BinaryAUROC(thresholds=thresholds)
    metric.update(torch.sigmoid(torch.from_numpy(scores)), torch.from_numpy(labels).long())
    return float(metric.compute())


def torchrec_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    rows = len(scores)
    metric = AUCMetric(world_size=1, my_rank=0, batch_size=rows, tasks=[RecTaskInfo(name="t")], window_size=rows)
    columns = (torch.sigmoid(torch.from_numpy(scores)), torch.from_numpy(labels).float(), torch.ones(rows))
    metric.update(**{key: {"t": x} for key, x in zip(("predictions", "labels", "weights"), columns, strict=True)})
    return float(next(iter(metric.compute().values())))


def peers(rows: int) -> list[tuple[str, ...]]:
    """The AUC of every library; with the positives in front and at the end, where rows tie."""
    table = []
    for rate in (0.1, 0.001):
        logits, labels = impressions(rows, rate)
        for name, change in PEER_SCORES.items():
            for order in ("first", "last") if name in ("in steps of 0.5", "constant") else ("",):
                place = np.argsort(labels if order == "last" else ~labels, kind="stable") if order else slice(None)
                scores, truth = change(logits)[place].astype(np.float32), labels[place]
                ours = compute(histogram(scores, truth, 1))[0].auc
                values = (ours.value, *(torchmetrics_auc(scores, truth, t) for t in (None, 200)))
                values += (torchrec_auc(scores, truth),)
                title = f"{name}, positives {order}" if order else name
                table.append(
                    (f"{labels.mean():.3%}", title, *(f"{x:.5f}" for x in (roc_auc_score(truth, scores), *values)))
                )
    return table


def update_cost(bits: int, weighted: bool, batch: int = 4_096, tasks: int = 3) -> float:
    """Median milliseconds of an update, on one thread."""
    metric = LogitHistogram(tasks, torch.device("cpu"), bits, weighted)
    batches = [torch.randn(batch, tasks) - 4 for _ in range(200)]
    labels, weights, seconds = (torch.rand(batch, tasks) < 0.02).float(), torch.ones(batch, tasks), []
    for logits in batches * 2:
        started = time.perf_counter()
        metric.update(logits, labels, weights)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def cases(rows: int) -> Iterator[Case]:
    for rate in RATES:
        logits, labels = impressions(rows, rate)
        for name, (shift, scale, *most) in SCORES.items():
            yield case(name, (logits * scale + shift).astype(np.float32), labels, tuple(most))


def show(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    for cells in (header, ("---",) * len(header), *rows):
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    broken: list[str] = []

    def measured() -> Iterator[tuple[str, ...]]:
        for found in cases(options.rows):
            broken.extend(found.broken)
            yield found.cells

    print(
        f"{options.rows:,} rows; relative differences of logloss, NE and PCOC to float64; merged from 1, 2, 4 parts\n"
    )
    header = (
        "positive",
        "scores",
        "AUC, scikit-learn",
        "AUC",
        "error",
        "stated bound",
        "logloss",
        "NE",
        "PCOC",
        "merged",
    )
    show(header, measured())
    print("AUC on 200,000 rows (torchmetrics and torchrec take probabilities, float32)\n")
    header = ("positive", "scores", "scikit-learn", "dist_mtl", "torchmetrics, exact", "torchmetrics, 200", "torchrec")
    show(header, peers(200_000))
    for rows, weighted in (("rows", False), ("weighted rows", True)):
        fine, coarse = (update_cost(bits, weighted) for bits in (FINE, COARSE))
        print(f"Update of 4,096 {rows}, 3 tasks, one thread: {fine:.2f} ms (fine), {coarse:.2f} ms (coarse)")
    for what in broken:
        print(what, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
