"""A store of keys for many segments at once, in flat arrays: find a key, claim a place, put one there, leave one.

Set-associative, as the cache of a processor: a segment has WAYS places, and a lookup compares the 8-bit tags of them
all. There is no index beside the keys, so nothing has to be kept in step with them, and nothing has to be rebuilt.
"""

import numpy as np

# Rows of a segment, and candidates that wait in it. One cache line of tags; a table that is filled to 75 % has then 1 %
# of its segments full, one filled to 60 % none.
WAYS = 64
EMPTY = -1  # for a key
CHUNK = 8192  # lookups at a time: 0.5 MB of tags, which stay in the L2 cache


def firsts(place_N: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """For each of N entries the number of one entry, the same for all with its place. `scratch` is indexed by place."""
    scratch[place_N] = np.arange(len(place_N), dtype=scratch.dtype)
    return scratch[place_N]


class Places:
    """WAYS places in each of G segments: a key or nobody, and a score, by which the weakest is found."""

    def __init__(self, segments: int) -> None:
        self.key_GW = np.full((segments, WAYS), EMPTY, np.int64)
        self.score_GW = np.zeros((segments, WAYS))
        self._tag_GW = np.zeros((segments, WAYS), np.uint8)  # 8 bits of the key, 0 for nobody: a segment is 64 bytes

    def refresh(self) -> None:
        """Call after `key_GW` was filled from elsewhere."""
        self._tag_GW[:] = np.where(self.key_GW == EMPTY, 0, _tags(self.key_GW))

    def find(self, segment_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
        """The place of each key, EMPTY where it has none. A place is segment * WAYS + way."""
        found_N = np.full(len(key_N), EMPTY, np.int64)
        for start in range(0, len(key_N), CHUNK):
            part = slice(start, start + CHUNK)
            self._find(segment_N[part], key_N[part], found_N[part])
        return found_N

    def _find(self, segment_N: np.ndarray, key_N: np.ndarray, found_N: np.ndarray) -> None:
        """One comparison of 64 tags a key, as a mask of 64 bits; then the keys behind the set bits, lowest first."""
        mask_N = _bits(self._tag_GW.take(segment_N, axis=0) == _tags(key_N)[:, None])
        keys, left_N = self.key_GW.reshape(-1), np.flatnonzero(mask_N)
        mask_N = mask_N[left_N]
        while len(left_N):  # 1.25 rounds a key, and never more than WAYS
            place_N = segment_N[left_N] * WAYS + _lowest(mask_N)
            hit_N = keys.take(place_N) == key_N[left_N]
            found_N[left_N[hit_N]] = place_N[hit_N]
            mask_N &= mask_N - np.uint64(1)
            on_N = ~hit_N & (mask_N != 0)
            left_N, mask_N = left_N[on_N], mask_N[on_N]

    def claim(self, segment_Q: np.ndarray, strength_Q: np.ndarray) -> np.ndarray:
        """A place for each of Q newcomers, EMPTY for one that finds its segment full of keys that are as strong.

        An empty place goes first, then the weakest, if its score is below the newcomer's strength. Nobody is moved yet.
        `segment_Q` ascends, and within a segment the strongest stands first.
        """
        place_Q = np.full(len(segment_Q), EMPTY, np.int64)
        segment_A, first_A, count_A = np.unique(segment_Q, return_index=True, return_counts=True)
        empty_A = _bits(self._tag_GW.take(segment_A, axis=0) == 0)
        scarce = np.flatnonzero(np.bitwise_count(empty_A) < count_A)  # the others need no look at the scores
        score_CW = np.where(self._tag_GW[segment_A[scarce]] == 0, np.inf, self.score_GW[segment_A[scarce]])
        scarce_A = np.zeros(len(segment_A), np.int64)
        scarce_A[scarce] = np.arange(len(scarce))
        going = np.arange(len(segment_A))
        for turn in range(WAYS):
            going = going[count_A[going] > turn]
            if not len(going):
                break
            newcomer, mask = first_A[going] + turn, empty_A[going]
            way, wins = _lowest(mask), mask != 0
            empty_A[going] = mask & (mask - np.uint64(1))
            full = np.flatnonzero(~wins)
            of_full = scarce_A[going[full]]
            way[full] = score_CW[of_full].argmin(axis=1)
            wins[full] = score_CW[of_full, way[full]] < strength_Q[newcomer[full]]
            score_CW[of_full, way[full]] = np.inf
            going = going[wins]  # who loses is at least as strong as those behind it
            place_Q[newcomer[wins]] = segment_A[going] * WAYS + way[wins]
        return place_Q

    def put(self, place_Q: np.ndarray, key_Q: np.ndarray, score_Q: np.ndarray) -> None:
        """Give places to keys; who was there is gone."""
        self.key_GW.reshape(-1)[place_Q] = key_Q
        self._tag_GW.reshape(-1)[place_Q] = _tags(key_Q)
        self.score_GW.reshape(-1)[place_Q] = score_Q

    def leave(self, place_Q: np.ndarray) -> None:
        """Make places empty."""
        self.key_GW.reshape(-1)[place_Q] = EMPTY
        self._tag_GW.reshape(-1)[place_Q] = 0
        self.score_GW.reshape(-1)[place_Q] = 0


def _tags(keys: np.ndarray) -> np.ndarray:
    return np.maximum(keys.astype(np.uint8), 1)


def _bits(same_NW: np.ndarray) -> np.ndarray:
    """WAYS truths a row -> one word a row, the first in the lowest bit."""
    return np.packbits(same_NW.reshape(-1), bitorder="little").view("<u8").astype(np.uint64, copy=False)


def _lowest(mask_N: np.ndarray) -> np.ndarray:
    """The number of the lowest set bit."""
    return np.bitwise_count(~mask_N & (mask_N - np.uint64(1))).astype(np.int64)
