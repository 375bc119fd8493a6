"""How far repeated judgements agree, and what their spread adds to an interval.

Krippendorff's alpha for nominal answers (Krippendorff 2004, chapter 11): 1. within each unit every ordered pair of
answers counts 1 / (answers of the unit - 1); 2. D_o is the share of pairs that differ, D_e that of pairs drawn from
all answers together; 3. alpha = 1 - D_o / D_e: 1 for equal answers, 0 for what chance gives, below 0 for less.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int


def krippendorff_alpha(answers: Int[np.ndarray, "rater unit"]) -> float:
    """Alpha of nominal answers; negative ones are missing, and a unit with fewer than two does not count. NaN where no
    unit counts or all answers are the same one: then nothing tells agreement from having one answer for everything."""
    units = [column[column >= 0] for column in answers.T]
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        return float("nan")
    n = sum(len(unit) for unit in units)
    counts = [np.bincount(unit) for unit in units]
    observed = sum((len(u) ** 2 - (c**2).sum()) / (len(u) - 1) for u, c in zip(units, counts, strict=True)) / n
    pooled = np.bincount(np.concatenate(units))
    expected = (n**2 - (pooled**2).sum()) / (n * (n - 1))
    return float(1 - observed / expected) if expected > 0 else float("nan")


def mean_difference(e: Float[np.ndarray, "call unit"]) -> float:
    """Mean |e - e'| over all pairs of calls; NaN for fewer than two."""
    pairs = [float(np.abs(e[i] - e[j]).mean()) for i in range(len(e)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else float("nan")


def judge_error(values: Float[np.ndarray, " call"], calls: int) -> float:
    """Standard error that the judge adds to a value that is the mean over `calls` calls, from the values of single
    calls: their standard deviation (n - 1) over the root of `calls`. NaN for fewer than two values."""
    return float(np.std(values, ddof=1) / math.sqrt(calls)) if len(values) > 1 else float("nan")


def items_error(draws: Float[np.ndarray, " resample"]) -> float:
    """Standard error that the choice of items (or documents) adds: the standard deviation over the resamples in which
    the value is defined."""
    return float(np.nanstd(draws, ddof=1)) if (~np.isnan(draws)).sum() > 1 else float("nan")
