"""The view of a unit's evidence in few words, for servers with a short context: the examples are worth more.

Of what was measured those that fire are kept, or else the highest, and the beginnings of all ranked lists of tokens.
"""

from __future__ import annotations

import math
from typing import Any

FEW_MEASURED, FEW_TOKENS = 4, 4
RANKED_BY = {"measurements": "percentile_among_heads", "rules": "f1"}
Plain = dict[str, Any]


def brief_view(view: Plain) -> Plain:
    """A view with fewer measurements, rules and tokens, and the same examples."""
    return {name: _brief_part(name, part) for name, part in view.items()}


def firing_view(view: Plain) -> Plain:
    """A view with the measurements or rules that fire alone, or else the few that rank highest."""
    ranked = {name: _firing(part, RANKED_BY[name]) for name, part in view.items() if name in RANKED_BY}
    return {**view, **ranked}


def _firing(measured: list[Plain], rank: str) -> list[Plain]:
    by_rank = sorted(measured, key=lambda one: -_number(one[rank]))
    return [one for one in measured if one["fires"]] or by_rank[:FEW_MEASURED]


def _brief_part(name: str, part: Any) -> Any:
    if name in RANKED_BY:
        return _foremost(part, RANKED_BY[name])
    if name == "examples" or not isinstance(part, dict):
        return part
    return {key: value[:FEW_TOKENS] if isinstance(value, list) else value for key, value in part.items()}


def _foremost(measured: list[Plain], rank: str) -> list[Plain]:
    """The few that fire or rank highest, in their own order."""
    best = sorted(range(len(measured)), key=lambda at: (not measured[at]["fires"], -_number(measured[at][rank])))
    return [measured[at] for at in sorted(best[:FEW_MEASURED])]


def _number(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else float(value)
