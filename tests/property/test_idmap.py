"""The id map against dictionaries, on any number of ranks: who has a row, who waits, who is evicted."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dist_mtl.config import DynamicRows, TableConfig
from dist_mtl.data.features.idmap import HALF_LIFE, POWERS, TALLY, IdMap, num_segments, owned, owner_of, segment_of
from dist_mtl.data.features.key_store import WAYS
from dist_mtl.data.hashing import hash_keys

FIRST, SECOND = range(2)  # numbers of the tables


@dataclass
class Entry:
    """A key with a row, or one that waits for one."""

    key: int
    score: float
    seen: int = 0


@dataclass
class PlainSegment:
    """What the documentation says of a segment, one key after the other."""

    rules: DynamicRows
    rows: dict[int, Entry] = field(default_factory=dict)  # by way
    waiting: dict[int, Entry] = field(default_factory=dict)
    age: int = 0
    admitted: int = 0
    evicted: list[int] = field(default_factory=list)  # ways, of the last step

    def learn(self, sightings: Counter, step: int) -> None:
        lru = self.rules.evict == "lru"
        tick = self.age // (self.rules.half_life or HALF_LIFE)
        weight = float(np.ldexp(POWERS[tick % WAYS], tick // WAYS))
        ways = {entry.key: way for way, entry in self.rows.items()}
        waits = {entry.key: way for way, entry in self.waiting.items()}
        busy, again, newcomers = set(), set(), []
        for key, times in sightings.items():
            if key in ways:
                entry = self.rows[ways[key]]
                entry.score = float(step) if lru else entry.score + times * weight
                busy.add(ways[key])
                continue
            old = self.waiting[waits[key]] if key in waits else Entry(key, 0.0)
            score = float(step) if lru else times * weight + old.score
            newcomers.append(Entry(key, score, old.seen + times))
        self.age += 0 if lru else len(sightings)
        self.evicted = []
        newcomers.sort(key=lambda entry: (-entry.score, entry.key))
        stay = []
        for entry in newcomers:
            strength = np.inf if lru else entry.score
            way = self._claim(self.rows, busy, strength) if entry.seen >= self.rules.admit else None
            if way is None:
                stay.append(entry)
                continue
            if way in self.rows:
                self.evicted.append(way)
            self.rows[way] = Entry(entry.key, entry.score)
            busy.add(way)
            self.admitted += 1
            if entry.key in waits:
                del self.waiting[waits[entry.key]]
        for entry in (e for e in stay if e.key in waits):
            self.waiting[waits[entry.key]] = entry
            again.add(waits[entry.key])
        for entry in (e for e in stay if e.key not in waits):
            way = self._claim(self.waiting, again, np.inf)
            if way is not None:
                self.waiting[way] = entry
                again.add(way)

    @staticmethod
    def _claim(there: dict[int, Entry], busy: set[int], strength: float) -> int | None:
        if free := sorted(set(range(WAYS)) - there.keys()):
            return free[0]
        weakest = min((way for way in there if way not in busy), key=lambda way: (there[way].score, way), default=None)
        return weakest if weakest is not None and there[weakest].score < strength else None


def tables(rules: tuple[DynamicRows, DynamicRows]) -> dict[str, TableConfig]:
    """3 segments with 8 rows behind them, and 1 with 64; without `fallback` one of these is used."""
    return {"first": TableConfig(rows=200, dynamic=rules[0]), "second": TableConfig(rows=128, dynamic=rules[1])}


def steps_of(seed: int, steps: int, batch: int, universe: int) -> list[list[np.ndarray]]:
    """The keys of both tables at each step: some come often, and the population moves on."""
    draw = np.random.default_rng(seed)
    found = []
    for step in range(steps):
        ids = (universe * draw.random((2, batch)) ** 2).astype(np.int64) + step * universe // 20
        found.append([hash_keys(ids[table], 0) for table in (FIRST, SECOND)])  # a key of both is two keys
    return found


def learn_apart(
    maps: list[IdMap], keys: list[np.ndarray], step: int, draw: np.random.Generator
) -> tuple[dict[tuple[int, int], int], set[tuple[int, int]]]:
    """A step on the ranks of `maps`, in any order, sightings cut anyhow: rows by (table, key); what changed hands."""
    table_N = np.repeat([FIRST, SECOND], [len(keys[0]), len(keys[1])])
    key_N = np.concatenate(keys)
    order = draw.permutation(len(key_N))
    table_N, key_N = table_N[order], key_N[order]
    segments_N = maps[0].segments_T[table_N]
    owner_N = owner_of(segment_of(key_N, segments_N), segments_N, len(maps))
    rows, renewed = {}, set()
    for rank, one in enumerate(maps):
        mine = owner_N == rank
        table, key, times = table_N[mine], key_N[mine], np.ones(mine.sum(), np.int64)
        if draw.random() < 0.5 and len(key):  # the first two of a kind as one entry
            same = (table[1:] == table[:1]) & (key[1:] == key[:1])
            times[0] += same.sum()
            keep = np.concatenate([[True], ~same])
            table, key, times = table[keep], key[keep], times[keep]
        learnt = one.learn(table, key, times, step)
        for entry in zip(table.tolist(), key.tolist(), learnt.row_N.tolist(), strict=True):
            assert rows.setdefault(entry[:2], entry[2]) == entry[2], "two rows for one key in a step"
        renewed |= {tuple(pair) for pair in learnt.renewed_E2.tolist()}
    return rows, renewed


rules_of_a_table = st.builds(
    lambda admit, evict, half_life, fallback: DynamicRows(
        admit=admit, evict=evict, half_life=half_life if evict == "lfu" else None, fallback=fallback
    ),
    st.integers(1, 3),
    st.sampled_from(["lfu", "lru"]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 0.03]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rules=st.tuples(
        rules_of_a_table, rules_of_a_table.map(lambda r: r.model_copy(update={"fallback": r.fallback and 0.5}))
    ),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 12),
    batch=st.integers(0, 600),
    universe=st.sampled_from([20, 400, 2000, 2000]),
    world=st.integers(1, 5),
)
def test_the_map_is_a_dictionary(rules: tuple, seed: int, steps: int, batch: int, universe: int, world: int) -> None:
    specs = tables(rules)
    maps = [IdMap(specs, rank, world) for rank in range(world)]
    sizes = [num_segments(table) for table in specs.values()]
    assert sizes == [3, 1]
    plain = [[PlainSegment(rules[t]) for _ in range(n)] for t, n in enumerate(sizes)]
    draw = np.random.default_rng(seed)
    evictions = 0
    for step, keys in enumerate(steps_of(seed, steps, batch, universe), start=1):
        rows, renewed = learn_apart(maps, keys, step, draw)
        expected_renewed = set()
        for t in (FIRST, SECOND):
            segment_N = segment_of(keys[t], sizes[t])
            for s, segment in enumerate(plain[t]):
                segment.learn(Counter(keys[t][segment_N == s].tolist()), step)
                expected_renewed |= {(t, s * WAYS + way) for way in segment.evicted}
                own = {entry.key: s * WAYS + way for way, entry in segment.rows.items()}
                for key in set(keys[t][segment_N == s].tolist()):
                    if key in own:
                        assert rows[t, key] == own[key]
                    else:
                        shared = 1 if rules[t].fallback is None else (8, 64)[t]
                        assert 0 <= rows[t, key] - sizes[t] * WAYS < shared
        assert renewed == expected_renewed
        evictions += len(renewed)
    for rank, one in enumerate(maps):
        for t, size in enumerate(sizes):
            for g, s in zip(range(one.part(t).start, one.part(t).stop), owned(size, rank, world), strict=True):
                segment = plain[t][s]
                for there, places in ((segment.rows, one.rows), (segment.waiting, one.waiting)):
                    found = {w: (k, places.score_GW[g, w]) for w, k in enumerate(places.key_GW[g].tolist()) if k >= 0}
                    assert found == {way: (entry.key, entry.score) for way, entry in there.items()}
                assert {w: int(n) for w, n in enumerate(one.seen_GW[g]) if n} == {
                    way: entry.seen for way, entry in segment.waiting.items()
                }
                assert one.age_G[g] == segment.age
    tally = dict(zip(TALLY, sum(one.tally_TX for one in maps).T.tolist(), strict=True))
    assert tally["admitted"] == [sum(segment.admitted for segment in table) for table in plain]
    assert sum(tally["evicted"]) == evictions and tally["lookups"] == [batch * steps] * 2
    event(f"evictions: {'none' if not evictions else 'some'}")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(segments=st.integers(1, 3000), world=st.integers(1, 70))
def test_every_segment_has_one_owner(segments: int, world: int) -> None:
    ranges = [owned(segments, rank, world) for rank in range(world)]
    assert [s for r in ranges for s in r] == list(range(segments))
    assert owner_of(np.arange(segments), segments, world).tolist() == [k for k, r in enumerate(ranges) for _ in r]
    assert max(len(r) for r in ranges) - min(len(r) for r in ranges) <= 1
