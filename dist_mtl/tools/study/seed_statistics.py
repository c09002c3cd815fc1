"""Is a method better than the baseline? Differences of runs that share their rows, initial weights and order, by seed.

Two kinds of noise, told apart. *Seeds*: another start of the weights, another order of the rows. What is common to both
runs of a seed cancels in their difference, and the interval of its mean over seeds is Student's t with n - 1 degrees of
freedom: whether the method helps on these test rows. *Test rows*: other users would have given another difference; the
paired DeLong error of one seed's difference tells by how much. It is common to all seeds, so that more seeds do not
shrink it, and it is no part of the interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from dist_mtl.metrics.paired import holm

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of a gain over seeds, with its 95 % interval; above 0 the method is better, whatever the metric's sign.

    Interval, error and p-value ("no gain") are NaN with fewer than two seeds. `adjusted`: the p-value after Holm's
    correction over the methods. `row_error`: standard error of one seed's difference by the test rows, NaN if unknown.
    """

    seeds: int
    gains: int  # seeds with a difference above 0
    mean: float
    standard_error: float
    freedom: float
    low: float
    high: float
    p_value: float
    adjusted: float = math.nan
    row_error: float = math.nan

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies off zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def over_seeds(
    baseline_S: Sequence[float], method_S: Sequence[float], row_errors_S: Sequence[float] = ()
) -> Difference:
    """The paired t-test of two metrics, of which more is better, by seed; `row_errors_S` of the seeds that have one."""
    changes_S = np.subtract(method_S, baseline_S, dtype=float)
    count, gains = len(changes_S), int((changes_S > 0).sum())
    rows = math.sqrt(np.mean(np.square(row_errors_S))) if len(row_errors_S) else math.nan
    if not count:
        return Difference(0, 0, *[math.nan] * 8)
    mean = float(changes_S.mean())
    variance = float(changes_S.var(ddof=1)) / count if count > 1 else math.nan
    return replace(_tested(count, gains, mean, variance, count - 1), row_error=rows)


def over_backbones(strata: Sequence[Difference]) -> Difference:
    """The mean over backbones, each a stratum of the same weight, whose variance is that between its own seeds.

    Degrees of freedom by Welch and Satterthwaite. It tells of these backbones, not of others, and takes the differences
    of one seed in two backbones as independent. NaN if a stratum has no interval.
    """
    if not strata:
        return Difference(0, 0, *[math.nan] * 8)
    count = len(strata)
    parts = np.array([one.standard_error**2 for one in strata]) / count**2
    variance = float(parts.sum())
    spread = sum(part**2 / one.freedom for part, one in zip(parts, strata, strict=True) if one.freedom)
    freedom = variance**2 / float(spread) if spread > 0 else min(one.freedom for one in strata)
    mean = float(np.mean([one.mean for one in strata]))
    seeds, gains = (sum(getattr(one, name) for one in strata) for name in ("seeds", "gains"))
    return _tested(seeds, gains, mean, variance, freedom)


def corrected(family: dict[str, Difference]) -> dict[str, Difference]:
    """The methods of one table row, with Holm's correction over them."""
    adjusted = holm(np.array([one.p_value for one in family.values()])).tolist()
    return {name: replace(one, adjusted=p) for (name, one), p in zip(family.items(), adjusted, strict=True)}


def _tested(seeds: int, gains: int, mean: float, variance: float, freedom: float) -> Difference:
    """Without any variance a gain is certain (p = 0), and so is none (p = 1)."""
    error = math.sqrt(variance) if variance >= 0 else math.nan
    if math.isnan(error) or math.isnan(mean):
        return Difference(seeds, gains, mean, math.nan, freedom, *[math.nan] * 3)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    if error:
        p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    else:
        p_value = float(mean == 0)
    return Difference(seeds, gains, mean, error, freedom, mean - reach, mean + reach, p_value)
