"""Seeded 64-bit mixing on numpy arrays: the only source of pseudo-randomness in the data path.

numpy's own generators may change their streams between releases; a resumed run would then see other rows. These few
lines can not change under us.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment (Steele, Lea, Flood 2014)
MASK = (1 << 64) - 1
BLOCK = 1 << 13  # words


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, element by element: uint64 -> uint64, bijective."""
    x = np.array(x, np.uint64, order="C")
    for block in _blocks(x.reshape(-1)):
        _mix(block)
    return x


def _blocks(words: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array that stay in the nearest cache: twice as fast as one operation after the other on 2 MB."""
    for start in range(0, len(words), BLOCK):
        yield words[start : start + BLOCK]


def _mix(x: np.ndarray) -> None:
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)


# Bytes are mixed before `hash_strings` weighs them: a plain polynomial modulo 2**64 has easy collisions.
BYTES = mix(np.arange(256, dtype=np.uint64) + np.uint64(GOLDEN))


@lru_cache(maxsize=1024, typed=True)  # 1, True and 1.0 are different parts
def key(*parts: int | str) -> int:
    """A 64-bit key that depends on every part; equal parts give equal keys on every machine."""
    digest = hashlib.blake2b("\x1f".join(f"{type(p).__name__}:{p}" for p in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def signed_key(*parts: int | str) -> int:
    """`key` as a signed 64-bit number, as torch's int64 wants it."""
    return key(*parts) - (1 << 63)


def random_bits(count: int, *parts: int | str) -> np.ndarray:
    """`count` uint64 words that depend on `parts` only; word i does not depend on `count`."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return mix(steps + np.uint64(key(*parts)))


def permutation(count: int, *parts: int | str) -> np.ndarray:
    """A permutation of range(count) that depends on `parts` only."""
    # The place stands in the lowest bits of the word: sorting words takes a tenth of the time of a stable argsort.
    mask = np.uint64((1 << max(count - 1, 0).bit_length()) - 1)
    words = (random_bits(count, *parts) & ~mask) | np.arange(count, dtype=np.uint64)
    words.sort()
    return (words & mask).astype(np.int64)


def hash_ids(ids: np.ndarray, rows: int, salt: int) -> np.ndarray:
    """Integer ids (any int64) -> rows of a table of `rows` rows, evenly."""
    words = np.empty(len(ids), np.uint64)
    for block, source in zip(_blocks(words), _blocks(ids), strict=True):
        np.add(source.view(np.uint64), np.uint64(salt), out=block)
        _mix(block)
        block -= block // np.uint64(rows) * np.uint64(rows)  # numpy divides by a constant faster than it takes a rest
    return words.view(np.int64)


def hash_keys(ids: np.ndarray, salt: int) -> np.ndarray:
    """Integer ids (any int64) -> keys in [0, 2**63), for tables whose ids have no fixed row.

    Two ids have one key only if they differ in nothing but `mix`'s top bit: n ids with a chance of n**2 / 2**64.
    """
    words = ids.astype(np.uint64)
    words += np.uint64(salt)
    return (mix(words) & np.uint64(MASK >> 1)).view(np.int64)


def hash_strings(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """UTF-8 strings (`data` uint8; string i is data[offsets[i]:offsets[i+1]]) -> int64 ids, without a Python loop.

    A polynomial over the bytes modulo 2**64, finished with the length and `mix`.
    """
    lengths = np.diff(offsets)
    if not len(lengths):
        return np.zeros(0, np.int64)
    longest = int(lengths.max(initial=0))
    powers = np.ones(longest + 1, np.uint64)
    np.multiply.accumulate(np.full(longest, GOLDEN, np.uint64), out=powers[1:])
    start, stop = int(offsets[0]), int(offsets[-1])
    place = np.arange(start, stop, dtype=np.int64)
    place -= np.repeat(offsets[:-1], lengths)
    words = BYTES[data[start:stop]]
    words *= powers[place]
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(words, out=sums[1:])
    totals = sums[offsets[1:] - start] - sums[offsets[:-1] - start]
    return mix(totals + lengths.astype(np.uint64)).astype(np.int64)
