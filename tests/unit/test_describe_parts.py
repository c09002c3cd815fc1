"""The counts behind a description against plain numpy: whatever the values, the cuts into parts, and their order."""

import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dist_mtl.data.cardinality import KEPT, Distinct, hashes_of, list_hashes
from dist_mtl.data.hashing import random_bits
from dist_mtl.tools.describe import duplicates, leaks
from dist_mtl.tools.describe.bins import Bins
from dist_mtl.tools.describe.drift import stability, tells_the_day
from dist_mtl.tools.describe.duplicates import Duplicates
from dist_mtl.tools.describe.label_rates import Values
from dist_mtl.tools.describe.labels import LabelCounts, Outcomes, classify
from dist_mtl.tools.describe.table_usage import expected_sharing

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False), max_size=60), st.lists(st.floats(), max_size=60))
def test_bins_are_those_of_a_binary_search(edges: list[float], values: list[float]) -> None:
    ends = np.unique(np.array([e for e in edges if math.isfinite(e)]) + 0.0)
    x = np.array([*values, *ends, *np.nextafter(ends, -np.inf), np.inf, -np.inf, 0.0, -0.0])
    known = ~np.isnan(x)
    assert np.array_equal(Bins(ends).of(x)[known], np.searchsorted(ends, x[known], side="right"))


@pytest.mark.parametrize("kind", ["normal", "integers", "times", "negative", "few"])
def test_bins_of_many_values(kind: str) -> None:
    draw = np.random.default_rng(1)
    x = {
        "normal": lambda: draw.normal(size=20_000),
        "integers": lambda: draw.integers(0, 10**6, 20_000).astype(float),
        "times": lambda: 1.7e9 + draw.integers(0, 10**6, 20_000),
        "negative": lambda: -np.exp(5 * draw.normal(size=20_000)),
        "few": lambda: draw.integers(0, 3, 20_000).astype(float),
    }[kind]()
    edges = np.unique(np.quantile(x, np.arange(1, 256) / 256))
    assert np.array_equal(Bins(edges).of(x), np.searchsorted(edges, x, side="right"))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([10, 3_000, 20_000]), st.integers(1, 5))
def test_values_keep_exact_counts_of_a_sample_of_the_values(seed: int, cardinality: int, parts: int) -> None:
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, cardinality, 30_000)
    kinds = draw.integers(0, 2 * 3, 30_000)
    hashes = hashes_of(pa.array(ids))
    pieces = []
    for piece in np.array_split(np.arange(30_000), parts):
        values = Values(3)
        for block in np.array_split(piece, 3):
            values.add(hashes[block], kinds[block])
        pieces.append(pickle.loads(pickle.dumps(values)))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole.merge(piece)
    smallest = np.unique(hashes)[:KEPT]
    assert np.array_equal(whole.distinct.smallest, smallest)
    inside = np.isin(hashes, smallest)
    place = np.searchsorted(smallest, hashes[inside])
    expected = np.bincount(place * 6 + kinds[inside], minlength=len(smallest) * 6).reshape(len(smallest), 2, 3)
    assert np.array_equal(whole.counts, expected)
    true = len(np.unique(ids))
    assert whole.distinct.count == (true if true < KEPT else pytest.approx(true, rel=0.06))


def test_the_error_of_the_cardinality_is_the_stated_one() -> None:
    errors = []
    for seed in range(40):
        distinct = Distinct()
        distinct.add(random_bits(50_000, "cardinality", seed))
        errors.append(distinct.count / 50_000 - 1)
    print(f"relative error of 40 sketches: {np.std(errors):.4f} (1 / sqrt({KEPT}) = {KEPT**-0.5:.4f})")
    assert np.std(errors) < 0.02 and abs(np.mean(errors)) < 0.01


def test_equal_values_have_equal_hashes_whatever_their_type() -> None:
    hashes = [hashes_of(pa.array([1, 2, 3], kind)) for kind in (pa.int8(), pa.int64(), pa.uint32())]
    assert all(np.array_equal(hashes[0], other) for other in hashes[1:])
    texts = [
        pa.array(["a", "b", "a"]),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
    ]
    assert all(np.array_equal(hashes_of(texts[0]), hashes_of(other)) for other in texts[1:])
    zeros = hashes_of(pa.array([0.0, -0.0], pa.float64()))
    assert zeros[0] == zeros[1]
    lists = list_hashes(np.array([1, 2, 2, 1, 1, 2], np.uint64), np.array([0, 2, 4, 6, 6, 6]))
    assert lists[0] == lists[2] and lists[3] == lists[4] and len({*lists.tolist()}) == 3


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 3_000), st.integers(1, 4))
def test_copies_are_counted_exactly_below_the_bound(seed: int, copies: int, parts: int) -> None:
    draw = np.random.default_rng(seed)
    rows = random_bits(5_000, "rows", seed)
    rows = draw.permutation(np.append(rows, draw.choice(rows, copies)))
    whole = Duplicates()
    for piece in np.array_split(rows, parts):
        part = Duplicates()
        part.add(piece)
        whole.merge(part)
    assert whole.is_exact and whole.extra == copies and whole.rows == 5_000 + copies


