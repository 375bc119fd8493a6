"""Numbers of experiments cut to what a prompt, a card and a line of JSON can hold: bounded in depth, length, digits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DEPTH, ITEMS, KEYS, CHARACTERS, DIGITS = 8, 24, 40, 600, 4
LARGEST = 10**15


def clipped(value: object, depth: int = DEPTH) -> Any:
    """`value` as JSON of limited size; undefined numbers are null, and what is cut ends in an ellipsis."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < LARGEST else None
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return short if math.isfinite(short) else None  # the largest numbers round to infinity
    if isinstance(value, str):
        return value if len(value) <= CHARACTERS else value[: CHARACTERS - 1] + "…"
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {str(name)[:80]: clipped(item, depth - 1) for name, item in list(value.items())[:KEYS]}
    if isinstance(value, list | tuple):
        return [clipped(item, depth - 1) for item in value[:ITEMS]]
    return clipped(str(value), depth)
