"""Logs of many large id columns, for speed tests and for ids that come and go; their labels have a known truth."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from dist_mtl.config import LogStream, Population, Seed
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws, timeline
from dist_mtl.data.synthetic.shop import SHARD_ROWS, sigmoid, solve

BLOCK = 16_384  # ids of a history that are made at once
CLICK_BY_ID, PURCHASE_BY_ID = 0.5, 0.3  # standard deviation of the effect of each of the first three ids
CLICK_BY_DENSE, PURCHASE_BY_DENSE = (0.5, 0.5, 0.3, 0.0), (0.5, 0.0, 0.5, 0.7)


class BenchmarkLogs(LogStream):
    """Id columns c0, c1, ... of `rows_per_table` ids each and dense columns d0, d1, ..., all independent."""

    ids: Annotated[int, Field(ge=1, le=10_000)] = 26
    rows_per_table: Population = 1_000_000
    dense: Annotated[int, Field(ge=0, le=10_000)] = 13
    histories: Annotated[int, Field(ge=0, le=1_000)] = 0  # list columns h0, h1, ... of as many ids
    history_length: Annotated[float, Field(gt=0, le=10_000)] = 50.0  # their mean; log-normal, see `draws.lengths`
    seed: Seed = 7
    ctr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    cvr: Annotated[float, Field(gt=0, lt=1)] = 0.10

    @model_validator(mode="after")
    def _late_needs_a_time(self) -> Self:
        if self.delayed and self.rows_per_day is None:
            raise ValueError("delayed: these logs have a time only in the order of time, so set rows_per_day")
        return self

    @model_validator(mode="after")
    def _a_length_needs_a_list(self) -> Self:
        if "history_length" in self.model_fields_set and not self.histories:
            raise ValueError("history_length: there is no history to be as long; set histories")
        return self


@dataclass(frozen=True)
class WideRows:
    """A shard before its labels: its columns, and the logits of a click and of a purchase without their intercepts."""

    columns: dict[str, np.ndarray]
    histories: dict[str, tuple[np.ndarray, np.ndarray]]  # (offsets, ids)
    click: np.ndarray
    purchase: np.ndarray


def impressions(spec: BenchmarkLogs, split: str, index: int) -> WideRows:
    """Shard `index` of a split: SHARD_ROWS rows; the first three ids and four dense columns decide the labels."""
    columns: dict[str, np.ndarray] = {}
    when = timeline.moments(index * SHARD_ROWS, SHARD_ROWS, spec.rows_per_day) if spec.rows_per_day else None
    for k in range(spec.ids):
        u = draws.uniform(random_bits(SHARD_ROWS, spec.seed, split, index, f"c{k}"))
        ids = draws.scatter(draws.popular(u, spec.rows_per_table), spec.rows_per_table, spec.seed, k)
        if when is not None and spec.new_ids_per_day:
            ids = timeline.alive(ids, spec.rows_per_table, when.days, spec.new_ids_per_day, spec.seed, f"c{k}")
        columns[f"c{k}"] = ids
    for k in range(spec.dense):
        columns[f"d{k}"] = draws.normal(random_bits(SHARD_ROWS, spec.seed, split, index, f"d{k}")).astype(np.float32)
    if when is not None:
        columns |= {"day": when.day, "time": when.time}
    click, purchase = np.zeros(SHARD_ROWS), np.zeros(SHARD_ROWS)
    for k in range(min(3, spec.ids)):
        click += CLICK_BY_ID * draws.normal(draws.words_of(columns[f"c{k}"], spec.seed, k, "click"))
        purchase += PURCHASE_BY_ID * draws.normal(draws.words_of(columns[f"c{k}"], spec.seed, k, "purchase"))
    for k in range(min(4, spec.dense)):
        click += CLICK_BY_DENSE[k] * columns[f"d{k}"]
        purchase += PURCHASE_BY_DENSE[k] * columns[f"d{k}"]
    histories = {f"h{k}": _history(spec, split, index, f"h{k}", when) for k in range(spec.histories)}
    return WideRows(columns, histories, click, purchase)


def _history(
    spec: BenchmarkLogs, split: str, index: int, name: str, when: timeline.Moments | None
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, ids) of a list column; the ids are made in blocks that stay in the cache."""
    words = random_bits(SHARD_ROWS // 4, spec.seed, split, index, name, "lengths")
    length = draws.lengths(words, SHARD_ROWS, spec.history_length)
    offsets = np.concatenate([[0], np.cumsum(length)])
    ids = np.empty(offsets[-1] + BLOCK, np.int32)  # half the bytes to write; a population ends at 2**31
    for block in range(-(-int(offsets[-1]) // BLOCK)):
        ranks = draws.many_popular(random_bits(BLOCK // 2, spec.seed, split, index, name, block), spec.rows_per_table)
        made = draws.scatter(ranks, spec.rows_per_table, spec.seed, name)
        ids[block * BLOCK : (block + 1) * BLOCK] = made
    ids = ids[: offsets[-1]]
    if when is not None and spec.new_ids_per_day:
        days = np.repeat(when.days, length)
        ids = timeline.alive(ids, spec.rows_per_table, days, spec.new_ids_per_day, spec.seed, name)
    return offsets.astype(np.int32), ids


def probabilities(spec: BenchmarkLogs, rows: WideRows) -> tuple[np.ndarray, np.ndarray]:
    """(P(click), P(click and conversion)) of each row."""
    click_bias, purchase_bias = _biases(spec.model_copy(update=LogStream().model_dump()))
    ctr = sigmoid(click_bias + rows.click)
    return ctr, ctr * sigmoid(purchase_bias + rows.purchase)


@lru_cache(maxsize=4)
def _biases(spec: BenchmarkLogs) -> tuple[float, float]:
    """The intercepts at which spec.ctr of the impressions are clicked and spec.cvr of the clicks convert."""
    rows = impressions(spec, "calibration", 0)
    click_bias = solve(lambda b: float(sigmoid(b + rows.click).mean()), spec.ctr)
    ctr = sigmoid(click_bias + rows.click)
    target = spec.ctr * spec.cvr
    return click_bias, solve(lambda b: float((ctr * sigmoid(b + rows.purchase)).mean()), target)
