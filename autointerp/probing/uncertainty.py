"""Intervals of probe accuracies: exact for one random split, by resampling whole groups for grouped ones.

All feature sets and controls of a task share the draws, so that differences are paired. A split over two factors
draws both and weighs an item by the product of its counts (the pigeonhole bootstrap, Owen 2007).
(probing section 8)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from autointerp.probing.splits import factors_of
from autointerp.probing.validation import Task
from autointerp.stats.bootstrap import N_RESAMPLES, Estimate, Resamples, clopper_pearson, interval, one_sided_p

MIN_ITEMS, MIN_GROUPS = 20, 5

PerItem = Float64[np.ndarray, " item"]


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each tested item counts in each resample."""

    rows: np.ndarray[tuple[int], np.dtype[np.int64]]  # tested items
    weights: Float64[np.ndarray, "resample test"]
    n_groups: int  # of the factor that has fewest
    grouped: bool

    @classmethod
    def of(cls, task: Task, n_resamples: int = N_RESAMPLES) -> Draws:
        rows = task.tested
        factors = factors_of(task.split)
        weights = np.ones((n_resamples, len(rows)))
        sizes = []
        for number, name in enumerate(factors):
            groups = np.unique(np.asarray(task.groups[name])[rows], return_inverse=True)[1]
            sizes.append(int(groups.max()) + 1)
            weights *= Resamples.of(sizes[-1], task.seed + number, n_resamples).counts[:, groups]
        if not factors:
            weights = Resamples.of(len(rows), task.seed, n_resamples).counts
        return cls(rows, weights, min(sizes, default=len(rows)), bool(factors))

    @property
    def underpowered(self) -> bool:
        return len(self.rows) < MIN_ITEMS or (self.grouped and self.n_groups < MIN_GROUPS)

    def accuracy(self, correct: PerItem) -> Estimate:
        """Share of tested items that are right. One random split, and a share of 0 or 1 (where no resample can
        differ), have the exact interval over items."""
        values = correct[self.rows]
        value = float(values.mean())
        whole = np.isin(values, (0.0, 1.0)).all()
        if whole and (not self.grouped or value in (0.0, 1.0)):
            return Estimate(value, *clopper_pearson(int(values.sum()), len(values)))
        return self.mean(correct)

    def difference(self, first: PerItem, second: PerItem) -> Estimate:
        """Mean of first - second over the same items."""
        return self.mean(first - second)

    def mean(self, values: PerItem) -> Estimate:
        """Mean over the tested items that have a value (NaN: none), by resampled groups."""
        chosen = values[self.rows]
        there = ~np.isnan(chosen)
        if not there.any():
            return Estimate(float("nan"), float("nan"), float("nan"))
        total = self.weights[:, there].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled = np.where(total > 0, self.weights[:, there] @ chosen[there] / total, np.nan)
        return Estimate(float(chosen[there].mean()), *interval(resampled))

    def p_above(self, first: PerItem, second: PerItem) -> float:
        """One-sided bootstrap p-value of "first is not above second"."""
        return one_sided_p(self._means((first - second)[self.rows]))

    def _means(self, values: Float64[np.ndarray, " test"]) -> Float64[np.ndarray, " resample"]:
        total = self.weights.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(total > 0, self.weights @ values / total, np.nan))
