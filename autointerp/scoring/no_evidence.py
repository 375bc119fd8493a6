"""The no-evidence control: what an LLM says of a head of which it was shown nothing (scoring_validity rule 10).

One call for a run, since without evidence all heads are the same head. Its description is scored on the items of the
heads that run controls, like any other; a score that does not beat it comes from general knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autointerp.llm import Answer, ChatRequest, ask
from autointerp.records import Description, Failure
from autointerp.scoring.asking import Asker

MAX_TOKENS, LONGEST = 400, 600
FIELDS = {"looks_at": 400, "writes": 400, "conditions": 300}  # characters
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string", "maxLength": limit} for name, limit in FIELDS.items()},
    "required": list(FIELDS),
    "additionalProperties": False,
}


async def describe_without_evidence(asker: Asker, template: str = "no_evidence") -> Description | Failure:
    """A guess, or why there is none; the template says of what sort of unit. ServerError and BudgetExceeded pass
    through."""
    prompt = asker.templates.render(template, {})
    request = ChatRequest(
        messages=prompt.messages,
        json_schema=SCHEMA,
        schema_name="guess",
        max_tokens=MAX_TOKENS,
        seed=asker.seed,
        purpose="no evidence",
        template_hash=prompt.template_hash,
    )
    answer: Answer[Description] | Failure = await ask(
        asker.chat, request, _guess, asker.repair_prompt, asker.capabilities
    )
    return answer if isinstance(answer, Failure) else answer.value


def _guess(reply: Mapping[str, Any]) -> Description:
    found = {name: reply.get(name) for name in FIELDS}
    for name, value in found.items():
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
            raise ValueError(f"{name} must be a text of at most {FIELDS[name]} characters")
    said = {name: str(value) for name, value in found.items()}
    return Description(summary="a guess without evidence", label="other", **said)
