"""How often a unit is active: counted on the learning rows, or estimated in the first pass.

The estimate comes from the rows that all units share, at most `SHARED_ROWS`, or from the unit's own reservoir.
Intervals resample documents; that of an estimate is nowhere narrower than the exact binomial one, which still has a
width where all or none of the rows are active.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from autointerp.feature_records import ACTIVE
from autointerp.features.active_rows import UnitRows
from autointerp.features.best_of_documents import Entries
from autointerp.features.first_pass import UnitPass
from autointerp.features.learning_rows import LearningRows
from autointerp.records import Interval
from autointerp.stats.bootstrap import Resamples, clopper_pearson, ratio_interval

ENOUGH_SHARED = 32  # shared rows above 0 from which they, not the unit's own reservoir, say how often it is active
_N_RESAMPLES, _UNITS_AT_ONCE, _MAX_CLUSTERS = 500, 4096, 1000
_TAILS = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class ShareCounter:
    """Counts active rows among the learning rows; the resamples of documents are shared by all units."""

    n_rows: int
    cluster: Int[np.ndarray, " row"]  # documents, joined into `_MAX_CLUSTERS` where they are more
    rows_of: Float64[np.ndarray, " cluster"]
    resamples: Resamples

    @classmethod
    def of(cls, learning: LearningRows, seed: int) -> ShareCounter:
        n = max(min(learning.n_documents, _MAX_CLUSTERS), 1)
        cluster = (learning.documents % n)[learning.window]
        rows = np.bincount(cluster, minlength=n).astype(np.float64)
        return cls(len(learning), cluster, rows, Resamples.of(n, seed, _N_RESAMPLES))

    def share(self, rows: UnitRows) -> Interval:
        """The share of active rows of a unit."""
        active = np.bincount(self.cluster[rows.active], minlength=len(self.rows_of)).astype(np.float64)
        found = ratio_interval(active, self.rows_of, self.resamples)
        return Interval(value=six(found.value), low=six(found.low), high=six(found.high), n=self.n_rows)


def active_shares(
    state: UnitPass, sign: Int[np.ndarray, " unit"], reference: Float64[np.ndarray, " unit"],
    density: Float64[np.ndarray, " unit"],
) -> Float64[np.ndarray, " unit"]:  # fmt: skip
    """From the shared rows, or from the unit's own reservoir where it is above 0 on few of them."""
    found = np.zeros(len(sign))
    for start in range(0, len(sign), _UNITS_AT_ONCE):
        part = slice(start, start + _UNITS_AT_ONCE)
        a = state.shared[:, part].astype(np.float32) * sign[part]
        common = (a > 0).sum(0) >= ENOUGH_SHARED
        shared = (a >= ACTIVE * reference[part]).mean(0) if len(a) else np.zeros(a.shape[1])
        own = np.stack([_own_share(r.entries, part, reference[part]) for r in state.reservoir])
        side = (sign[part] < 0).astype(np.int64)
        found[part] = np.where(common, shared, density[part] * own[side, np.arange(a.shape[1])])
    return found


def shared_intervals(
    state: UnitPass, units: Int[np.ndarray, " some"], sign: Int[np.ndarray, " some"],
    reference: Float64[np.ndarray, " some"],
) -> Float64[np.ndarray, "2 some"]:  # fmt: skip
    """The 95 % interval of the share of active rows among the shared ones, for `units`; NaN without such rows."""
    if not len(state.shared):
        return np.full((2, len(units)), np.nan)
    document = np.unique(state.documents, return_inverse=True)[1]
    n_documents = int(document.max()) + 1
    drawn = Resamples.of(n_documents, int(state.identity[0]), _N_RESAMPLES)
    rows = drawn.totals(np.bincount(document, minlength=n_documents).astype(np.float64))
    found = np.zeros((2, len(units)))
    for start in range(0, len(units), _UNITS_AT_ONCE):
        part = slice(start, start + _UNITS_AT_ONCE)
        a = state.shared[:, units[part]].astype(np.float32) * sign[part]
        active = np.zeros((n_documents, a.shape[1]))
        np.add.at(active, document, a >= ACTIVE * reference[part])
        low, high = np.quantile(drawn.totals(active) / rows[:, None], _TAILS, axis=0)
        exact = _exact(active.sum(0).astype(np.int64), len(a))
        found[:, part] = np.minimum(low, exact[0]), np.maximum(high, exact[1])
    return found


def _exact(active: Int[np.ndarray, " some"], n: int) -> Float64[np.ndarray, "2 some"]:
    numbers, place = np.unique(active, return_inverse=True)
    ends = [clopper_pearson(int(k), n) for k in numbers]
    return np.array(ends).reshape(-1, 2).T[:, place]


def _own_share(entries: Entries, part: slice, reference: Float[np.ndarray, " unit"]) -> Float64[np.ndarray, " unit"]:
    there = entries.key[part] > 0
    active = there & (entries.value[part] >= ACTIVE * reference[:, None])
    return np.asarray(active.sum(1) / np.maximum(there.sum(1), 1))


def six(value: float) -> float:
    """Rounded to six digits."""
    return float(f"{value:.6g}")
