"""Looks at the first rows of a run for what would make its metrics lie; each check is a bug that peers' users reported.

A label (or a copy of it) among the features gives an AUC of 1; two tasks with one label, or with one prediction, train
one model twice; a task without a positive, or with nothing else, learns nothing. (Conversions without clicks are the
business of `data.violations`.)
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.encode import NO_ID, Encoder
from dist_mtl.errors import DataError

STEPS = 8  # of the run that are looked at
FEWEST = 20  # rows of the rarer class: with 20 positives, a feature that is no cause of them never parts them by chance
GROUP = 5  # rows that an id must have for its labels to say something: a user seen once is always of one class


@dataclass
class FirstRows:
    """This rank's rows of the first steps, and what the checks find in them."""

    config: Config
    run_steps: int  # of the whole run, which may be shorter than STEPS
    _dense: list[np.ndarray] = field(default_factory=list)
    _ids: list[np.ndarray] = field(default_factory=list)
    _labels: list[np.ndarray] = field(default_factory=list)
    _logits: list[np.ndarray] = field(default_factory=list)

    def add(self, batch: Batch, logits_BT: Tensor) -> bool:
        """Keep the rows of one of the first steps that have weight. True at the last of these.

        A run that resumes later than that was looked at before.
        """
        last = min(STEPS, self.run_steps)
        if batch.step > last:
            return False
        here = batch.weight_B.cpu().numpy() > 0
        self._dense.append(batch.dense_BD.cpu().numpy()[here])
        self._labels.append(batch.labels_BT.cpu().numpy()[here] > 0)
        self._ids.append(_single_ids(batch, len(Encoder(self.config).singles))[here])
        self._logits.append(logits_BT.detach().float().cpu().numpy()[here])
        return batch.step == last

    def look(self) -> list[str]:
        """The warnings. Raises DataError for what can only be a mistake."""
        dense_ND, ids_NS, labels_NT, logits_NT = (
            np.concatenate(parts) for parts in (self._dense, self._ids, self._labels, self._logits)
        )
        encoder, names = Encoder(self.config), self.config.data.labels
        problems = []
        for t, label in enumerate(names):
            leaks = [n for d, n in enumerate(encoder.dense) if separates(dense_ND[:, d], labels_NT[:, t])]
            leaks += [n for s, n in enumerate(encoder.singles) if decides(ids_NS[:, s], labels_NT[:, t])]
            problems += [
                f"features.{name}: it tells the label `{label}` without an error on the first {len(labels_NT):,} rows, "
                f"so it is the label or was made from it; a model that sees it learns nothing. Remove the feature, or, "
                f'if it really is known before the impression, set data.leaks = "warn"'
                for name in leaks
            ]
        twins = [
            f"data.labels: `{names[a]}` and `{names[b]}` are equal on the first {len(labels_NT):,} rows: one task "
            f"twice. Remove one of them, or correct its column"
            for a in range(len(names))
            for b in range(a + 1, len(names))
            if _rarer(labels_NT[:, a]) >= FEWEST and (labels_NT[:, a] == labels_NT[:, b]).all()
        ]
        if twins or (problems and self.config.data.leaks == "reject"):
            raise DataError("\n".join([*twins, *problems]))
        return [*problems, *_constant(names, labels_NT), *_alike(names, logits_NT)]


def separates(x_N: np.ndarray, positive_N: np.ndarray) -> bool:
    """Whether a threshold on x parts the classes without an error, in either direction."""
    if _rarer(positive_N) < FEWEST:
        return False
    ranks = rankdata(x_N)
    positives, negatives = positive_N.sum(), (~positive_N).sum()
    wins = ranks[positive_N].sum() - positives * (positives + 1) / 2
    return bool(wins == 0 or wins == positives * negatives)


def decides(id_N: np.ndarray, positive_N: np.ndarray) -> bool:
    """Whether all rows of an id are of one class, among ids with enough rows."""
    known = id_N != NO_ID
    _, place, rows = np.unique(id_N[known], return_inverse=True, return_counts=True)
    positives = np.bincount(place, positive_N[known], minlength=len(rows))
    often = rows >= GROUP
    ones, zeros = positives[often].sum(), (rows - positives)[often].sum()
    pure = ((positives == 0) | (positives == rows))[often].all()
    return bool(min(ones, zeros) >= FEWEST and pure)


def _rarer(positive_N: np.ndarray) -> int:
    return int(min(positive_N.sum(), (~positive_N).sum()))


def _constant(names: tuple[str, ...], labels_NT: np.ndarray) -> list[str]:
    found = []
    for t, label in enumerate(names):
        space = labels_NT[:, t - 1] if t else np.ones(len(labels_NT), bool)
        values = labels_NT[space, t]
        if len(values) and values.all():
            found.append(
                f"`{label}` is set on all of the first {len(values):,} rows of its space: nothing to learn there"
            )
        elif not values.any():
            found.append(
                f"`{label}` is set on none of the first {len(values):,} rows of its space: its task learns nothing "
                f"from them"
            )
    return found


def _alike(names: tuple[str, ...], logits_NT: np.ndarray) -> list[str]:
    varied = np.ptp(logits_NT, axis=0) > 0
    return [
        f"the towers of `{names[a]}` and `{names[b]}` predict the same for every row; are their labels and "
        f"weights apart?"
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if varied[a] and np.array_equal(logits_NT[:, a], logits_NT[:, b])
    ]


def _single_ids(batch: Batch, num_singles: int) -> np.ndarray:
    """(B, S) int64: the row of the table of each single-id feature, NO_ID where there is none."""
    count = len(batch.weight_B)
    lengths = batch.ids.lengths().cpu().numpy()[: num_singles * count]
    ids = np.full(num_singles * count, NO_ID, np.int64)
    ids[lengths > 0] = batch.ids.values().cpu().numpy()[: lengths.sum()]
    return ids.reshape(num_singles, count).T
