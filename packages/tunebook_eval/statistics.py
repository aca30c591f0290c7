"""How sure a mean or a difference is. Every bound is one-sided 95 %.

Rows of one group (a note's wording, a kind of question) are alike, so groups are what is drawn; where every
row is a group of its own and every score is 0 or 1, the exact and score methods for proportions apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, kendalltau, norm, permutation_test, spearmanr, t

Floats = NDArray[np.float64]
Method = Literal["wilson", "tango", "bootstrap", "no variance", "too few"]

ALPHA = 0.05
POWER = 0.8
Z = float(norm.ppf(1 - ALPHA))
MIN_GROUPS = 5
"""A bootstrap over fewer groups bounds nothing."""
NUM_RESAMPLES = 10_000
SEED = 20240607
_NO_STDERR = 1e-12


@dataclass(frozen=True)
class Bounds:
    """Of a mean: with 95 % confidence above `low`, and with 95 % below `high`."""

    mean: float
    low: float | None
    """None: too few groups to say."""
    high: float | None
    method: Method
    num_samples: int
    num_groups: int


def mean_bounds(scores: Sequence[float], groups: Sequence[str], *, alpha: float = ALPHA) -> Bounds:
    """Bounds on the mean score: Wilson for independent 0/1 scores, else a bootstrap over groups."""
    values, num_groups = np.asarray(scores, float), len(set(groups))
    mean = float(values.mean())

    def bounds(low: float | None, high: float | None, method: Method) -> Bounds:
        return Bounds(mean, low, high, method, len(values), num_groups)

    if num_groups < 2:
        return bounds(None, None, "too few")
    if num_groups == len(values) and _is_binary(values):
        # The two-sided interval at twice the error has the one-sided bound on each side (Wilson 1927).
        interval = binomtest(int(values.sum()), len(values)).proportion_ci(1 - 2 * alpha, method="wilson")
        return bounds(float(interval.low), float(interval.high), "wilson")
    return bounds(*_clustered(values, groups, alpha, floor=0.0))


def difference_bounds(
    first: Sequence[float], second: Sequence[float], groups: Sequence[str], *, alpha: float = ALPHA
) -> Bounds:
    """Bounds on the mean of first minus second, row by row: Tango for independent 0/1, else a bootstrap."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    num_groups = len(set(groups))
    if num_groups >= 2 and num_groups == len(a) and _is_binary(a) and _is_binary(b):
        gained, lost = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
        low, high = tango_bounds(gained, lost, len(a), alpha=alpha)
        return Bounds((gained - lost) / len(a), low, high, "tango", len(a), num_groups)
    mean = float((a - b).mean())
    return Bounds(mean, *_clustered(a - b, groups, alpha, floor=-1.0), len(a), num_groups)


def mcnemar(gained: int, lost: int) -> float:
    """One-sided exact p-value that gains are no likelier than losses (McNemar 1947; binomial form)."""
    return (
        float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) if gained + lost else 1.0
    )


