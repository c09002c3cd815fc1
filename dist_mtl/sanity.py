"""Looks at the first rows of a run for what makes metrics lie; each check is a bug that users of peers reported.

A label (or a copy of it) among the features gives an AUC of 1; two tasks with one label, or with one prediction, train
one model twice; a task without a positive, or with nothing else, learns nothing. (Conversions without clicks are the
business of `data.violations`.) The values inside a bag are not looked at, only how many there are.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.funnel import spaces
from dist_mtl.errors import DataError
from dist_mtl.hints import plural
from dist_mtl.parallel.runtime import Runtime

ROWS = 131_072  # of all ranks, that are looked at: at a base rate of 0.05 % they hold 65 conversions
FEWEST_STEPS, MOST_STEPS = 8, 100
FEWEST = 20  # rows of the rarer class: a feature that causes none of 20 positives does not part them by chance
# Positives that two equal labels must have to be called one: at a conversion rate of 99 % all of 500 clicks convert in
# one of 150 runs.
FEWEST_TWINS = 500
GROUP = 5  # rows that an id must have for its labels to say something: a user seen once is always of one class


@dataclass(frozen=True)
class Rows:
    """N rows of the first steps: dense features, single ids, how many ids each bag has, labels, the towers' logits."""

    dense_ND: np.ndarray
    ids_NS: np.ndarray
    lengths_NG: np.ndarray
    labels_NT: np.ndarray
    logits_NT: np.ndarray


@dataclass
class FirstRows:
    """This rank's rows of the first steps, until they have been looked at."""

    config: Config
    run_steps: int  # of the run, at most an epoch: a row that comes again would look like two rows of its ids
    _kept: list[Rows] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The step after which the rows are looked at; the same on every rank."""
        wanted = -(-ROWS // self.config.train.global_batch)
        return min(max(FEWEST_STEPS, min(wanted, MOST_STEPS)), self.run_steps)

    def add(self, batch: Batch, logits_BT: Tensor) -> bool:
        """Keep the rows of one of the first steps that have weight. True at the last of these.

        A run that resumes later than that was looked at before.
        """
        if batch.step > self.last_step:
            return False
        here, encoder = batch.weight_B.cpu().numpy() > 0, Encoder(self.config)
        ids_BS, lengths_BG = _ids(batch, len(encoder.singles), len(encoder.bags))
        dense_BD, labels_BT = batch.dense_BD.cpu().numpy(), batch.labels_BT.cpu().numpy() > 0
        columns = (dense_BD, ids_BS, lengths_BG, labels_BT, logits_BT.detach().float().cpu().numpy())
        self._kept.append(Rows(*(column[here] for column in columns)))
        return batch.step == self.last_step

    def look(self, rt: Runtime) -> list[str]:
        """The warnings, of the rows of all ranks. Collective; raises DataError, on every rank, for what can only be a
        mistake."""
        parts = [rows for kept in rt.gather(self._kept) for rows in kept]
        self._kept = []
        whole = Rows(
            *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
        )
        return rt.all_ranks(lambda: examine(whole, self.config))


def examine(rows: Rows, config: Config) -> list[str]:
    """What the rows show. With `data.leaks = "warn"` a mistake is a warning, too; else a DataError."""
    names, count = config.data.labels, len(rows.labels_NT)
    mistakes = [
        f"features.{name}: it tells the label `{label}` without an error on the first {plural(count, 'row')}, "
        "so it is the "
        f"label or was made from it; a model that sees it learns nothing. Remove the feature, or, if it is known "
        f'before the impression, set data.leaks = "warn"'
        for t, label in enumerate(names)
        for name in _leaks(rows, rows.labels_NT[:, t], Encoder(config))
    ]
    mistakes += _twins(names, rows.labels_NT)
    if mistakes and config.data.leaks == "reject":
        raise DataError("\n".join(mistakes))
    return [*mistakes, *_constant(config, rows.labels_NT), *_alike(names, rows.logits_NT)]


def _leaks(rows: Rows, positive_N: np.ndarray, encoder: Encoder) -> list[str]:
    """The features that tell a label: by their value, by their id, or by being there at all."""
    found = [name for d, name in enumerate(encoder.dense) if separates(rows.dense_ND[:, d], positive_N)]
    for s, name in enumerate(encoder.singles):
        if decides(rows.ids_NS[:, s], positive_N) or separates(rows.ids_NS[:, s] != NO_ID, positive_N):
            found.append(name)
    return found + [name for g, name in enumerate(encoder.bags) if separates(rows.lengths_NG[:, g], positive_N)]


def _twins(names: tuple[str, ...], labels_NT: np.ndarray) -> list[str]:
    return [
        f"data.labels: `{names[a]}` and `{names[b]}` are equal on the first {plural(len(labels_NT), 'row')}: "
        "one task twice. "
        f'Remove one of them, or correct its column; if it is so, set data.leaks = "warn"'
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if _rarer(labels_NT[:, a]) >= FEWEST
        and labels_NT[:, a].sum() >= FEWEST_TWINS
        and (labels_NT[:, a] == labels_NT[:, b]).all()
    ]


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


def _constant(config: Config, labels_NT: np.ndarray) -> list[str]:
    """Labels that are the same on all rows of their space."""
    names, found = config.data.labels, []
    for space in spaces(len(names), config.data.funnel):
        if space.given is None and space.label and config.data.funnel:
            continue  # told on its own space
        label = names[space.label]
        values = labels_NT[:, space.label] if space.given is None else labels_NT[labels_NT[:, space.given], space.label]
        where = f"the first {plural(len(values), 'row')} of its space"
        if len(values) >= FEWEST and values.all():
            found.append(f"`{label}` is set on all of {where}: nothing to learn there")
        elif not values.any():
            found.append(f"`{label}` is set on none of {where}: its task learns nothing from them")
    return found


def _alike(names: tuple[str, ...], logits_NT: np.ndarray) -> list[str]:
    if len(logits_NT) < FEWEST:
        return []
    varied = np.ptp(logits_NT, axis=0) > 0
    return [
        f"the towers of `{names[a]}` and `{names[b]}` predict the same for every row; are their labels apart?"
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if varied[a] and np.array_equal(logits_NT[:, a], logits_NT[:, b])
    ]


def _ids(batch: Batch, num_singles: int, num_bags: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, S) int64: the table's row of each single-id feature, NO_ID where there is none; (B, G): bags' lengths."""
    count = len(batch.weight_B)
    lengths_FB = batch.ids.lengths().cpu().numpy().reshape(num_singles + num_bags, count)
    ids_SB = np.full((num_singles, count), NO_ID, np.int64)
    present_SB = lengths_FB[:num_singles] > 0
    ids_SB[present_SB] = batch.ids.values().cpu().numpy()[: int(present_SB.sum())]
    return ids_SB.T, lengths_FB[num_singles:].T
