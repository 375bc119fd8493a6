"""A predicate's score on select as a loop is shown it; `standing` reads these names."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.agent.plain import Plain, number
from autointerp.records import Control, Score, Unscored

DETAILS = ("precision", "recall", "coverage", "enrichment")


def score_numbers(score: Score | Unscored, items: str) -> Plain:
    """The score, its nulls and its hardest rival; `items` is the name under which items are counted."""
    if isinstance(score, Unscored):
        return {"unscored": score.reason}
    found: Plain = {
        "domain": score.domain, "metric": score.metric, "value": number(score.value), "low": number(score.low),
        "high": number(score.high), "chance": number(score.chance),
    }  # fmt: skip
    found |= {name: number(float(value)) for name in DETAILS if (value := score.details.get(name)) is not None}
    found |= {items: score.n_items, "n_documents": score.n_docs}
    if score.state:
        found["state"] = score.state
    rivals = [control for control in score.controls if control.kind == "rival"]
    nulls = [control for control in score.controls if control.kind == "null"]
    return found | {"nulls_beaten": all(c.beaten for c in nulls)} | ({"rival": _rival(rivals)} if rivals else {})


def _rival(rivals: Sequence[Control]) -> Plain:
    """The one that is hardest to beat. One that is the same rule cannot be beaten and refutes nothing: it gives way to
    one that is not surely beaten."""
    control = min(rivals, key=lambda rival: 0.0 if rival.same_rule or rival.low != rival.low else rival.low)
    if control.same_rule:
        return {"rule": control.name, "value": number(control.value), "same_rule": True}
    ends = [number(control.low), number(control.high)]
    return {"rule": control.name, "value": number(control.value), "difference": ends, "beaten": control.beaten}
