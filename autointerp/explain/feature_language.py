"""The LLM explainer of neurons and latents: what it is shown and asked, and how its reply becomes a description."""

from __future__ import annotations

from typing import Any

from autointerp.explain.asked import (
    ExplainTask,
    LanguageSettings,
    TaskExplainer,
    confidence_of,
    label_of,
    string_of,
    task_prompt,
    text_schema,
    unclear_of,
)
from autointerp.explain.feature_detectors import undescribed
from autointerp.explain.feature_view import feature_view
from autointerp.explain.outcome import Explanation
from autointerp.feature_records import FEATURE_LABELS, FeatureEvidence
from autointerp.llm import Room
from autointerp.predicate import parse_positional
from autointerp.prompting import Prompt, Templates
from autointerp.records import Description, Provenance

MOST_TOKENS, LONGEST_TOKEN = 10, 30


def tokens_schema() -> dict[str, Any]:
    """The schema of a list of tokens."""
    return {"type": "array", "items": text_schema(LONGEST_TOKEN), "maxItems": MOST_TOKENS}


FEATURE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "activates_on": text_schema(400),
        "does": text_schema(300),
        "summary": text_schema(300),
        "label": {"type": "string", "enum": list(FEATURE_LABELS)},
        "predicate": text_schema(400),
        "raises": tokens_schema(),
        "lowers": tokens_schema(),
        "conditions": text_schema(200),
        "counterexamples": text_schema(200),
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        "unclear": {"type": "boolean"},
    },
    "required": [
        "activates_on", "does", "summary", "label", "predicate", "raises", "lowers", "conditions", "counterexamples",
        "confidence", "unclear",
    ],
    "additionalProperties": False,
}  # fmt: skip


def feature_prompt(
    evidence: FeatureEvidence, templates: Templates, settings: LanguageSettings, room: Room | None = None
) -> tuple[Prompt, tuple[str, ...]]:
    """The exact prompt for a unit's evidence, and notes on what was dropped to fit `room`.

    Raises BadInput if it does not fit even without examples.
    """
    return task_prompt(FEATURES, evidence, templates, settings, room or Room())


def feature_description(reply: dict[str, Any]) -> Description:
    """The fields of a reply but the predicate, checked. Raises ValueError with what to correct."""
    label, unclear = label_of(reply, FEATURE_LABELS), unclear_of(reply)
    activates_on = string_of(reply, "activates_on", 600)
    if not unclear and not activates_on.strip():
        raise ValueError("activates_on is empty: say what activates the unit, or set unclear to true")
    return Description(
        summary=string_of(reply, "summary", 600),
        looks_at=activates_on,
        writes=string_of(reply, "does", 600),
        label="unclear" if unclear else label,
        labels=(label,),
        conditions=string_of(reply, "conditions", 600),
        counterexamples=string_of(reply, "counterexamples", 600),
        confidence=confidence_of(reply),
        abstained=unclear or label == "unclear",
        raises=_tokens(reply, "raises"),
        lowers=_tokens(reply, "lowers"),
    )


def _tokens(reply: dict[str, Any], name: str) -> tuple[str, ...]:
    """A list of tokens, each once, the empty ones left out; what is beyond the limit of the schema is not read."""
    value = reply.get(name, [])
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise ValueError(f"{name} must be a list of strings, the tokens")
    tokens = [token[:LONGEST_TOKEN] for token in value if token]
    return tuple(dict.fromkeys(tokens))[:MOST_TOKENS]


FEATURES: ExplainTask[FeatureEvidence] = ExplainTask(
    template="explain_feature",
    schema_name="feature_description",
    schema=FEATURE_SCHEMA,
    labels=FEATURE_LABELS,
    view=feature_view,
    describe=feature_description,
    parse=parse_positional,
    unit=lambda evidence: evidence.unit,
)


class FeatureLanguageExplainer(TaskExplainer[FeatureEvidence]):
    """Asks an OpenAI-compatible model to describe a neuron or a latent; dead and dense ones cost no call."""

    _task = FEATURES

    async def explain(self, evidence: FeatureEvidence) -> Explanation:
        resting = undescribed(evidence)
        if resting is not None:
            return Explanation(outcome=resting, provenance=Provenance(explainer="llm"))
        return await super().explain(evidence)
