"""The LLM explainer of heads: what it is shown and asked, and how its reply becomes a description."""

from __future__ import annotations

from typing import Any

from autointerp.explain.asked import USED_UP as USED_UP
from autointerp.explain.asked import (
    ExplainTask,
    TaskExplainer,
    confidence_of,
    label_of,
    string_of,
    task_prompt,
    text_schema,
    unclear_of,
)
from autointerp.explain.asked import LanguageSettings as LanguageSettings
from autointerp.explain.view import evidence_view
from autointerp.llm import Room
from autointerp.predicate import parse
from autointerp.prompting import Prompt, Templates
from autointerp.records import LABELS, Description, Evidence

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "looks_at": text_schema(400),
        "writes": text_schema(400),
        "summary": text_schema(400),
        "label": {"type": "string", "enum": list(LABELS)},
        "predicate": text_schema(400),
        "domain": {"type": "string", "enum": ["text", "repeats"]},
        "conditions": text_schema(300),
        "counterexamples": text_schema(300),
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        "unclear": {"type": "boolean"},
    },
    "required": [
        "looks_at", "writes", "summary", "label", "predicate", "domain", "conditions", "counterexamples",
        "confidence", "unclear",
    ],
    "additionalProperties": False,
}  # fmt: skip


def explain_prompt(
    evidence: Evidence, templates: Templates, settings: LanguageSettings, room: Room | None = None
) -> tuple[Prompt, tuple[str, ...]]:
    """The exact prompt for a head's evidence, and notes on what was dropped to fit `room`.

    Raises BadInput if it does not fit even without examples.
    """
    return task_prompt(HEADS, evidence, templates, settings, room or Room())


def plain_description(reply: dict[str, Any]) -> Description:
    """The fields of a reply but the predicate, checked. Raises ValueError with what to correct."""
    label, unclear = label_of(reply, LABELS), unclear_of(reply)
    looks_at = string_of(reply, "looks_at", 600)
    if not unclear and not looks_at.strip():
        raise ValueError("looks_at is empty: say where the head looks, or set unclear to true")
    domain = reply.get("domain", "text")
    if domain not in ("text", "repeats"):
        raise ValueError(f"domain {domain!r} is not one of text, repeats")
    return Description(
        summary=string_of(reply, "summary", 600),
        looks_at=looks_at,
        writes=string_of(reply, "writes", 600),
        label="unclear" if unclear else label,
        labels=(label,),
        domain="repeats" if domain == "repeats" else "text",
        conditions=string_of(reply, "conditions", 600),
        counterexamples=string_of(reply, "counterexamples", 600),
        confidence=confidence_of(reply),
        abstained=unclear or label == "unclear",
    )


HEADS: ExplainTask[Evidence] = ExplainTask(
    template="explain",
    schema_name="description",
    schema=SCHEMA,
    labels=LABELS,
    view=evidence_view,
    describe=plain_description,
    parse=parse,
    unit=lambda evidence: evidence.head,
)


class LanguageExplainer(TaskExplainer[Evidence]):
    """Asks an OpenAI-compatible model to describe a head."""

    _task = HEADS