def tango_bounds(gained: int, lost: int, num: int, *, alpha: float = ALPHA) -> tuple[float, float]:
    """Score bounds on the difference of paired proportions, (gained - lost) / num (Tango 1998, eq. 4-6)."""
    z = float(norm.ppf(1 - alpha))

    def statistic(delta: float) -> float:
        b = -(gained + lost) + (2 * num - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        root = math.sqrt(max(b * b - 8 * num * c, 0.0))
        q = (root - b) / (4 * num)  # of a loss, under this difference
        variance = num * (2 * q + delta * (1 - delta))
        surplus = gained - lost - num * delta
        if variance <= 0:
            return math.copysign(math.inf, surplus) if surplus else 0.0
        return surplus / math.sqrt(variance)

    observed = (gained - lost) / num
    edge = 1 - 1e-12
    low = _root(lambda delta: statistic(delta) - z, -edge, min(observed, edge))
    high = _root(lambda delta: statistic(delta) + z, max(observed, -edge), edge)
    return low, high


def clustered_stderr(scores: Sequence[float], groups: Sequence[str]) -> float | None:
    """Standard error of a mean of rows that hang together by group (Miller 2024, sec. 2.2); None for one."""
    sums, counts = _by_group(np.asarray(scores, float), groups)
    return float(_mean_and_stderr(sums, counts)[1]) if len(sums) > 1 else None


def detectable_effect(stderr: float) -> float:
    """The distance from a threshold at which the bound clears it four times in five (Cohen 1988, ch. 2)."""
    return float(norm.ppf(1 - ALPHA) + norm.ppf(POWER)) * stderr


def paired_p_value(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> float | None:
    """Two-sided p-value that first and second differ by chance alone; None for a single group.

    Exact McNemar for independent 0/1 scores, else signs of whole groups' differences flipped at random
    (Fisher 1935), exactly where there are few groups.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    sums, _ = _by_group(differences, groups)
    if len(sums) < 2:
        return None
    if len(sums) == len(differences) and _is_binary(np.asarray(first)) and _is_binary(np.asarray(second)):
        gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
        return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    tested = permutation_test(
        (sums,), np.sum, permutation_type="samples", vectorized=True, n_resamples=NUM_RESAMPLES - 1, rng=SEED
    )
    return float(tested.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for having looked at all of them, in the same order (Holm 1979)."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def spearman(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Rank correlation, and what it is above with 95 % confidence; None where either says one thing only.

    The bound is Fisher's z with the variance of Bonett and Wright (2000), which wants more than three rows.
    """
    if len(first) < 4 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    rho = float(np.clip(spearmanr(first, second).statistic, -1, 1))
    if abs(rho) == 1:
        return rho, rho
    stderr = math.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    return rho, math.tanh(math.atanh(rho) - Z * stderr)


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b; None where either says one thing only."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)


def partial_spearman(
    first: Sequence[float], second: Sequence[float], given: Sequence[float]
) -> tuple[float, float] | None:
    """Rank correlation of two among rows of like `given`, and its two-sided p-value (Kendall 1942).

    None where one of the three says one thing only, or `given` says all of another.
    """
    if len(first) < 4 or min(len(set(each)) for each in (first, second, given)) < 2:
        return None
    pairs = ((first, second), (first, given), (second, given))
    one, other, both = (float(spearmanr(a, b).statistic) for a, b in pairs)
    left = (1 - other**2) * (1 - both**2)
    if left < 1e-12:
        return None
    r = float(np.clip((one - other * both) / math.sqrt(left), -1, 1))
    freedom = len(first) - 3
    if abs(r) == 1:
        return r, 0.0
    return r, float(2 * t.sf(abs(r) * math.sqrt(freedom / (1 - r**2)), freedom))


def rows_to_settle(bounds: Bounds, threshold: float) -> int | None:
    """About how many rows would put the threshold outside the bounds, were the mean to stay; two digits.

    None where no number would, or none can be told from what there is.
    """
    margin = bounds.mean - threshold
    bound = bounds.low if margin > 0 else bounds.high
    if margin == 0 or bound is None or bound == bounds.mean:
        return None
    if bounds.method == "wilson":  # the bound is where the score test would just tell the threshold apart
        needed = Z**2 * threshold * (1 - threshold) / margin**2
    else:  # widths shrink with the square root of the rows
        needed = bounds.num_samples * ((bounds.mean - bound) / margin) ** 2
    if needed <= bounds.num_samples:
        return None
    digits: int = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return math.ceil(needed / digits) * digits


def _clustered(
    values: Floats, groups: Sequence[str], alpha: float, *, floor: float
) -> tuple[float | None, float | None, Method]:
    """Studentised bootstrap bounds over resampled groups (Efron and Tibshirani 1993, sec. 12.5).

    Never narrower than Student's t has them. Of simulated evaluations with 20 groups at a threshold,
    percentiles of resampled means let up to 8 % pass, and this bootstrap alone 11 % where few groups differ.
    """
    sums, counts = _by_group(values, groups)
    num, mean = len(sums), float(values.mean())
    if num < MIN_GROUPS:
        return None, None, "too few"
    stderr = float(_mean_and_stderr(sums, counts)[1])
    if stderr < _NO_STDERR:
        return (*_without_variance(mean, num, alpha, floor), "no variance")
    rng = np.random.default_rng(SEED)
    distances = []
    for _ in range(0, NUM_RESAMPLES, 500):
        drawn = rng.integers(num, size=(500, num))
        means, stderrs = _mean_and_stderr(sums[drawn], counts[drawn])
        varies = stderrs >= _NO_STDERR
        distances.append((means[varies] - mean) / stderrs[varies])
    least, most = np.quantile(np.concatenate(distances), [alpha, 1 - alpha])
    students = float(t.ppf(1 - alpha, num - 1))
    low, high = mean - max(float(most), students) * stderr, mean - min(float(least), -students) * stderr
    if floor <= values.min() and values.max() <= 1:
        low, high = max(low, floor), min(high, 1.0)
    return low, high, "bootstrap"


def _mean_and_stderr(sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Of rows that hang together by group, whose sums and counts the last axis has; as `clustered_stderr`."""
    num, rows = sums.shape[-1], counts.sum(-1)
    means = sums.sum(-1) / rows
    residuals = sums - counts * means[..., None]
    return means, np.sqrt(num / (num - 1) * (residuals**2).sum(-1)) / rows


def _without_variance(
    mean: float, num_groups: int, alpha: float, floor: float
) -> tuple[float | None, float | None]:
    """When all rows agree, a bootstrap would claim certainty.

    At most a share w of groups is otherwise (Wilson, none seen), and those may score anything down to `floor`
    or up to 1. Scores outside of that range have no such bound.
    """
    if not floor <= mean <= 1:
        return None, None
    z = float(norm.ppf(1 - alpha))
    w = z * z / (num_groups + z * z)
    return mean - w * (mean - floor), mean + w * (1 - mean)


def _by_group(values: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum of the values and number of rows, per group."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    return sums.astype(np.float64), counts.astype(np.float64)


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero; the end that it never reaches."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    return float(brentq(function, low, high, xtol=1e-12))
