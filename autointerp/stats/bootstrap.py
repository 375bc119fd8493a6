"""Intervals: documents are drawn, not items, and all compared conditions share the same draws.

1. `Resamples` holds how often each document occurs in each resample. Scores that are ratios of sums over
   documents follow for all resamples from one matrix product, for any number of conditions at once.
2. `interval` takes the 2.5 and 97.5 percentiles.
3. Streams that cannot keep their documents use `poisson_weights`: the multinomial counts become independent
   Poisson(1) counts that follow from the document's own hash.

Rates have exact Clopper-Pearson intervals; p-values of many heads are adjusted by Benjamini-Hochberg.
(Efron 1979; Clopper and Pearson 1934; Benjamini and Hochberg 1995; scoring_validity rule 8.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real, Shaped, UInt64

from autointerp.errors import BadInput
from autointerp.stats.metrics import PEARSON_SUMS, f1_from_counts, pearson_from_sums

N_RESAMPLES = 1000
_LEVEL = 0.95
_MAX_UNDEFINED = 0.05  # share of resamples in which a score may be undefined before the interval is

PerDoc = Real[np.ndarray, " doc"]
Draws = Float64[np.ndarray, " resample"]


class Estimate(NamedTuple):
    """A value on all documents and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resamples:
    """`counts[r, d]`: how often document d was drawn into resample r; rows sum to the number of documents.

    Documents must come in one order everywhere (by id, say): draws belong to places in that order.
    """

    counts: Float64[np.ndarray, "resample doc"]

    @classmethod
    def of(cls, n_docs: int, seed: int, n_resamples: int = N_RESAMPLES) -> Resamples:
        """Draw n_docs documents with replacement, n_resamples times. Raises BadInput without a document."""
        if n_docs < 1 or n_resamples < 1:
            raise BadInput(f"{n_docs} documents, {n_resamples} resamples: there is nothing to draw from")
        rng = np.random.default_rng(seed)
        counts = np.empty((n_resamples, n_docs))
        for row in counts:
            row[:] = np.bincount(rng.integers(n_docs, size=n_docs), minlength=n_docs)
        return cls(counts)

    def totals(self, per_doc: Real[np.ndarray, "doc ..."]) -> Float64[np.ndarray, "resample ..."]:
        """Sums over the documents of each resample; further axes (conditions, statistics) are kept."""
        return np.asarray(np.tensordot(self.counts, per_doc, axes=1))


