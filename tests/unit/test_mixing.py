"""The quality of the shuffle: what is measured is what the order does, and what a full shuffle would do."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dist_mtl.data.order import Order, partitioned
from dist_mtl.data.shuffle_quality import NEAR, advice, full_shuffle, mixing


def test_it_counts_what_a_plain_loop_counts() -> None:
    order = Order((300, 500, 200, 400) * 5, 64, 640, seed=4)
    found, steps = mixing(order, windows=1), []
    segment = order.segment(0, 0, 0, 1)
    flat = [(span.block, row) for span in segment.spans for row in range(span.start, span.stop)]
    for picks in segment.picks:
        rows = [flat[pick] for pick in picks]
        blocks = Counter(block for block, _ in rows)
        pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        near = sum(a[0] == b[0] and abs(a[1] - b[1]) <= NEAR for a, b in pairs)
        same = sum(a[0] == b[0] for a, b in pairs)
        steps.append((max(blocks.values()) / 64, same / len(pairs), len(blocks), near / 64))
    assert [found.largest, found.alike, found.groups, found.near] == pytest.approx(np.mean(steps, axis=0))
    step = {flat[pick]: k for k, picks in enumerate(segment.picks) for pick in picks}
    gaps = [abs(step[block, row + 1] - k) for (block, row), k in step.items() if (block, row + 1) in step]
    assert found.apart == pytest.approx(np.mean(gaps))


def test_a_full_shuffle_is_what_chance_gives() -> None:
    order = Order((16_384,) * 6_000, 4_096, 262_144, seed=1)
    found = full_shuffle(order)
    expected = 6_000 * (1 - (1 - 1 / 6_000) ** 4_096)
    print(f"row groups of a step: {found.groups:.0f}, by chance {expected:.0f}; alike {found.alike:.2e}")
    assert found.groups == pytest.approx(expected, rel=0.01)
    assert found.alike == pytest.approx(1 / 6_000, rel=0.05)


def test_the_default_mixes_32_row_groups_at_least() -> None:
    """16,384 rows a row group, as our writer makes them; the docs tell these figures."""
    order = Order((16_384,) * 61_035, 4_096, 262_144, seed=1)
    found = mixing(order)
    print(f"{order.num_rows:,} rows: {found}")
    assert found.groups >= 32 and found.largest <= 1 / 32 + 0.02 and found.alike < 0.03
    assert found.near == pytest.approx(2 * NEAR * 4_096 / 262_144, rel=0.05)  # the window alone decides it


def test_large_row_groups_are_told() -> None:
    small, large = Order((1_000,) * 400, 64, 6_400, seed=1), Order((20_000,) * 20, 64, 6_400, seed=1)
    assert advice(small) is None
    told = advice(large)
    assert "row groups of up to 20,000 rows: a step mixes 1 to 2 of them" in told and "Raise it to 80,000" in told
    assert advice(replace(large, window_rows=80_000)) is None, "the advice helps"
    assert advice(replace(large, shuffle=False)) is None
    assert advice(Order((20_000,), 64, 40_000, seed=1)) is None, "one window holds all rows"
    assert advice(partitioned(large, [0] * 10 + [1] * 10)) == told