def test_copies_are_estimated_beyond_the_bound_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "KEPT", 20_000)
    rows = random_bits(400_000, "rows")
    whole = Duplicates()
    for piece in np.array_split(np.concatenate([rows, rows[:40_000]]), 7):  # the copies come much later
        part = Duplicates()
        for block in np.array_split(piece, 4):
            part.add(block)
        whole.merge(part)
        assert sum(map(len, whole.kept)) <= 20_000
    print(f"{whole.extra:,} copies estimated of 40,000, from 1 in {2**whole.halvings} hashes")
    assert not whole.is_exact and whole.extra == pytest.approx(40_000, rel=0.12)  # 4 sigma of 1,375 in the sample
    assert whole.share == pytest.approx(1 / 11, rel=0.12)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.booleans())
def test_classes_are_the_labels(seed: int, funnel: bool) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, (200, 3)).astype(float)
    labels[draw.random((200, 3)) < 0.02] = 2
    gaps = draw.random((200, 3)) < 0.02
    table = pa.table({name: pa.array(labels[:, t], mask=gaps[:, t]) for t, name in enumerate("abc")})
    outcomes, counts = Outcomes(tuple("abc"), funnel), [LabelCounts() for _ in "abc"]
    found = np.bincount(classify(table, outcomes, counts), minlength=outcomes.classes)
    good = (np.isin(labels, (0, 1)) & ~gaps).all(axis=1)
    breaks = (labels[:, 1:] > labels[:, :-1]).any(axis=1) & good if funnel else np.zeros(200, bool)
    assert found[-1] == (~good | breaks).sum()
    assert [count.nulls for count in counts] == gaps.sum(axis=0).tolist()
    assert [count.bad for count in counts] == ((labels == 2) & ~gaps).sum(axis=0).tolist()
    inside = labels[good & ~breaks] == 1
    for task in outcomes.tasks:
        label, given = "abc".index(task.label), None if task.given is None else "abc".index(task.given)
        space = inside if given is None else inside[inside[:, given]]
        assert [int(x) for x in task.split(found)] == [space[:, label].sum(), (~space[:, label]).sum()]
    assert len(outcomes.tasks) == (5 if funnel else 3)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 50))
def test_auc_of_bins_is_the_auc_of_their_numbers(seed: int, bins: int) -> None:
    draw = np.random.default_rng(seed)
    positives, negatives = draw.integers(1, 30, (2, bins))
    place = np.concatenate([np.repeat(np.arange(bins), c) for c in (positives, negatives)])
    truth = np.arange(len(place)) < positives.sum()
    found = leaks.auc(positives, negatives)
    if min(positives.sum(), negatives.sum()) < leaks.FEWEST:
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(truth, place), abs=1e-12)


def test_an_id_of_its_own_says_nothing_and_one_that_decides_says_all() -> None:
    draw = np.random.default_rng(3)
    label = draw.random(20_000) < 0.1
    half = draw.integers(0, 2, 20_000)
    aucs = {}
    for name, ids in (
        ("unique", np.arange(20_000)),
        ("leak", np.where(label, 1, 2) * 1_000 + draw.integers(0, 500, 20_000)),
    ):
        values = Values(2)
        values.add(hashes_of(pa.array(ids)), half * 2 + label)
        aucs[name] = leaks.value_auc(values.counts[:, :, 1], values.counts[:, :, 0])
    print(aucs)
    assert aucs["unique"] == pytest.approx(0.5, abs=0.02) and aucs["leak"] > 0.98


def test_stability_is_the_formula_without_what_chance_adds() -> None:
    draw = np.random.default_rng(0)
    first, moved = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    expected = float(((moved - first) * np.log(moved / first)).sum())
    days = np.stack([draw.multinomial(100_000, p) for p in (first, moved)])[:, None]
    found = stability(days[1], days[0])[0]
    alike = [
        stability(draw.multinomial(2_000, first)[None], draw.multinomial(2_000, first)[None])[0] for _ in range(50)
    ]
    print(f"PSI {found:.4f} of {expected:.4f}; of 50 equal pairs of days {np.mean(alike):.4f} at most {max(alike):.4f}")
    assert found == pytest.approx(expected, rel=0.05) and np.mean(alike) < 0.003
    calendar = np.zeros((3, 2, 4), int)
    calendar[np.arange(3), 0, np.arange(3)] = 500  # a value of each day's own
    calendar[:, 1, 1] = 500  # one value always
    assert tells_the_day(calendar).tolist() == [True, False]


@pytest.mark.parametrize(("ids", "rows"), [(1, 10), (50, 100), (1_000, 500), (3_000, 100_000)])
def test_expected_sharing_is_what_hashing_does(ids: int, rows: int) -> None:
    draw, shares = np.random.default_rng(0), []
    for _ in range(200):
        place = draw.integers(0, rows, ids)
        shares.append((np.bincount(place, minlength=rows)[place] > 1).mean())
    print(f"{ids} ids in {rows} rows: {np.mean(shares):.4f} share a row, {expected_sharing(ids, rows):.4f} expected")
    assert expected_sharing(ids, rows) == pytest.approx(np.mean(shares), abs=0.01)
