"""From the first pass's sums to the frozen statistics of each head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from autointerp.evidence.accumulate import ROW_VALUES, STATISTICS
from autointerp.evidence.buckets import bucket_names
from autointerp.evidence.first_pass import FirstPass, PassSpec
from autointerp.records import HeadStats, Interval, TokenTotal

QUANTILES = (0.01, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
N_TOKENS = 20
_MEDIANS = {"sink_mass": "sink_mass_median", "entropy": "entropy_median", "max_share": "max_share_median",
            "mean_distance": "distance_median"}  # fmt: skip
_FIELDS = {"low_mass": "low_mass_rows"}


def head_stats(state: FirstPass, spec: PassSpec, strings: Sequence[str]) -> list[HeadStats]:
    """Statistics of all heads, in flat order."""
    means = state.means.mean()
    low, high = state.means.interval()
    n_heads = means.shape[1]
    return [_one(state, spec, strings, head, (means, low, high)) for head in range(n_heads)]


def _one(
    state: FirstPass,
    spec: PassSpec,
    strings: Sequence[str],
    head: int,
    parts: tuple[Float64[np.ndarray, "statistic head"], ...],
) -> HeadStats:
    means, low, high = parts
    intervals = {
        _FIELDS.get(name, name): Interval(
            value=means[i, head], low=low[i, head], high=high[i, head], n=int(state.means.counts[i, head])
        )
        for i, name in enumerate(STATISTICS)
    }
    sample = state.reservoir.of_head(head)["values"]
    medians = {field: _median(sample[:, ROW_VALUES.index(name)]) for name, field in _MEDIANS.items()}
    activity = sample[:, ROW_VALUES.index("activity")]
    quantiles = np.quantile(activity, QUANTILES) if len(activity) else np.full(len(QUANTILES), np.nan)
    documents = max(state.histogram_documents[head], 1)
    return HeadStats(
        n_rows=int(state.progress[1]),
        n_docs=int(state.progress[2]),
        **intervals,
        **medians,
        distance_buckets=bucket_names(spec.context),
        distance_histogram=tuple(float(v) for v in state.histogram[head] / documents),
        activity_quantiles=tuple(float(q) for q in quantiles),
        top_sources=_top_tokens(state.source_totals[:, head], state, spec, strings),
        top_destinations=_top_tokens(state.destination_totals[:, head], state, spec, strings),
    )


def _median(values: Float[np.ndarray, " sample"]) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else float("nan")


def _top_tokens(
    totals: Float64[np.ndarray, " token"], state: FirstPass, spec: PassSpec, strings: Sequence[str]
) -> tuple[TokenTotal, ...]:
    total, count = totals.sum(), state.token_counts.sum()
    if total <= 0:
        return ()
    best = np.lexsort((spec.token_ids, -totals))[:N_TOKENS]
    return tuple(
        TokenTotal(
            token=strings[int(spec.token_ids[i])],
            part=float(totals[i] / total),
            base_rate=float(state.token_counts[i] / count),
        )
        for i in best
        if totals[i] > 0
    )
