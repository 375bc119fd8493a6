"""What a language model claims of a unit in the loop: read from a reply, and several claims put together as one.

A claim is a description with a predicate, or with the reason why it has none. A predicate that does not parse is left
out, and what is wrong with it is the reason: the next prompt shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.errors import PredicateError
from autointerp.records import Description

MAX_CLAIMS, MAX_PREDICATE, MAX_REASON = 3, 400, 200
MAX_TOKENS = 10  # that claims put together may raise, and lower
Plain = dict[str, Any]


def text_field(limit: int) -> Plain:
    """The schema of a text of at most so many characters."""
    return {"type": "string", "maxLength": limit}


@dataclass(frozen=True, eq=False)
class ClaimForm:
    """How a kind of units is claimed about.

    `sides`: what a reply calls where a unit acts and what it does · `more`: schemas of further fields · `describe`:
    checks the fields but the predicate, raises ValueError · `parse`: of predicates, raises PredicateError · `shown`:
    what prompts say of a description beside its sides, labels, conditions and predicate.
    """

    sides: tuple[str, str]
    more: Mapping[str, Plain]
    labels: tuple[str, ...]
    describe: Callable[[Plain], Description]
    parse: Callable[[str], object]
    shown: Callable[[Description], Plain]
    reply_tokens: tuple[int, int] = (500, 1_200)  # of a hypothesis, and of a whole revision

    @property
    def schema(self) -> Plain:
        """The closed JSON Schema of a claim."""
        properties: Plain = {
            **{side: text_field(400) for side in self.sides},
            "label": {"type": "string", "enum": list(self.labels)},
            "predicate": text_field(MAX_PREDICATE),
            "no_predicate": text_field(MAX_REASON),
            **self.more,
            "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        }
        required = list(properties)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def words(self, description: Description) -> dict[str, str]:
        """What a description says, by the names that replies use."""
        said = (description.looks_at, description.writes)
        return {**dict(zip(self.sides, said, strict=True)), "conditions": description.conditions}

    def fault(self, predicate: str) -> str:
        """What is wrong with a predicate; empty where it parses."""
        if len(predicate) > MAX_PREDICATE:
            return f"the predicate has {len(predicate)} characters; at most {MAX_PREDICATE}"
        try:
            self.parse(predicate)
        except PredicateError as error:
            return f"the predicate {predicate[:80]!r} is not valid: {error}"[:MAX_REASON]
        return ""


@dataclass(frozen=True)
class Claim:
    """A description without a score yet."""

    description: Description
    no_predicate: str = ""


def read_claims(value: object, most: int, what: str, form: ClaimForm) -> tuple[Claim, ...]:
    """At most `most` claims of a reply's list; what is over that is left out. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")
    return tuple(_read_claim(item, what, form) for item in value[:most])


def _read_claim(value: object, what: str, form: ClaimForm) -> Claim:
    if not isinstance(value, Mapping):
        raise ValueError(f"every one of {what} must be an object, not {type(value).__name__}")
    fields = dict(value)
    unclear = fields.get("label") == "unclear"
    description = form.describe({**fields, "summary": _summary(fields, form), "unclear": unclear})
    predicate, reason = fields.get("predicate", ""), fields.get("no_predicate", "")
    if not isinstance(predicate, str) or not isinstance(reason, str):
        raise ValueError("predicate and no_predicate must be strings")
    if description.abstained or not predicate.strip():
        return Claim(description, reason[:MAX_REASON] or "no reason was given")
    why_not = form.fault(predicate.strip())
    if why_not:
        return Claim(description, why_not)
    return Claim(description.model_copy(update={"predicate": predicate.strip()}))


def _summary(fields: Mapping[str, Any], form: ClaimForm) -> str:
    said = (fields.get(name, "") for name in form.sides)
    return " ".join(part.strip() for part in said if isinstance(part, str) and part.strip())[:600]


def together(claims: Sequence[Description], form: ClaimForm) -> Description:
    """Several claims of one unit as one description: numbered texts, all labels and tokens, one predicate that holds
    where any of theirs does. Claims about the other domain stay in the text, and so do those whose rule makes it too
    long."""
    if len(claims) == 1:
        return claims[0]
    first = claims[0]
    rule = ""
    for claim in claims:
        if claim.predicate is None or claim.domain != first.domain:
            continue
        longer = f"({rule}) or ({claim.predicate})" if rule else claim.predicate
        rule = longer if not form.fault(longer) else rule
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
        raises=_tokens([c.raises for c in claims]),
        lowers=_tokens([c.lowers for c in claims]),
    )


def _numbered(texts: Sequence[str]) -> str:
    given = [text for text in dict.fromkeys(texts) if text.strip()]
    return given[0] if len(given) == 1 else " ".join(f"{n}. {text}" for n, text in enumerate(given, 1))


def _tokens(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Tokens of all claims, the first of each before any second one."""
    most = max((len(one) for one in lists), default=0)
    return tuple(dict.fromkeys(one[n] for n in range(most) for one in lists if n < len(one)))[:MAX_TOKENS]