def interval(values: Draws, level: float = _LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled values.

    Resamples in which the value is undefined (NaN) are left out; where they are more than 5 %, the score
    hangs on a handful of documents and the interval is (NaN, NaN).
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(values) or not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(numerator: PerDoc, denominator: PerDoc, resamples: Resamples) -> Estimate:
    """sum numerator / sum denominator over documents: means, rates, coverage. NaN for a zero denominator."""
    return _estimate(np.stack([numerator, denominator], -1), lambda t: _divide(t[..., 0], t[..., 1]), resamples)


def f1_interval(tp: PerDoc, fp: PerDoc, fn: PerDoc, resamples: Resamples) -> Estimate:
    """F1 from weighted counts of each document (the counts are summed, not the F1s)."""
    return _estimate(np.stack([tp, fp, fn], -1), lambda t: f1_from_counts(t[..., 0], t[..., 1], t[..., 2]), resamples)


def pearson_interval(sums: Float64[np.ndarray, "doc 6"], resamples: Resamples) -> Estimate:
    """Weighted correlation from `pearson_sums` of each document."""
    return _estimate(sums, pearson_from_sums, resamples)


def paired_difference(first: Draws, second: Draws, value: float) -> Estimate:
    """`value`, the difference on all documents, with the interval of first - second over shared resamples."""
    if first.shape != second.shape:
        raise BadInput(f"{len(first)} and {len(second)} resampled values: a pair comes from the same resamples")
    return Estimate(value, *interval(first - second))


def one_sided_p(differences: Draws) -> float:
    """Bootstrap p-value of "the difference is not above 0": (1 + resamples at or below 0) / (1 + resamples).

    An undefined difference counts as not above 0.
    """
    return (1 + int((~(differences > 0)).sum())) / (1 + len(differences))


def pearson_sums(
    e: Shaped[np.ndarray, " item"],
    a: Shaped[np.ndarray, " item"],
    w: Shaped[np.ndarray, " item"],
    document: Int[np.ndarray, " item"],
    n_docs: int,
) -> Float64[np.ndarray, "doc 6"]:
    """Sufficient statistics of the weighted correlation for each document, columns as in PEARSON_SUMS."""
    columns = {"w": w, "we": w * e, "wa": w * a, "wee": w * e * e, "waa": w * a * a, "wea": w * e * a}
    return np.stack([np.bincount(document, columns[name], n_docs) for name in PEARSON_SUMS], -1)


def confusion_counts(
    e: Shaped[np.ndarray, " item"],
    a: Shaped[np.ndarray, " item"],
    w: Shaped[np.ndarray, " item"],
    document: Int[np.ndarray, " item"],
    n_docs: int,
) -> Float64[np.ndarray, "doc 3"]:
    """Weighted tp, fp and fn of each document, from binary e and a."""
    columns = (w * e * a, w * e * (1 - a), w * (1 - e) * a)
    return np.stack([np.bincount(document, column, n_docs) for column in columns], -1)


def poisson_weights(
    doc_hashes: UInt64[np.ndarray, " doc"], n_resamples: int, seed: int
) -> Float64[np.ndarray, "doc resample"]:
    """How often each document occurs in each resample of a stream: Poisson(1), by hash, resample and seed.

    The same document has the same weights in any order, shard or run. Resamples have n_docs documents in the
    mean, not exactly: use them for ratios. (SplitMix64, Steele et al. 2014, not a stateful generator.)
    """
    keys = _mix(doc_hashes ^ _mix(np.array([seed % 2**64], dtype=np.uint64)))
    steps = np.arange(1, n_resamples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    uniform = (_mix(keys[:, None] + steps[None, :]) >> np.uint64(11)) * 2.0**-53
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(20)])
    return np.searchsorted(cumulative, uniform, side="right").astype(np.float64)


def _mix(state: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


def clopper_pearson(k: int, n: int, level: float = _LEVEL) -> tuple[float, float]:
    """Exact interval of a rate, k successes of n; (0, 1) for n = 0. Raises BadInput unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise BadInput(f"{k} successes of {n} trials is no rate")
    tail = (1 - level) / 2
    low = _bisect(lambda p: _beta_cdf(p, k, n - k + 1) - tail) if k > 0 else 0.0
    high = _bisect(lambda p: _beta_cdf(p, k + 1, n - k) - (1 - tail)) if k < n else 1.0
    return low, high


def _bisect(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: int, b: int) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on one side only
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny, d = 1e-300, 1 / (1 - (a + b) * x / (a + 1) or 1e-300)
    c, fraction = 1.0, d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d or tiny), 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction / a


def benjamini_hochberg(p_values: Float64[np.ndarray, " test"]) -> Float64[np.ndarray, " test"]:
    """Adjusted p-values: q_(i) = min over j >= i of p_(j) m / j; those at most .05 hold at a 5 % false share.

    NaN marks a test that was not made: it stays NaN and m does not count it. Raises BadInput outside [0, 1].
    """
    made = np.flatnonzero(~np.isnan(p_values))
    p = p_values[made]
    if ((p < 0) | (p > 1)).any():
        raise BadInput(f"p-values from {p.min()} to {p.max()} are not in [0, 1]")
    order = np.argsort(p, kind="stable")[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[made[order]] = np.minimum.accumulate(np.minimum(scaled, 1.0))
    return adjusted


def _estimate(
    per_doc: Real[np.ndarray, "doc ..."],
    score: Callable[[np.ndarray], np.ndarray],
    resamples: Resamples,
) -> Estimate:
    value = float(score(per_doc.sum(0, keepdims=True))[0])
    return Estimate(value, *interval(score(resamples.totals(per_doc))))


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below != 0, above / below, np.nan))
