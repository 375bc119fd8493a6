"""The LLM explainer: evidence rendered into a prompt, a structured reply checked into a description.

1. The evidence is rendered blind; examples are dropped (quantile, random, contrast, top) until the prompt fits.
2. The reply must follow the schema, its label must be known, its predicate must parse; at most two repairs.
3. If only the predicate is wrong after the repairs, the description stands without one, and that is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autointerp.errors import BadInput, PredicateError
from autointerp.explain.outcome import Explanation
from autointerp.explain.view import drop_examples, evidence_view
from autointerp.llm import CONTEXT, Answer, Capabilities, ChatModel, ChatRequest, ask, estimate_prompt
from autointerp.predicate import parse
from autointerp.prompting import Prompt, Templates
from autointerp.records import LABELS, Description, Evidence, Failure, Head, Provenance

MAX_PROMPT_TOKENS = 8_000
SHRINKS, SHRINK = 6, 0.6  # how often, and to what, a prompt that the server finds too long is cut
TEMPLATE, REPAIR = "explain", "repair"
REPAIRS = 2
USED_UP = "no valid reply after"  # how `ask` begins the reason of a failure that had all its replies


def _text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "looks_at": _text(400),
        "writes": _text(400),
        "summary": _text(400),
        "label": {"type": "string", "enum": list(LABELS)},
        "predicate": _text(400),
        "domain": {"type": "string", "enum": ["text", "repeats"]},
        "conditions": _text(300),
        "counterexamples": _text(300),
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        "unclear": {"type": "boolean"},
    },
    "required": [
        "looks_at", "writes", "summary", "label", "predicate", "domain", "conditions", "counterexamples",
        "confidence", "unclear",
    ],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class LanguageSettings:
    """How the LLM is asked; all of it changes replies."""

    max_tokens: int = 700
    temperature: float = 0.0
    seed: int | None = 0
    instruction: str = ""


def explain_prompt(
    evidence: Evidence, templates: Templates, settings: LanguageSettings, context: int | None = None
) -> tuple[Prompt, tuple[str, ...]]:
    """The exact prompt for `evidence`, and notes on what was dropped to fit `context` tokens.

    Raises BadInput if it does not fit even without examples.
    """
    limit = min(MAX_PROMPT_TOKENS, (context or 1 << 30) - settings.max_tokens - 64)
    examples = evidence.examples
    while True:
        values = {
            "evidence": evidence_view(evidence, examples),
            "labels": list(LABELS),
            "instruction": settings.instruction,
        }
        prompt = templates.render(TEMPLATE, values)
        # Some servers get the schema in the prompt, others turn it into one.
        size = estimate_prompt(ChatRequest(messages=prompt.messages, json_schema=SCHEMA))
        dropped = len(evidence.examples) - len(examples)
        if size <= limit:
            return prompt, (f"{dropped} examples left out to fit {limit} tokens",) if dropped else ()
        if not examples:
            raise BadInput(
                f"the prompt needs about {size} tokens without any example, but only {limit} fit the server's context. "
                "Start the server with a larger context."
            )
        examples = drop_examples(examples)


class LanguageExplainer:
    """Asks an OpenAI-compatible model to describe a head."""

    def __init__(
        self,
        chat: ChatModel,
        capabilities: Capabilities,
        templates: Templates,
        settings: LanguageSettings,
        repeats: Mapping[Head, int] | None = None,
    ) -> None:
        """`repeats`: how often a head's replies were used up without a valid one; it is asked afresh then."""
        self._chat, self._capabilities = chat, capabilities
        self._templates, self._settings = templates, settings
        self._repeats = repeats or {}

    async def explain(self, evidence: Evidence) -> Explanation:
        context = self._capabilities.context
        for _ in range(SHRINKS):
            try:
                prompt, notes = explain_prompt(evidence, self._templates, self._settings, context)
            except BadInput as error:
                failure = Failure(stage="explain", reason=str(error))
                return Explanation(outcome=failure, provenance=Provenance(explainer="llm"))
            reader = _ReplyReader()
            answer = await self._ask(prompt, evidence, reader)
            if not isinstance(answer, Failure) or answer.stage != CONTEXT:
                break
            # Tokenizers differ: what we took for short enough was not. Nothing was answered, so nothing is lost.
            context = int(SHRINK * min(context or MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS + self._settings.max_tokens))
        dropped = tuple(Failure(stage="examples", reason=note) for note in notes)
        if isinstance(answer, Failure):
            return self._failed(answer, reader, prompt, dropped)
        provenance = self._provenance(prompt, answer)
        return Explanation(outcome=answer.value, provenance=provenance, failures=dropped)

    async def _ask(self, prompt: Prompt, evidence: Evidence, reader: _ReplyReader) -> Answer[Description] | Failure:
        return await ask(
            self._chat,
            self._request(prompt, evidence.head),
            reader.read,
            lambda reason: self._templates.render(REPAIR, {"reason": reason}).messages[-1]["content"],
            self._capabilities,
            repairs=REPAIRS,
        )

    def _failed(
        self, failure: Failure, reader: _ReplyReader, prompt: Prompt, notes: tuple[Failure, ...]
    ) -> Explanation:
        provenance = Provenance(
            explainer="llm",
            model=self._capabilities.model,
            template=prompt.name,
            template_hash=prompt.template_hash,
            prompt=prompt.messages,
            raw_replies=(failure.raw,) if failure.raw else (),
            repairs=REPAIRS if failure.reason.startswith(USED_UP) else 0,
        )
        if reader.without_predicate is None:
            return Explanation(outcome=failure, provenance=provenance, failures=notes)
        lost = Failure(stage="predicate", reason=failure.reason, raw=failure.raw[:2000])
        return Explanation(outcome=reader.without_predicate, provenance=provenance, failures=(*notes, lost))

    def _request(self, prompt: Prompt, head: Head) -> ChatRequest:
        repeat, seed = self._repeats.get(head, 0), self._settings.seed
        return ChatRequest(
            messages=prompt.messages,
            json_schema=SCHEMA,
            schema_name="description",
            max_tokens=self._settings.max_tokens,
            temperature=self._settings.temperature,
            seed=None if seed is None else seed + repeat,
            repeat=repeat,
            purpose="explain",
            unit=str(head),
            template_hash=prompt.template_hash,
        )

    def _provenance(self, prompt: Prompt, answer: Answer[Description]) -> Provenance:
        return Provenance(
            explainer="llm",
            model=answer.model,
            template=prompt.name,
            template_hash=prompt.template_hash,
            request_hashes=answer.request_hashes,
            prompt=answer.messages,
            raw_replies=answer.raw_replies,
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            repairs=answer.repairs,
        )


