"""Random draws for sample logs, element by element from 64-bit words: uniforms, normals, popularity, activity.

Everything comes from `hashing.mix`, never from numpy's generators: a shard of logs is then the same on every machine
and under every numpy. A latent value of a user or an item is a draw from the word of its id, so no table of the size of
the catalogue exists and a catalogue may hold 10**9 ids.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from scipy.special import ndtri

from dist_mtl.data.hashing import GOLDEN, key, mix

# Fitted to KuaiRand-27K (322 M impressions of 32 M videos): the shares of the top 0.01 % ... 20 % within 0.02.
POPULARITY_Q = 0.0015  # of the catalogue; with s = 1.2, see `popular`
ACTIVITY_SIGMA = 0.96  # of the log of a user's impressions a month, same source
ACTIVITY_NODES = 4096
LENGTH_SIGMA, LONGEST = 1.0, 10.0  # of the log of a history's length; the longest, in means (P99 is 6.2 means)


def words_of(ids: np.ndarray, *parts: int | str) -> np.ndarray:
    """One uint64 word per id that depends on the id and on `parts` only."""
    return mix(ids.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key(*parts)))


def uniform(words: np.ndarray) -> np.ndarray:
    """Words -> float64 in [0, 1), from the upper 53 bits."""
    return (words >> np.uint64(11)) * 2.0**-53


def below(words: np.ndarray, count: int) -> np.ndarray:
    """Words -> integers in [0, count), int32, from the upper 32 bits; uneven by at most count / 2**32."""
    return (((words >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int32)


def normal(words: np.ndarray) -> np.ndarray:
    """Words -> about N(0, 1): the sum of a word's four 16-bit quarters (Irwin-Hall; kurtosis 2.7, |z| < 3.47)."""
    quarters = words.view(np.uint16).reshape(-1, 4)
    total = quarters[:, 0].astype(np.float64)
    for column in (1, 2, 3):
        total += quarters[:, column]
    return (total - 4 * 32767.5) / (65536 * math.sqrt(4 / 12))


def popular(u: np.ndarray, count: int) -> np.ndarray:
    """Uniforms -> popularity ranks in [0, count), p(r) ~ (r + q)**-1.2: the Zipf-Mandelbrot law, by its inverse.

    The exponent 1.2 makes the inverse a fifth power, so it costs five multiplications and no `pow`.
    """
    q = max(1.0, POPULARITY_Q * count)  # below 1 the first item of a small catalogue would take most impressions
    top, bottom = q**-0.2, (count + q) ** -0.2
    x = top - u * (top - bottom)
    square = x * x
    return np.minimum(1 / (square * square * x) - q, count - 1).astype(np.int64)


def many_popular(words: np.ndarray, count: int) -> np.ndarray:
    """Words -> two popularity ranks each, as `popular`, in float32: a third of the time for histories.

    Beyond rank 2**24 only every second rank, then every fourth, ... occurs.
    """
    q = max(1.0, POPULARITY_Q * count)
    top, bottom = q**-0.2, (count + q) ** -0.2
    x = words.view(np.uint32).astype(np.float32)
    x *= np.float32((bottom - top) * 2.0**-32)
    x += np.float32(top)
    fifth = x * x
    fifth *= fifth
    fifth *= x
    np.divide(np.float32(1), fifth, out=fifth)
    fifth -= np.float32(q)
    return np.clip(fifth, 0, count - 1, out=fifth).astype(np.int64)


def lengths(words: np.ndarray, count: int, mean: float) -> np.ndarray:
    """Words -> `count` lengths of lists, int64, four a word: log-normal about `mean`, at most LONGEST means."""
    return _lengths(mean)[words.view(np.uint16)[:count]]


def active(u: np.ndarray, count: int) -> np.ndarray:
    """Uniforms -> activity ranks in [0, count), the least active user first; impressions a user are log-normal.

    A user at quantile t has weight exp(sigma * Phi^-1(t)); drawn in proportion to it, t = Phi(sigma + Phi^-1(u)).
    """
    nodes = _activity()
    place = u * ACTIVITY_NODES
    cell = place.astype(np.int32)
    low = nodes[cell]
    t = low + (place - cell) * (nodes[cell + 1] - low)
    return np.minimum(t * count, count - 1).astype(np.int64)


def scatter(ranks: np.ndarray, count: int, *parts: int | str) -> np.ndarray:
    """Ranks -> ids, a bijection of [0, count): popular ids must not be neighbours, or one shard would hold them all."""
    if count > 2**31:
        raise ValueError(f"{count} ids; at most 2**31, beyond that the product below overflows")
    step = max(1, int(count * 0.6180339887))
    while math.gcd(step, count) != 1:
        step += 1
    places = ranks * step
    places += key(*parts) % count
    whole = places // count  # numpy divides by one number fast; its `%` takes twice as long
    whole *= count
    places -= whole
    return places


@lru_cache(maxsize=1)
def _activity() -> np.ndarray:
    """Phi(sigma + Phi^-1(u)) at u = 0, 1/4096, ..., 1."""
    gauss = NormalDist()
    inner = [gauss.cdf(ACTIVITY_SIGMA + gauss.inv_cdf(i / ACTIVITY_NODES)) for i in range(1, ACTIVITY_NODES)]
    return np.array([0.0, *inner, 1.0])


@lru_cache(maxsize=8)
def _lengths(mean: float) -> np.ndarray:
    """The 65,536 quantiles of a history's length, with `mean` for their mean."""
    raw = np.exp(LENGTH_SIGMA * ndtri((np.arange(65_536) + 0.5) / 65_536))
    low, high = 0.0, 4.0 * mean
    for _ in range(40):
        scale = (low + high) / 2
        low, high = (scale, high) if np.minimum(scale * raw, LONGEST * mean).mean() < mean else (low, scale)
    return np.rint(np.minimum(low * raw, LONGEST * mean)).astype(np.int64)
