"""Full-batch L-BFGS with a strong Wolfe line search for smooth convex functions (Nocedal and Wright 2006, 7.4, 3.5).

The caller scales its variables so that the curvature is near 1 (a first step of 1 is then nearly right) and says when
a gradient is small enough. Nothing is random, and everything is float64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

MEMORY = 12
ARMIJO, WOLFE = 1e-4, 0.9
SEARCHES = 30

Vector = Float64[np.ndarray, " variable"]
Function = Callable[[Vector], tuple[float, Vector]]
"""A point to the value and the gradient there."""


class Point(NamedTuple):
    """Where a search stands."""

    x: Vector
    value: float
    gradient: Vector


def minimise(function: Function, start: Vector, small: Callable[[Vector], bool], iterations: int) -> Point:
    """The point where `small(gradient)` holds, or where it got to after so many iterations or without progress."""
    point = Point(start, *function(start))
    pairs: deque[tuple[Vector, Vector, float]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        if small(point.gradient):
            break
        after = _step(function, point, _direction(point.gradient, pairs))
        if after is None and pairs:  # the memory no longer fits: steepest descent once
            pairs.clear()
            after = _step(function, point, -point.gradient)
        if after is None:
            break
        moved, turned = after.x - point.x, after.gradient - point.gradient
        curvature = float(moved @ turned)
        if curvature > 1e-16 * float(turned @ turned):
            pairs.append((moved, turned, curvature))
        point = after
    return point


def _direction(gradient: Vector, pairs: deque[tuple[Vector, Vector, float]]) -> Vector:
    """The two-loop recursion."""
    direction = -gradient
    weights = []
    for moved, turned, curvature in reversed(pairs):
        weight = float(moved @ direction) / curvature
        direction = direction - weight * turned
        weights.append(weight)
    if pairs:
        _, turned, curvature = pairs[-1]
        direction = direction * (curvature / float(turned @ turned))
    for (moved, turned, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + (weight - float(turned @ direction) / curvature) * moved
    return direction


def _step(function: Function, point: Point, direction: Vector) -> Point | None:
    """A point along the direction that meets both conditions; None where rounding leaves none.

    On a convex function the slope tells on which side the minimum lies, so that bisection with interpolation ends.
    """
    slope = float(point.gradient @ direction)
    if not slope < 0:
        return None
    low, low_slope, high, high_slope, t = 0.0, slope, np.inf, np.nan, 1.0
    noise = 1e-15 * abs(point.value)
    for _ in range(SEARCHES):
        x = point.x + t * direction
        value, gradient = function(x)
        here = float(gradient @ direction)
        falls = value <= point.value + ARMIJO * t * slope + noise
        if falls and abs(here) <= -WOLFE * slope:
            return Point(x, value, gradient)
        if falls and here < 0:
            low, low_slope = t, here
        else:
            high, high_slope = t, here
        t = _between(low, low_slope, high, high_slope)
    return None


def _between(low: float, low_slope: float, high: float, high_slope: float) -> float:
    """Where the slope would be 0 if it were linear, kept off the ends; four times as far where there is no end."""
    if not np.isfinite(high):
        return 4 * low
    width = high - low
    share = low_slope / (low_slope - high_slope) if high_slope > 0 else 0.5
    return float(low + width * min(max(share, 0.1), 0.9))
