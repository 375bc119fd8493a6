"""Means of columns with a bootstrap over items."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

LEVEL = 0.95
RESAMPLES = 1000


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
