"""Intervals that the modules below scoring need: exact ones of rates, bootstrap ones of means. Plain numbers."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

LEVEL = 0.95
RESAMPLES = 1000


def clopper_pearson(right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a rate, `right` of `n` (Clopper and Pearson 1934); (NaN, NaN) for n = 0."""
    if n == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low = 0.0 if right == 0 else _solve(right - 1, n, 1 - tail)
    return low, 1.0 if right == n else _solve(right, n, tail)


def _solve(k: int, n: int, target: float) -> float:
    """The rate at which at most k of n happen with probability `target`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(k, n, middle) > target else (low, middle)
    return (low + high) / 2


def _at_most(k: int, n: int, rate: float) -> float:
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    return math.fsum(
        math.exp(log + i * math.log(rate) + (n - i) * math.log1p(-rate)) for i, log in enumerate(ways)
    )


def mean_intervals(
    values: Float64[np.ndarray, "item column"], seed: int, level: float = LEVEL
) -> Float64[np.ndarray, "column 3"]:
    """Mean, low and high of each column: percentile bootstrap over items, the same draws for all columns.

    NaN entries are left out of their column; a column without entries is NaN.
    """
    there = ~np.isnan(values)
    known = np.where(there, values, 0.0)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = known.sum(0) / there.sum(0)
        draws = (counts @ known) / (counts @ there)
    found = np.full((values.shape[1], 3), np.nan)
    for column in np.flatnonzero(there.any(0)):
        defined = draws[~np.isnan(draws[:, column]), column]
        found[column] = means[column], *np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return found
