"""From values by row to readings: mean, interval, rank, null, lift, and whether a detector fires.

1. Value: the mean over rows (sequences, documents or tokens) that have a target; 95 % interval by bootstrap over them.
2. Lift over uniform: the value over that of an even head on the same cells.
3. Null: the highest value of any head of randomly initialised models of the same architecture and, for detectors of
   content, of the model itself on the same rows in shuffled order, at the cells of the unshuffled rows. A positional
   head gives the same there, so that position cannot pass for content; for positional detectors it is no null.
4. Fires: lower end above the null, and lift of at least 5. A class that makes a fifth of the text cannot reach 5:
   for classes and punctuation a lift of 2, a position lift above 2 and a tenth of the attention replace it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool

from autointerp.evidence.detector_measure import Measured, PerHead, Values
from autointerp.records import Reading
from autointerp.stats.bootstrap import Resamples

Data = Literal["repeats", "text", "parameters"]
LEAST_LIFT, CLASS_LIFT, POSITION_LIFT, LEAST_SHARE = 5.0, 2.0, 2.0, 0.1


@dataclass(frozen=True)
class Summary:
    """Mean over rows with its interval, by head; `n` rows had a target."""

    value: PerHead
    low: PerHead
    high: PerHead
    n: np.ndarray

    @classmethod
    def of(cls, values: Values, seed: int) -> Summary:
        """NaN for heads without a row."""
        there = ~np.isnan(values)
        filled = np.where(there, values, 0.0)
        draws = Resamples.of(len(values), seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = filled.sum(0) / there.sum(0)
            resampled = draws.totals(filled) / draws.totals(there.astype(np.float64))
        undefined = np.isnan(resampled).mean(0) > 0.05
        ordered = np.sort(resampled, axis=0)  # NaN last
        count = (~np.isnan(resampled)).sum(0)
        ends = [
            np.where(undefined, np.nan, np.take_along_axis(ordered, _place(count, q)[None], 0)[0])
            for q in (0.025, 0.975)
        ]
        return cls(value, ends[0], ends[1], there.sum(0))


def _place(count: np.ndarray, quantile: float) -> np.ndarray:
    return np.asarray(np.round(quantile * np.maximum(count - 1, 0)).astype(np.int64))


def row_mean(values: Values) -> PerHead:
    """Mean over rows that have a target; NaN without one."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(0) / there.sum(0))


def percentiles(values: PerHead) -> PerHead:
    """Rank among all heads, ties averaged, 100 = highest; NaN for heads without a value."""
    made = ~np.isnan(values)
    known = values[made]
    below = (known[:, None] > known[None, :]).sum(1)
    same = (known[:, None] == known[None, :]).sum(1)
    out = np.full(len(values), np.nan)
    out[made] = 100 * (below + (same + 1) / 2) / max(len(known), 1)
    return out


@dataclass(frozen=True)
class Kind:
    """What a detector is called, what it ran on, and what else goes into its detail."""

    name: str
    data: Data
    fixed: Mapping[str, str | int | float] = field(default_factory=dict)
    more: Mapping[str, PerHead] = field(default_factory=dict)
    gate: Bool[np.ndarray, " head"] | None = None  # further condition for firing
    least_lift: float = LEAST_LIFT


def readings(kind: Kind, measured: Measured, null_max: PerHead, seed: int) -> list[Reading]:
    """One reading for each head, in order."""
    summary = Summary.of(measured.value, seed)
    uniform = row_mean(np.where(np.isnan(measured.value), np.nan, measured.uniform))
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = np.where(uniform > 0, summary.value / uniform, np.nan)
        fires = (summary.low > null_max) & (lift >= kind.least_lift)
    if kind.gate is not None:
        fires &= kind.gate
    rank = percentiles(summary.value)
    more = {name: row_mean(values) for name, values in measured.more.items()} | dict(kind.more)
    return [
        Reading(
            name=kind.name,
            data=kind.data,
            value=float(summary.value[h]),
            low=float(summary.low[h]),
            high=float(summary.high[h]),
            n=int(summary.n[h]),
            percentile=float(rank[h]),
            null_max=float(null_max[h]),
            lift_over_uniform=float(lift[h]),
            fires=bool(fires[h]),
            detail={**kind.fixed, **_defined({name: values[h] for name, values in more.items()})},
        )
        for h in range(len(rank))
    ]


def _defined(values: Mapping[str, float]) -> dict[str, str | float | int]:
    """NaN has no place in a detail: what was not measured is left out."""
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def class_gate(values: PerHead, uniform: PerHead, expected: PerHead) -> Bool[np.ndarray, " head"]:
    """The conditions that replace the lift of 5 where the target is a kind of token."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            (values / uniform >= CLASS_LIFT) & (values / expected > POSITION_LIFT) & (values >= LEAST_SHARE)
        )


def highest(values: Sequence[PerHead], n_heads: int) -> PerHead:
    """The highest value of any head in any of the null runs, for every head; NaN where there is none."""
    found = [x[~np.isnan(x)] for x in values]
    known = np.concatenate(found) if found else np.zeros(0)
    return np.full(n_heads, known.max() if len(known) else np.nan)
