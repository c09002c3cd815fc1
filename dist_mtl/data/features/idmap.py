"""Keys without end -> rows of a table that has one: who has a row, who waits for one, who gives one up.

A table is cut into segments of WAYS rows, and a key belongs to one segment, by its own leading bits. A segment knows
nothing of the others; what it does is a function of the keys that each step sees, over all ranks, in it. So which rank
owns which segments changes nothing, and neither does the number of ranks. Behind the last segment begins the fallback
part, which the keys without a row of their own share: one row, or as many as are configured, by their trailing bits.

A key is any int64 >= 0 that is as good as random (`hashing.hash_keys`): its bits are used as they come.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dist_mtl.config import TableConfig
from dist_mtl.data.features.key_store import EMPTY, WAYS, Places, firsts

HALF_LIFE = 4  # of `lfu` unless configured; for the choice see docs/data.md, dynamic ids
POWERS = np.array([2.0 ** (i / WAYS) for i in range(WAYS)])  # scalars: numpy's own vectors may differ by the last bit
TOP = 512  # binary exponent of a score at which a segment's scores are scaled down; float64 ends at 1023


def num_segments(table: TableConfig) -> int:
    """Of a dynamic table: what is left beside the fallback part, whole segments only. At least 1 for 128 rows."""
    fallback = max(1, math.ceil(table.rows * (table.dynamic.fallback or 0)))
    return (table.rows - fallback) // WAYS


def num_shared(table: TableConfig) -> int:
    """Rows of the fallback part. A single one leaves up to WAYS - 1 rows behind it idle."""
    return 1 if table.dynamic.fallback is None else table.rows - num_segments(table) * WAYS


def segment_of(key_N: np.ndarray, segments_N: np.ndarray | int) -> np.ndarray:
    """The segment of each key in a table of so many segments (up to 2**31)."""
    return ((key_N >> 31) * segments_N) >> 32


def owner_of(segment_N: np.ndarray, segments_N: np.ndarray | int, world: int) -> np.ndarray:
    """The rank that owns each segment; `owned` the other way round."""
    return ((segment_N + 1) * world - 1) // segments_N


def owned(segments: int, rank: int, world: int) -> range:
    """The segments of a rank: side by side, as many as those of any other, give or take one. May be none."""
    return range(segments * rank // world, segments * (rank + 1) // world)


@dataclass(frozen=True)
class Learnt:
    """What a step's N lookups came to: the row of each, and the rows that have changed hands in this step."""

    row_N: np.ndarray
    renewed_E2: np.ndarray  # (number of the table, row); what the last owner has learnt there must go


TALLY = ("lookups", "fallback", "admitted", "evicted")  # of a table, of this rank's segments, since the process began


