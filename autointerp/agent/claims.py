"""What a language model claims of a head in the loop: read from a reply, and several claims put together as one.

A claim is a description with a predicate, or with the reason why it has none. A predicate that does not parse is left
out, and what is wrong with it is the reason: the next prompt shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.errors import PredicateError
from autointerp.explain.language import plain_description
from autointerp.predicate import parse
from autointerp.records import LABELS, Description

MAX_CLAIMS, MAX_PREDICATE, MAX_REASON = 3, 400, 200


def _text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


CLAIM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "looks_at": _text(400),
        "writes": _text(400),
        "label": {"type": "string", "enum": list(LABELS)},
        "predicate": _text(MAX_PREDICATE),
        "no_predicate": _text(MAX_REASON),
        "domain": {"type": "string", "enum": ["text", "repeats"]},
        "conditions": _text(300),
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": [
        "looks_at", "writes", "label", "predicate", "no_predicate", "domain", "conditions", "confidence",
    ],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A description without a score yet."""

    description: Description
    no_predicate: str = ""


def read_claims(value: object, most: int, what: str) -> tuple[Claim, ...]:
    """At most `most` claims of a reply's list; what is over that is left out. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")
    return tuple(_read_claim(item, what) for item in value[:most])


def _read_claim(value: object, what: str) -> Claim:
    if not isinstance(value, Mapping):
        raise ValueError(f"every one of {what} must be an object, not {type(value).__name__}")
    fields = dict(value)
    description = plain_description(
        {**fields, "summary": _summary(fields), "unclear": fields.get("label") == "unclear"}
    )
    predicate, reason = fields.get("predicate", ""), fields.get("no_predicate", "")
    if not isinstance(predicate, str) or not isinstance(reason, str):
        raise ValueError("predicate and no_predicate must be strings")
    if description.abstained or not predicate.strip():
        return Claim(description, reason[:MAX_REASON] or "no reason was given")
    why_not = predicate_fault(predicate.strip())
    if why_not:
        return Claim(description, why_not)
    return Claim(description.model_copy(update={"predicate": predicate.strip()}))


def predicate_fault(predicate: str) -> str:
    """What is wrong with a predicate; empty where it parses."""
    if len(predicate) > MAX_PREDICATE:
        return f"the predicate has {len(predicate)} characters; at most {MAX_PREDICATE}"
    try:
        parse(predicate)
    except PredicateError as error:
        return f"the predicate {predicate[:80]!r} is not valid: {error}"[:MAX_REASON]
    return ""


def _summary(fields: Mapping[str, Any]) -> str:
    said = (fields.get(name, "") for name in ("looks_at", "writes"))
    return " ".join(part.strip() for part in said if isinstance(part, str) and part.strip())[:600]


def together(claims: Sequence[Description]) -> Description:
    """Several claims of one head as one description: numbered texts, all labels, one predicate that holds where any
    of theirs does. Claims about the other domain stay in the text, and so do those whose rule makes it too long."""
    if len(claims) == 1:
        return claims[0]
    first = claims[0]
    rule = ""
    for claim in claims:
        if claim.predicate is None or claim.domain != first.domain:
            continue
        longer = f"({rule}) or ({claim.predicate})" if rule else claim.predicate
        rule = longer if not predicate_fault(longer) else rule
    labels = dict.fromkeys(label for claim in claims for label in (claim.label, *claim.labels))
    return Description(
        summary=_numbered([c.summary for c in claims]),
        looks_at=_numbered([c.looks_at for c in claims]),
        writes=_numbered([c.writes for c in claims]),
        label=first.label,
        labels=tuple(labels),
        predicate=rule or None,
        domain=first.domain,
        conditions=_numbered([c.conditions for c in claims]),
        confidence=min(c.confidence for c in claims),
    )


def _numbered(texts: Sequence[str]) -> str:
    given = [text for text in dict.fromkeys(texts) if text.strip()]
    return given[0] if len(given) == 1 else " ".join(f"{n}. {text}" for n, text in enumerate(given, 1))
