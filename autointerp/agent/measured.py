"""What was measured of the head before any experiment: its detectors, from the evidence."""

from __future__ import annotations

from autointerp.agent.arguments import Detectors
from autointerp.agent.plain import Plain, number
from autointerp.agent.subject import Subject

N_SHOWN = 12


def detectors(subject: Subject, asked: Detectors) -> Plain:
    """Those that fire first, then by percentile; values that are not defined are counted."""
    wanted = [r for r in subject.evidence.readings if asked.data in ("all", r.data)]
    defined = [r for r in wanted if r.value == r.value]
    order = sorted(defined, key=lambda r: (not r.fires, -_known(r.percentile), r.name, r.data))
    return {
        "columns": ["name", "data", "value", "percentile", "null_max", "fires"],
        "detectors": [
            [r.name, r.data, number(r.value), number(r.percentile), number(r.null_max), r.fires]
            for r in order[:N_SHOWN]
        ],
        "not_shown": max(0, len(order) - N_SHOWN),
        "undefined": len(wanted) - len(defined),
    }


def _known(value: float) -> float:
    return value if value == value else -1.0
