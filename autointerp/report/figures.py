"""Figures of the run page as plain coordinates: margin against ablation effect, and stated confidence against outcome.

Boxes are 280 x 130; y grows downwards. The templates draw them as SVG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from autointerp.report.summary import Summary

WIDTH, HEIGHT = 280.0, 130.0
BINS = 5
LEAST_KL = 1e-6
MOST_DOTS = 1200  # a page with many more is slow to draw


@dataclass(frozen=True)
class Dot:
    """One head of the scatter."""

    head: str
    verdict: str
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """Margins against KL (logarithmic, nats); `zero`: the height of margin 0; `n`: points, of which some are drawn."""

    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bin:
    """Heads whose stated confidence falls in one fifth: their mean confidence, share supported, interval."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Calibration:
    """`error`: expected calibration error, mean |share supported - mean confidence| over heads."""

    bins: tuple[Bin, ...]
    error: float
    n: int


def scatter(summary: Summary) -> Scatter | None:
    """None with fewer than two heads that have both numbers."""
    points = [p for p in summary.effects if math.isfinite(p[1]) and math.isfinite(p[2])]
    if len(points) < 2:
        return None
    logs = [math.log10(max(kl, LEAST_KL)) for _, kl, _, _ in points]
    left = math.floor(min(logs))
    right = max(math.ceil(max(logs)), left + 1)
    low, high = min(0.0, *(p[2] for p in points)), max(0.1, *(p[2] for p in points))

    def across(value: float) -> float:
        return round(WIDTH * (value - left) / (right - left), 1)

    def down(value: float) -> float:
        return round(HEIGHT * (high - value) / (high - low), 1)

    dots = tuple(
        Dot(head, verdict, across(at), down(margin), f"{head}: margin {margin:.3f}, KL {kl:.2g} nats, {verdict}")
        for (head, kl, margin, verdict), at in zip(points, logs, strict=True)
    )
    ticks = tuple((across(power), f"1e{power}") for power in range(left, right + 1, max(1, (right - left) // 5)))
    return Scatter(dots[:: max(1, -(-len(dots) // MOST_DOTS))], ticks, down(0.0), low, high, len(dots))


def calibration(summary: Summary) -> Calibration | None:
    """None where no described head stated a confidence and got a verdict."""
    from autointerp.stats.bootstrap import clopper_pearson

    if not summary.stated:
        return None
    bins: list[Bin] = []
    gaps = 0.0
    for number in range(BINS):
        inside = [(c, ok) for c, ok in summary.stated if min(int(c * BINS), BINS - 1) == number]
        if not inside:
            continue
        confidence, right = fmean(c for c, _ in inside), sum(ok for _, ok in inside)
        low, high = clopper_pearson(right, len(inside))
        share = right / len(inside)
        gaps += abs(share - confidence) * len(inside)
        text = f"confidence {confidence:.2f}: {right} of {len(inside)} supported ({low:.2f} to {high:.2f})"
        y, bottom, top = (round(HEIGHT * (1 - v), 1) for v in (share, low, high))
        bins.append(Bin(round(WIDTH * confidence, 1), y, bottom, top, text))
    return Calibration(tuple(bins), gaps / len(summary.stated), len(summary.stated))
