"""Looks at the first rows of a run for what makes metrics lie; each check is a bug that users of peers reported.

A label (or a copy of it) among the features gives an AUC of 1; two tasks with one label, or with one prediction, train
one model twice; a task without a positive, or with nothing else, learns nothing. (Conversions without clicks are the
business of `data.violations`.) The values inside a bag are not looked at, only how many there are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from dist_mtl.config import Config
from dist_mtl.data.batch import Batch
from dist_mtl.data.features.encode import Encoder
from dist_mtl.data.features.ids import NO_ID
from dist_mtl.data.features.numbers import LARGEST, extreme
from dist_mtl.data.funnel import spaces
from dist_mtl.errors import DataError
from dist_mtl.metrics.mean import Mean
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.train_step import ADVICE
from dist_mtl.terminal.wording import plural

ROWS = 131_072  # of all ranks, that are looked at: at a base rate of 0.05 % they hold 65 conversions
FEWEST_STEPS, MOST_STEPS = 8, 100
TOO_MANY = 100  # times the entropy of the labels: a loss that no beginning has, and no wrong base rate
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
    weight_N: np.ndarray = field(default_factory=lambda: np.zeros(0))
    heaviest_SG: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # of each step: largest weight in a bag


@dataclass
class FirstRows:
    """This rank's rows of the first steps, until they have been looked at."""

    config: Config
    run_steps: int  # of the run, at most an epoch: a row that comes again would look like two rows of its ids
    _kept: list[Rows] = field(default_factory=list)
    _losses: Mean | None = None

    @property
    def last_step(self) -> int:
        """The step after which the rows are looked at; the same on every rank."""
        wanted = -(-ROWS // self.config.train.global_batch)
        return min(max(FEWEST_STEPS, min(wanted, MOST_STEPS)), self.run_steps)

    def add(self, batch: Batch, logits_BT: Tensor, losses: Sequence[float] = (), weight: float = 0.0) -> bool:
        """Keep the rows of one of the first steps that have weight. True at the last of these. `losses`: of the labels,
        over all ranks, whose rows have this `weight`.

        A run that resumes later than that was looked at before.
        """
        if batch.step > self.last_step:
            return False
        here, encoder = batch.weight_B.cpu().numpy() > 0, Encoder(self.config)
        ids_BS, lengths_BG = _ids(batch, len(encoder.singles), len(encoder.bags))
        dense_BD, labels_BT = batch.dense_BD.cpu().numpy(), batch.labels_BT.cpu().numpy() > 0
        columns = (dense_BD, ids_BS, lengths_BG, labels_BT, logits_BT.detach().float().cpu().numpy())
        weights = batch.weight_B.cpu().numpy()[here], _heaviest(batch, encoder)
        self._kept.append(Rows(*(column[here] for column in columns), *weights))
        if losses:
            self._losses = self._losses or Mean(len(losses))
            self._losses.add(list(losses), weight)
        return batch.step == self.last_step

    def look(self, rt: Runtime) -> list[str]:
        """The warnings, of the rows of all ranks. Collective; raises DataError, on every rank, for what can only be a
        mistake."""
        parts = [rows for kept in rt.gather(self._kept) for rows in kept]
        self._kept = []
        whole = Rows(
            *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
        )
        losses = self._losses.take() if self._losses else []
        return rt.all_ranks(lambda: [*examine(whole, self.config), *_far_off_at_first(losses, whole, self.config)])


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
    return [*mistakes, *_constant(config, rows.labels_NT), *_alike(names, rows.logits_NT), *_extremes(rows, config)]


def _extremes(rows: Rows, config: Config) -> Iterator[str]:
    """Numbers that are far larger than a network expects."""
    encoder, count = Encoder(config), plural(len(rows.labels_NT), "row")
    for name, x_N in zip(encoder.dense, rows.dense_ND.T, strict=True):
        if len(x_N) and (far := extreme(float(x_N[np.abs(x_N).argmax()]))):
            yield f"features.{name}: of the first {count} {far}"
    for name, most_S in zip(encoder.bags, rows.heaviest_SG.T, strict=False):
        if len(most_S) and most_S.max() > LARGEST:
            heaviest = f"an id weighs {most_S.max():.3g} among the first {count}"
            yield f"features.{name}: {heaviest}; divide its weights by their mean"
    if len(rows.weight_N) and (ratio := rows.weight_N.max() / rows.weight_N.mean()) > LARGEST:
        yield (
            f"data.weight: a row weighs {rows.weight_N.max():.3g} among the first {count}, {ratio:,.0f} times the "
            f"mean: its step is about that row alone; cap the weights"
        )


def _far_off_at_first(losses: list[float], rows: Rows, config: Config) -> list[str]:
    labels_NT, conditional = rows.labels_NT, config.model.head == "clicked"
    of_space = [labels_NT[labels_NT[:, t - 1] > 0 if t and conditional else slice(None), t] for t in range(len(losses))]
    return list(far_off(losses, [(float(y_N.sum()), len(y_N)) for y_N in of_space], config).values())


def far_off(losses: Sequence[float], counts: Sequence[tuple[float, float]], config: Config) -> dict[str, str]:
    """By label: what to say of a mean loss that is TOO_MANY times the entropy of its labels. `counts`: of each label,
    positives and rows of its space. A coin's loss is none, however rare the label is."""
    weights = config.model.task_weights or (1.0,) * len(config.data.labels)
    told = {}
    for label, loss, weight, (positives, rows) in zip(config.data.labels, losses, weights, counts, strict=False):
        if not 0 < positives < rows or not weight:
            continue
        entropy = -sum(p * math.log(p) for p in (positives / rows, 1 - positives / rows))
        if loss / weight > max(TOO_MANY * entropy, 1.0):
            told[label] = (
                f"the loss of `{label}` is {loss / weight:.3g}, {loss / weight / entropy:.3g} times the entropy of "
                f"its labels ({entropy:.3g}): far worse than their base rate. {ADVICE}"
            )
    return told


def _heaviest(batch: Batch, encoder: Encoder) -> np.ndarray:
    """(1, G): the largest weight of an id in each bag; 0 without."""
    found = np.zeros((1, len(encoder.bags)))
    if encoder.weighted:
        for g, part in enumerate(batch.ids[name].weights() for name in encoder.bags):
            found[0, g] = part.abs().max().item() if len(part) else 0.0
    return found


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
