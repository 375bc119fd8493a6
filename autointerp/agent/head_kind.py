"""Heads, as the loop knows them."""

from __future__ import annotations

from typing import Any

from autointerp.agent.claims import ClaimForm, text_field
from autointerp.agent.head_tools import HEAD_TOOLS
from autointerp.agent.kind import LoopKind
from autointerp.explain.language import plain_description
from autointerp.explain.view import evidence_view
from autointerp.predicate import parse
from autointerp.records import LABELS, Description, Evidence

Plain = dict[str, Any]

HEAD_CLAIMS = ClaimForm(
    sides=("looks_at", "writes"),
    more={"domain": {"type": "string", "enum": ["text", "repeats"]}, "conditions": text_field(300)},
    labels=LABELS,
    describe=plain_description,
    parse=parse,
    shown=lambda description: {"domain": description.domain},
)


def _to_score(description: Description) -> Plain:
    return {"predicate": description.predicate, "domain": description.domain}


HEADS: LoopKind[Evidence] = LoopKind(
    HEAD_TOOLS, HEAD_CLAIMS, lambda evidence: evidence.head, evidence_view, _to_score, 500_000
)
