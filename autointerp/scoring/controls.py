"""A control beside a score: its value, the paired difference with interval and p-value, and whether it is beaten."""

from __future__ import annotations

from typing import Literal

from autointerp.records import Control
from autointerp.stats.bootstrap import Draws, interval, one_sided_p

ROUNDING = 1e-9  # two scores that differ by less are equal


def compared(name: str, value: float, of: float, difference: Draws, kind: Literal["null", "rival"] = "null") -> Control:
    """The control `name` whose value is `of` against the score's `value`; `difference`: score minus control over the
    shared resamples. Beaten: the lower end of the difference lies above 0."""
    low, high = interval(difference)
    return Control(
        name=name,
        kind=kind,
        value=of,
        difference=value - of,
        low=low,
        high=high,
        beaten=low > ROUNDING,
        p=one_sided_p(difference),
    )
