"""The curve of a `steering` score: what was found at each strength, from the details of the score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from autointerp.records import Score
from autointerp.report.data import number

_AT = re.compile(r"logit_change_at_(\d+(?:\.\d+)?)")
Json = dict[str, Any]


def steering_curve(scores: Sequence[Score]) -> Json | None:
    """Points (strength, logit change), the strength that the score is at, and the controls there; None without."""
    score = next((score for score in scores if score.scorer == "steering"), None)
    if score is None:
        return None
    points = []
    for name, value in score.details.items():
        found = _AT.fullmatch(name)
        if found is not None and isinstance(value, int | float) and number(value) is not None:
            points.append([number(float(found.group(1))), number(value)])
    if len(points) < 2:
        return None
    chosen = score.details.get("strength")
    return {
        "points": sorted(points),
        "chosen": number(chosen) if isinstance(chosen, int | float) else None,
        "low": number(score.low),
        "high": number(score.high),
        "controls": [[control.name, number(control.value)] for control in score.controls],
    }
