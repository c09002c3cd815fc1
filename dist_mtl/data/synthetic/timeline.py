"""Logs in the order of time: when row i happened, which ids live then, and how late a conversion comes.

Row i is a function of its number, never of how many rows are made: a day has `rows_per_day` rows, so day d is the rows
[d * rows_per_day, (d + 1) * rows_per_day).

Delays follow Chapelle 2014 (35 % of the conversions within an hour of the click, 50 % within a day, none after 30) and
Badanidiyuru 2021 (they differ by advertiser and are of no one family): two log-normals, mixed anew for each campaign.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws

FIRST_SECOND = 1_735_689_600  # 2025-01-01 UTC
DAY, HOUR, HOURS = 86_400, 3_600, 24
WINDOW = 30 * DAY  # seconds after the click in which a conversion counts
# Of the two log-normals, (median seconds, sigma): at once, and after some thought. Fitted to the shares above.
FAST, SLOW = (900.0, 1.5), (8.0 * DAY, 1.5)
FAST_SHARE = (0.25, 0.65)  # of a campaign's conversions, uniform between campaigns
SLOW_SPREAD = 0.3  # standard deviation of the log of a campaign's slow median


def date_of(day: int) -> str:
    """2025-01-01 for day 0."""
    return str(np.datetime64(FIRST_SECOND, "s").astype("datetime64[D]") + day)


def traffic() -> np.ndarray:
    """The share of a day's rows up to the end of each hour; most are at 20 h, the fewest at 8 h."""
    total = np.cumsum(1.2 + np.cos((np.arange(HOURS) - 20) * (2 * np.pi / HOURS)))
    return total / total[-1]


@dataclass(frozen=True)
class Moments:
    """When rows happened."""

    day: np.ndarray  # int32, from 0
    second: np.ndarray  # int32, of the day

    @property
    def days(self) -> np.ndarray:
        """float64: 1.5 is the noon of day 1."""
        return self.day + self.second / DAY

    @property
    def time(self) -> np.ndarray:
        """Seconds since 1970, int64."""
        return FIRST_SECOND + self.day.astype(np.int64) * DAY + self.second


def moments(first_row: int, count: int, rows_per_day: int) -> Moments:
    """Of `count` rows from `first_row` on; they ascend."""
    day, place = np.divmod(np.arange(first_row, first_row + count, dtype=np.int64), rows_per_day)
    second = np.interp((place + 0.5) / rows_per_day, np.append(0.0, traffic()), np.arange(HOURS + 1) * float(HOUR))
    return Moments(day.astype(np.int32), second.astype(np.int32))


def alive(slots: np.ndarray, count: int, days: np.ndarray, new_per_day: float, *parts: int | str) -> np.ndarray:
    """The ids that stand in these slots of [0, count) at these times (in days): slot + count * generation, int64.

    A slot is a place in the order of popularity, and one id lives in it at a time, for 1 / new_per_day days; then a new
    id takes it. Slots change at times of their own, so `new_per_day` of all ids are replaced every day.
    """
    if not new_per_day:
        return slots
    phase = draws.uniform(draws.words_of(slots, *parts))
    return slots + count * (days * new_per_day + phase).astype(np.int64)


def delays(campaigns: np.ndarray, seed: int, *parts: int | str) -> np.ndarray:
    """Seconds from click to conversion, int64 in [0, WINDOW], one for each of these campaigns' conversions."""
    low, high = FAST_SHARE
    fast_share = low + (high - low) * draws.uniform(draws.words_of(campaigns, seed, "fast share"))
    shift = SLOW_SPREAD * draws.normal(draws.words_of(campaigns, seed, "slow delay"))
    is_fast = draws.uniform(random_bits(len(campaigns), seed, *parts, "fast")) < fast_share
    mean = np.where(is_fast, np.log(FAST[0]), np.log(SLOW[0]) + shift)
    sigma = np.where(is_fast, FAST[1], SLOW[1])
    # The quantile within the window: a draw beyond it would not be a conversion of this click.
    within = ndtr((np.log(WINDOW) - mean) / sigma)
    u = draws.uniform(random_bits(len(campaigns), seed, *parts, "delay"))
    z = ndtri(np.maximum(u, 2.0**-53) * within)
    return np.minimum(np.exp(mean + sigma * z), WINDOW).astype(np.int64)
