"""Neurons and latents, as the loop knows them."""

from __future__ import annotations

from typing import Any

from autointerp.agent.claims import ClaimForm, text_field
from autointerp.agent.feature_tools import FEATURE_TOOLS
from autointerp.agent.kind import LoopKind
from autointerp.agent.standing import ENOUGH
from autointerp.explain.feature_language import feature_description, tokens_schema
from autointerp.explain.feature_view import feature_view
from autointerp.feature_records import FEATURE_LABELS, FeatureEvidence
from autointerp.predicate import parse_positional
from autointerp.records import Description

COST = 1_500_000  # rows are read for many units at once: most of it is fed once and not for each
Plain = dict[str, Any]

FEATURE_CLAIMS = ClaimForm(
    sides=("activates_on", "does"),
    more={"raises": tokens_schema(), "lowers": tokens_schema(), "conditions": text_field(200)},
    labels=FEATURE_LABELS,
    describe=feature_description,
    parse=parse_positional,
    shown=lambda description: {"raises": list(description.raises), "lowers": list(description.lowers)},
    reply_tokens=(700, 1_800),  # with two lists of tokens each
)


def _to_score(description: Description) -> Plain:
    return {"predicate": description.predicate}


FEATURES: LoopKind[FeatureEvidence] = LoopKind(
    FEATURE_TOOLS, FEATURE_CLAIMS, lambda evidence: evidence.unit, feature_view, _to_score, COST, "_feature", ENOUGH
)