class IdMap:
    """The segments of all dynamic tables that one rank owns.

    `admit`: a key gets a row with its sighting number `admit`, counted while it waits among the segment's WAYS best
    candidates. A full segment gives up the row of least score: under `lru` the one that was seen longest ago; under
    `lfu` the one of fewest sightings, where a sighting weighs 2**(age of the segment) and the age is the number of
    distinct keys that the segment's steps have had until then, over half_life * WAYS; and only if the newcomer's score
    is higher. A row that is used in a step is not given up in it. Ties fall to the smaller key, the lower row.
    """

    def __init__(self, tables: Mapping[str, TableConfig], rank: int, world: int, learns: bool = True) -> None:
        specs = list(tables.values())
        self.names = tuple(tables)
        self.segments_T = np.array([num_segments(table) for table in specs], np.int64)
        self.ranges = tuple(owned(int(n), rank, world) for n in self.segments_T)
        sizes = np.array([len(r) for r in self.ranges], np.int64)
        self._start_T = np.cumsum(sizes) - sizes  # of a table's segments among this rank's
        self._shift_T = self._start_T - np.array([r.start for r in self.ranges])
        self._shared_T = np.array([num_shared(table) for table in specs], np.int64)
        total = int(sizes.sum())
        self.table_G = np.repeat(np.arange(len(specs)), sizes)
        rules = [table.dynamic for table in specs]
        self._lru_G = np.repeat([rule.evict == "lru" for rule in rules], sizes)
        self._admit_G = np.repeat([rule.admit for rule in rules], sizes)
        self._half_life_G = np.repeat([rule.half_life or HALF_LIFE for rule in rules], sizes)
        self._span_G = TOP * WAYS * self._half_life_G
        self._row_G = (np.arange(total) - self._shift_T[self.table_G]) * WAYS  # a segment's first row
        self.rows = Places(total)
        self.waiting = Places(total if learns else 0)
        self._scratch = np.zeros(total * WAYS if learns else 0, np.int32)
        self.seen_GW = np.zeros(self.waiting.key_GW.shape, np.int64)  # sightings of those who wait
        self.age_G = np.zeros(len(self.waiting.key_GW), np.int64)
        self.tally_TX = np.zeros((len(specs), len(TALLY)), np.int64)
        self.occupied_T = np.zeros(len(specs), np.int64)  # rows of this rank's segments that belong to a key

    def look_up(self, table_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
        """The row of each key, or the one that it shares. All keys belong to segments of this rank; nothing changes."""
        segment_N = self._segment(table_N, key_N)
        return self._row(table_N, segment_N, key_N, self.rows.find(segment_N, key_N))

    def learn(self, table_N: np.ndarray, key_N: np.ndarray, times_N: np.ndarray, step: int) -> Learnt:
        """The same for a step of training: count, admit, evict. A key may stand there more than once.

        What becomes of the map does not depend on the order of the entries, nor on how sightings are cut into entries.
        """
        segment_N = self._segment(table_N, key_N)
        place_N = self.rows.find(segment_N, key_N)
        known_N = place_N >= 0
        used_P, times_P = _merged(place_N[known_N], times_N[known_N], self._scratch)
        unknown = np.flatnonzero(~known_N)
        new = _Unknown.of(segment_N[unknown], key_N[unknown], times_N[unknown])
        sighted = np.concatenate([used_P // WAYS, new.segment_U])  # one entry for each distinct key
        self._scale_down(sighted)
        at_U = self.waiting.find(new.segment_U, new.key_U)
        score_U, seen_U = self._scores(new, at_U, step)
        score_P = self._risen(used_P, times_P, step)
        np.add.at(self.age_G, sighted[~self._lru_G[sighted]], 1)

        scores = self.rows.score_GW.reshape(-1)
        scores[used_P] = np.inf  # not to be given up in this step
        row_U, evicted = self._admit(new, seen_U >= self._admit_G[new.segment_U], score_U, at_U)
        scores[used_P] = score_P
        self._wait(new, row_U < 0, score_U, seen_U, at_U)
        place_N[unknown] = row_U[new.of_N]
        self._count(table_N, times_N, place_N, row_U[row_U >= 0], evicted)
        renewed_E2 = np.column_stack([self.table_G[evicted // WAYS], self._row_G[evicted // WAYS] + evicted % WAYS])
        return Learnt(self._row(table_N, segment_N, key_N, place_N), renewed_E2)

    def part(self, table: int) -> slice:
        """A table's segments among this rank's."""
        return slice(int(self._start_T[table]), int(self._start_T[table]) + len(self.ranges[table]))

    def refresh(self) -> bool:
        """Call after the keys were filled from elsewhere. False if a key is where it can not have been put."""
        whole, taken_G = True, (self.rows.key_GW != EMPTY).sum(axis=1)
        self.occupied_T = np.bincount(self.table_G, taken_G, minlength=len(self.names)).astype(np.int64)
        for places in (self.rows, self.waiting):
            places.refresh()
            segment, way = np.nonzero(places.key_GW != EMPTY)
            key = places.key_GW[segment, way]
            whole &= bool((key >= 0).all() and (self._segment(self.table_G[segment], key) == segment).all())
        return whole

    def _segment(self, table_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
        return segment_of(key_N, self.segments_T[table_N]) + self._shift_T[table_N]

    def _row(self, table_N: np.ndarray, segment_N: np.ndarray, key_N: np.ndarray, place_N: np.ndarray) -> np.ndarray:
        """Places -> rows of the table; EMPTY -> the key's row of the fallback part."""
        row_N = self._row_G[segment_N] + place_N % WAYS
        without = np.flatnonzero(place_N < 0)
        table = table_N[without]
        shared = ((key_N[without] & 0xFFFFFFFF) * self._shared_T[table]) >> 32
        row_N[without] = self.segments_T[table] * WAYS + shared
        return row_N

    def _weight(self, segment_N: np.ndarray) -> np.ndarray:
        """Of a sighting at the segment's present age: a power of 2 in steps of 2**(1/WAYS), exact on any machine."""
        steps = self.age_G[segment_N] // self._half_life_G[segment_N]
        return np.ldexp(POWERS[steps % WAYS], steps // WAYS)

    def _scores(self, new: "_Unknown", at_U: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Score and sightings of keys without a row, this step's included. `at_U`: where they wait, if they do."""
        before = at_U >= 0
        seen_U, score_U = new.times_U.copy(), new.times_U * self._weight(new.segment_U)
        seen_U[before] += self.seen_GW.reshape(-1)[at_U[before]]
        score_U[before] += self.waiting.score_GW.reshape(-1)[at_U[before]]
        return np.where(self._lru_G[new.segment_U], float(step), score_U), seen_U

    def _risen(self, place_P: np.ndarray, times_P: np.ndarray, step: int) -> np.ndarray:
        """The scores of keys that have a row, with this step's sightings."""
        segment_P = place_P // WAYS
        score_P = self.rows.score_GW.reshape(-1)[place_P] + times_P * self._weight(segment_P)
        return np.where(self._lru_G[segment_P], float(step), score_P)

    def _scale_down(self, segment_P: np.ndarray) -> None:
        """Before a score could leave the range of float64: subtract TOP half-lives from the age, exactly."""
        old = np.unique(segment_P[self.age_G[segment_P] >= self._span_G[segment_P]])
        self.age_G[old] -= self._span_G[old]
        for places in (self.rows, self.waiting):
            places.score_GW[old] = np.ldexp(places.score_GW[old], -TOP)

    def _admit(
        self, new: "_Unknown", wants_U: np.ndarray, score_U: np.ndarray, at_U: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows for those who may have one: (place or EMPTY of each key, places that someone had to give up)."""
        place_U = np.full(len(wants_U), EMPTY, np.int64)
        order = new.strongest_first(wants_U, score_U)
        segment_Q = new.segment_U[order]
        place_Q = self.rows.claim(segment_Q, np.where(self._lru_G[segment_Q], np.inf, score_U[order]))
        order, place_Q = order[place_Q >= 0], place_Q[place_Q >= 0]
        evicted = place_Q[self.rows.key_GW.reshape(-1)[place_Q] != EMPTY]
        self.rows.put(place_Q, new.key_U[order], score_U[order])
        place_U[order] = place_Q
        waited = at_U[order][at_U[order] >= 0]
        self.waiting.leave(waited)
        self.seen_GW.reshape(-1)[waited] = 0
        return place_U, evicted

    def _wait(
        self, new: "_Unknown", without_U: np.ndarray, score_U: np.ndarray, seen_U: np.ndarray, at_U: np.ndarray
    ) -> None:
        """Those without a row wait for one; where there are too many, the weakest are forgotten."""
        scores, seen = self.waiting.score_GW.reshape(-1), self.seen_GW.reshape(-1)
        again = np.flatnonzero(without_U & (at_U >= 0))
        scores[at_U[again]] = np.inf  # not to be forgotten in this step
        order = new.strongest_first(without_U & (at_U < 0), score_U)
        place_Q = self.waiting.claim(new.segment_U[order], np.full(len(order), np.inf))
        scores[at_U[again]], seen[at_U[again]] = score_U[again], seen_U[again]
        order, place_Q = order[place_Q >= 0], place_Q[place_Q >= 0]
        self.waiting.put(place_Q, new.key_U[order], score_U[order])
        seen[place_Q] = seen_U[order]

    def _count(
        self, table_N: np.ndarray, times_N: np.ndarray, place_N: np.ndarray, admitted: np.ndarray, evicted: np.ndarray
    ) -> None:
        tables = len(self.names)
        self.tally_TX[:, 0] += np.bincount(table_N, times_N, minlength=tables).astype(np.int64)
        without = place_N < 0
        self.tally_TX[:, 1] += np.bincount(table_N[without], times_N[without], minlength=tables).astype(np.int64)
        come, gone = (np.bincount(self.table_G[place // WAYS], minlength=tables) for place in (admitted, evicted))
        self.tally_TX[:, 2] += come
        self.tally_TX[:, 3] += gone
        self.occupied_T += come - gone


def _merged(place_N: np.ndarray, times_N: np.ndarray, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each place once, and the sum of its times."""
    of_N = firsts(place_N, scratch)
    sums = np.bincount(of_N, times_N, minlength=len(place_N))  # float64: exact to 2**53
    one = of_N == np.arange(len(place_N))
    return place_N[one], sums[one]


@dataclass(frozen=True)
class _Unknown:
    """The U distinct keys of a step that have no row, by key; `of_N`: where each entry is there."""

    segment_U: np.ndarray
    key_U: np.ndarray
    times_U: np.ndarray
    of_N: np.ndarray

    @classmethod
    def of(cls, segment_N: np.ndarray, key_N: np.ndarray, times_N: np.ndarray) -> "_Unknown":
        order = np.argsort(key_N)
        key, segment = key_N[order], segment_N[order]
        other_key, other_segment = key[1:] != key[:-1], segment[1:] != segment[:-1]
        if (other_segment & ~other_key).any():  # one key in two tables; a sort by both takes five times as long
            order = np.lexsort((segment_N, key_N))
            key, segment = key_N[order], segment_N[order]
            other_key, other_segment = key[1:] != key[:-1], segment[1:] != segment[:-1]
        begins = np.concatenate([np.ones(min(1, len(order)), bool), other_key | other_segment])
        number = np.cumsum(begins) - 1
        of_N = np.empty(len(order), np.int64)
        of_N[order] = number
        times_U = np.bincount(number, times_N[order], minlength=int(begins.sum())).astype(np.int64)
        return cls(segment[begins], key[begins], times_U, of_N)

    def strongest_first(self, chosen_U: np.ndarray, score_U: np.ndarray) -> np.ndarray:
        """The chosen ones by segment, the highest score first; equal ones by key."""
        chosen = np.flatnonzero(chosen_U)
        return chosen[np.lexsort((-score_U[chosen], self.segment_U[chosen]))]