class _ReplyReader:
    """Checks replies; remembers the last one that lacked nothing but a valid predicate."""

    def __init__(self) -> None:
        self.without_predicate: Description | None = None

    def read(self, reply: dict[str, Any]) -> Description:
        """A description, or ValueError with what to correct."""
        description = plain_description(reply)
        predicate = _string(reply, "predicate", 400).strip()
        if description.abstained or not predicate:
            return description
        try:
            parse(predicate)
        except PredicateError as error:
            self.without_predicate = description
            raise ValueError(f"the predicate {predicate!r} is not valid: {error}") from None
        return description.model_copy(update={"predicate": predicate})


def plain_description(reply: dict[str, Any]) -> Description:
    """The fields of a reply but the predicate, checked. Raises ValueError with what to correct."""
    label = _string(reply, "label", 40)
    if label not in LABELS:
        raise ValueError(f"label {label!r} is not one of {', '.join(LABELS)}")
    unclear = reply.get("unclear", False)
    if not isinstance(unclear, bool):
        raise ValueError("unclear must be true or false")
    looks_at = _string(reply, "looks_at", 600)
    if not unclear and not looks_at.strip():
        raise ValueError("looks_at is empty: say where the head looks, or set unclear to true")
    domain = reply.get("domain", "text")
    if domain not in ("text", "repeats"):
        raise ValueError(f"domain {domain!r} is not one of text, repeats")
    confidence = reply.get("confidence", 0)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 100:
        raise ValueError(f"confidence {confidence!r} is not a number from 0 to 100")
    return Description(
        summary=_string(reply, "summary", 600),
        looks_at=looks_at,
        writes=_string(reply, "writes", 600),
        label="unclear" if unclear else label,
        labels=(label,),
        domain="repeats" if domain == "repeats" else "text",
        conditions=_string(reply, "conditions", 600),
        counterexamples=_string(reply, "counterexamples", 600),
        confidence=round(confidence / 100, 4),
        abstained=unclear or label == "unclear",
    )


def _string(reply: dict[str, Any], name: str, limit: int) -> str:
    value = reply.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"{name} has {len(value)} characters; use at most {limit}")
    return value
