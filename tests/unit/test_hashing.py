"""Hashes decide which rows are trained when and where ids live: their values are a format."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.data.hashing import hash_ids, hash_strings, key, mix, permutation, random_bits, signed_key
from dist_mtl.model.embedding import fill, mix_

INT64 = st.integers(-(2**63), 2**63 - 1)


def strings(*texts: str) -> np.ndarray:
    """`hash_strings` of texts."""
    parts = [t.encode() for t in texts]
    return hash_strings(np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)]))


def test_golden_values() -> None:
    """Pinned: if one changes, resumed runs see other rows and saved tables other ids."""
    assert mix(np.array([0x9E3779B97F4A7C15], np.uint64)).tolist() == [
        0xE220A8397B1DCDAF
    ]  # splitmix64's first, of seed 0
    assert key("table", "user") == 12015586863490916670
    assert random_bits(2, 7, "x").tolist() == [8776713761322010714, 1769173539101630100]
    assert permutation(8, 1, 2).tolist() == [6, 2, 3, 5, 1, 4, 0, 7]
    assert hash_ids(np.array([0, 1, -1, 2**63 - 1]), 1000, key("table", "user")).tolist() == [532, 750, 237, 723]
    assert strings("", "a", "größe").tolist() == [0, -1229325667352275874, 7513581497232234368]
    values = torch.empty(1, 3)
    fill(values, seed=1, table="user", num_rows=100, first_row=5)
    assert [round(v, 6) for v in values[0].tolist()] == [-0.029854, -0.025056, -0.074343]


@settings(deadline=None, derandomize=True)
@given(st.lists(INT64, min_size=1, max_size=50))
def test_numpy_and_torch_mix_alike(values: list[int]) -> None:
    ours = mix(np.array(values, np.int64).astype(np.uint64)).astype(np.int64)
    assert np.array_equal(mix_(torch.tensor(values)).numpy(), ours)


def test_mix_is_bijective_on_a_sample() -> None:
    words = np.concatenate([np.arange(200_000), np.arange(100_000) << 40]).astype(np.uint64)
    assert len(np.unique(mix(words))) == len(np.unique(words))


def test_keys_tell_parts_and_types_apart() -> None:
    keys = {
        key(*parts)
        for parts in [("a", "b"), ("ab",), ("a", "b", ""), ("", "a", "b"), (1, "b"), ("1", "b"), (1, 2), (12,)]
    }
    assert len(keys) == 8
    assert all(-(2**63) <= signed_key(i, "x") < 2**63 for i in range(100))


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 300), st.integers(0, 5))
def test_a_permutation_is_one(count: int, seed: int) -> None:
    assert sorted(permutation(count, seed)) == list(range(count))


def test_bits_do_not_depend_on_how_many_are_drawn() -> None:
    assert np.array_equal(random_bits(10, 3), random_bits(1_000, 3)[:10])


def test_ids_spread_evenly_and_tables_apart() -> None:
    """Consecutive, strided and negative ids over 1,000 rows: chi-square within 5 sigma of its mean."""
    rows, count = 1_000, 200_000
    for ids in (np.arange(count), np.arange(count) * 1_024, -np.arange(count), np.arange(count) << 32):
        loads = np.bincount(hash_ids(ids, rows, key("table", "a")), minlength=rows)
        chi_square = ((loads - count / rows) ** 2 / (count / rows)).sum()
        assert abs(chi_square - (rows - 1)) < 5 * np.sqrt(2 * rows), chi_square
    ids = np.arange(10_000)
    same = (hash_ids(ids, rows, key("table", "a")) == hash_ids(ids, rows, key("table", "b"))).mean()
    assert same < 0.005  # 1 in 1,000 by chance


def test_strings_do_not_collide() -> None:
    """Numbered, reversed, repeated and padded strings; 120,000 of them in 64 bits."""
    texts = [f"user-{i}" for i in range(60_000)] + [f"{i}-user"[::-1] for i in range(60_000)]
    texts += ["a" * n for n in range(300)] + ["\0" * n for n in range(300)] + ["ab", "ba", "aab", "aba", "baa"]
    distinct = list(dict.fromkeys(texts))
    assert len(np.unique(strings(*distinct))) == len(distinct)


def test_strings_hash_alike_in_any_company() -> None:
    alone = [strings(t)[0] for t in ("x", "", "größe", "x" * 200)]
    assert strings("x", "", "größe", "x" * 200).tolist() == alone
    data = np.frombuffer(b"junkxmore", np.uint8)
    assert hash_strings(data, np.array([4, 5])).tolist() == alone[:1]


def test_initial_values_are_a_function_of_row_and_column() -> None:
    whole = torch.empty(1_000, 24)
    fill(whole, 3, "t", 1_000)
    for first_row, rows, first_column, columns in [(0, 10, 0, 24), (700, 300, 8, 16), (999, 1, 23, 1), (3, 900, 4, 4)]:
        part = torch.empty(rows, columns)
        fill(part, 3, "t", 1_000, first_row, first_column)
        assert torch.equal(part, whole[first_row : first_row + rows, first_column : first_column + columns])
    other = torch.empty(1_000, 24)
    fill(other, 4, "t", 1_000)
    assert not torch.equal(other, whole)
    fill(other, 3, "u", 1_000)
    assert not torch.equal(other, whole)


def test_initial_values_are_uniform() -> None:
    for rows, scale in [(100, 0.1), (1_000_000, 0.01)]:
        values = torch.empty(10_000, 16)
        fill(values, 1, "t", rows)
        assert values.abs().max() <= scale and values.abs().max() > 0.999 * scale
        assert abs(values.mean()) < 0.01 * scale and abs(values.std() - scale / 3**0.5) < 0.01 * scale
        assert abs(torch.corrcoef(values[:, :2].T)[0, 1]) < 0.05
