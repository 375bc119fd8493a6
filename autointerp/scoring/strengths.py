"""Strengths that a language model gives to the tokens of passages: the shape of the reply, and how it is read.

The reply is `{"rows": {"1": [{"token": 3, "strength": 7}], "2": []}}`: only what is above 0 is named, so that a long
passage costs no more than what happens in it. Pairs `[3, 7]` are read alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

MOST = 10  # strengths run from 0 to this


def strengths_schema(sizes: Sequence[int]) -> dict[str, Any]:
    """The JSON schema of a reply for passages of so many tokens."""

    def strengths(size: int) -> dict[str, Any]:
        limits = {"token": (1, size), "strength": (1, MOST)}
        one = {
            "type": "object",
            "properties": {k: {"type": "integer", "minimum": a, "maximum": b} for k, (a, b) in limits.items()},
            "required": list(limits),
            "additionalProperties": False,
        }
        return {"type": "array", "items": one, "maxItems": size}

    rows = {
        "type": "object",
        "properties": {str(number): strengths(size) for number, size in enumerate(sizes, 1)},
        "required": [str(number) for number in range(1, len(sizes) + 1)],
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def read_strengths(reply: Mapping[str, Any], sizes: Sequence[int]) -> list[Float[np.ndarray, " token"]]:
    """Strengths of passages 1 to n, 0 where none is named. Raises ValueError for a passage, token or strength that
    is missing or out of range; of a token named twice the larger strength counts."""
    rows = reply.get("rows")
    if isinstance(rows, list):  # weak models leave the numbers of the items away
        rows = {str(number): row for number, row in enumerate(rows, 1)}
    if not isinstance(rows, Mapping):
        raise ValueError(f"rows must hold an object with the numbers 1 to {len(sizes)}, not {json.dumps(rows)[:40]}")
    wanted = [str(number) for number in range(1, len(sizes) + 1)]
    if len(rows) != len(sizes) or any(name not in rows for name in wanted):
        raise ValueError(f"rows must hold the numbers 1 to {len(sizes)} and no other; {len(rows)} found")
    return [_strengths(name, rows[name], size) for name, size in zip(wanted, sizes, strict=True)]


def _strengths(name: str, row: object, size: int) -> Float[np.ndarray, " token"]:
    if not isinstance(row, list):
        raise ValueError(f"row {name} must be a list of tokens with strengths, not {json.dumps(row)[:40]}")
    found = np.zeros(size)
    for one in row:
        token, strength = _pair(name, one)
        if token != int(token) or not 1 <= token <= size:
            raise ValueError(f"row {name} names token {token}; its tokens are 1 to {size}")
        if not 0 <= strength <= MOST:
            raise ValueError(f"row {name} gives token {token} the strength {strength}, not one from 0 to {MOST}")
        found[int(token) - 1] = max(found[int(token) - 1], strength)
    return found


def _pair(name: str, one: object) -> tuple[float, float]:
    values = [one.get("token"), one.get("strength")] if isinstance(one, Mapping) else one
    if isinstance(values, list) and len(values) == 2:
        first, second = values
        if all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
            return first, second
    raise ValueError(f"row {name} holds {json.dumps(one)[:40]}, not a token with a strength")
