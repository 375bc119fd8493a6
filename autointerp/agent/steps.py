"""The three questions of the loop: other hypotheses, experiments, a revision. One closed schema and one template each.

1. The prompt holds the evidence, what was tried so far and the rules of the step, all as JSON in marked blocks. It is
   cut until it fits: examples first, then the numbers of earlier rounds, then the rest of the examples.
2. The reply follows the schema as strictly as the server can. Experiments are read one by one: a request that is none
   stays in the answer as one that was refused, since a repair would cost a call and teach nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from autointerp.agent.allowance import LoopChat
from autointerp.agent.claims import CLAIM, MAX_CLAIMS, Claim, read_claims
from autointerp.agent.requests import TOOLS
from autointerp.agent.spec import LoopSpec
from autointerp.agent.view import DETAILS
from autointerp.explain.language import SHRINK, SHRINKS
from autointerp.explain.view import drop_examples, evidence_view
from autointerp.llm import CONTEXT, Answer, Capabilities, ChatRequest, Usage, ask, estimate_prompt
from autointerp.prompting import Prompt, Templates
from autointerp.records import LABELS, Evidence, Failure, Head

MAX_PROMPT_TOKENS = 12_000
THOUGHT = 400
FEW_EXAMPLES = 6
T = TypeVar("T")
Plain = dict[str, Any]


@dataclass(frozen=True)
class Step(Generic[T]):
    """One question: its template, the schema of the reply, and how the reply is read."""

    template: str
    schema: Plain
    read: Callable[[Plain], T]
    max_tokens: int

    @property
    def purpose(self) -> str:
        """As it stands in `calls.jsonl`."""
        return self.template.replace("_", " ")


@dataclass(frozen=True)
class Asked:
    """Experiments as a reply asks for them: names with arguments of any kind, unchecked."""

    thought: str
    requests: tuple[tuple[object, object], ...]


@dataclass(frozen=True)
class Revised:
    """What a reply claims after its experiments."""

    thought: str
    claims: tuple[Claim, ...]
    abstain: bool


def hypotheses_step(most: int) -> Step[tuple[Claim, ...]]:
    """Other hypotheses than the first one."""
    items = {"type": "array", "items": CLAIM, "minItems": 1, "maxItems": most}
    return Step("agent_hypotheses", _closed({"hypotheses": items}), lambda r: _read_hypotheses(r, most), 500 * most)


def experiments_step(most: int) -> Step[Asked]:
    """Experiments on the model."""
    choices = [
        _closed({"tool": {"type": "string", "enum": [t.name]}, "arguments": _bare(t.schema)}) for t in TOOLS.values()
    ]
    items = {"type": "array", "items": {"anyOf": choices}, "minItems": 1, "maxItems": most}
    schema = _closed({"thought": _thought(), "experiments": items})
    return Step("agent_experiments", schema, _read_experiments, 900)


def revision_step() -> Step[Revised]:
    """What the head does after all."""
    claims = {"type": "array", "items": CLAIM, "maxItems": MAX_CLAIMS}
    schema = _closed({"thought": _thought(), "claims": claims, "abstain": {"type": "boolean"}})
    return Step("agent_revision", schema, _read_revision, 1_200)


def steps_of(spec: LoopSpec) -> list[tuple[Step[Any], int]]:
    """The steps of a whole loop, and how often each is asked at most."""
    if not spec.rounds:
        return []
    first: list[tuple[Step[Any], int]] = [(hypotheses_step(spec.k - 1), 1)] if spec.k > 1 else []
    return [*first, (experiments_step(spec.experiments), spec.rounds), (revision_step(), spec.rounds)]


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What a step brought, and what it cost."""

    answer: Answer[T] | Failure
    usage: Usage


@dataclass(frozen=True)
class StepAsker:
    """Asks the questions of one run; all settings change replies."""

    chat: LoopChat
    capabilities: Capabilities
    templates: Templates
    temperature: float
    seed: int
    instruction: str = ""

    async def ask(
        self, step: Step[T], head: Head, evidence: Evidence, history: Callable[[int], Plain], more: Plain
    ) -> Reply[T]:
        """A checked answer or a Failure. Raises AllowanceSpent, BudgetExceeded or ServerError."""
        room = min(MAX_PROMPT_TOKENS, (self.capabilities.context or 1 << 30) - step.max_tokens - 64)
        for _ in range(SHRINKS):
            prompt = self._fitting(step, evidence, history, more, room)
            if isinstance(prompt, Failure):
                return Reply(prompt, Usage())
            request = self._request(step, prompt, head)
            answer = await ask(self.chat, request, step.read, self._repair, self.capabilities)
            if not isinstance(answer, Failure) or answer.stage != CONTEXT:
                break
            room = int(SHRINK * room)  # tokenizers differ: what we took for short enough was not, and nothing was paid
        return Reply(answer, answer.usage if isinstance(answer, Answer) else _guessed(request, answer))

    def _request(self, step: Step[T], prompt: Prompt, head: Head) -> ChatRequest:
        return ChatRequest(
            messages=prompt.messages,
            json_schema=step.schema,
            schema_name=step.template,
            max_tokens=step.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            purpose=step.purpose,
            unit=str(head),
            template_hash=prompt.template_hash,
        )

    def _repair(self, reason: str) -> str:
        return self.templates.render("repair", {"reason": reason}).messages[-1]["content"]

    def _fitting(
        self, step: Step[T], evidence: Evidence, history: Callable[[int], Plain], more: Plain, limit: int
    ) -> Prompt | Failure:
        examples, detail = evidence.examples, DETAILS
        while True:
            values = {
                "evidence": evidence_view(evidence, examples),
                "history": history(detail),
                "labels": list(LABELS),
                "instruction": self.instruction,
                **more,
            }
            prompt = self.templates.render(step.template, values)
            if self._size(prompt, step) <= limit:
                return prompt
            if len(examples) > FEW_EXAMPLES or (examples and detail == 0):
                examples = drop_examples(examples)
            elif detail > 0:
                detail -= 1
            else:
                reason = f"the prompt of {step.template} does not fit {limit} tokens. Give the server more context."
                return Failure(stage=CONTEXT, reason=reason)

    def _size(self, prompt: Prompt, step: Step[T]) -> int:
        # Some servers get the schema in the prompt, others turn it into one.
        return estimate_prompt(ChatRequest(messages=prompt.messages, json_schema=step.schema))


def _guessed(request: ChatRequest, failure: Failure) -> Usage:
    """What a step that failed has cost: its prompt and its replies, as far as they are known."""
    if failure.stage == CONTEXT:
        return Usage()
    replies = len(failure.raw) // 3
    return Usage(prompt_tokens=estimate_prompt(request), completion_tokens=replies, estimated=True)


def tools_shown() -> list[Plain]:
    """The experiments as a prompt lists them."""
    return [
        {"tool": tool.name, "does": tool.description, "arguments": _arguments(tool.schema)} for tool in TOOLS.values()
    ]


def _arguments(schema: Mapping[str, Any]) -> Any:
    """A schema in a few words: names with types, bounds and what they mean."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "object":
        return {name: _arguments(part) for name, part in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [_arguments(schema.get("items", {})), f"at most {schema.get('maxItems', 'a few')}"]
    default = f", default {json.dumps(schema['default'])}" if "default" in schema else ""
    longest = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
    means = f": {schema['description']}" if "description" in schema else ""
    return f"{schema.get('type', 'value')}{longest}{default}{means}"


def _bare(schema: Any) -> Any:
    """A schema without what grammars of small servers choke on: the bounds are checked when the request is read. Every
    argument is required, since some servers know no optional ones."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("type") == "object":
        properties = {name: _bare(part) for name, part in schema.get("properties", {}).items()}
        return _closed(properties)
    return {
        name: _bare(part) for name, part in schema.items() if name in ("type", "enum", "items", "anyOf", "maxItems")
    }


def _closed(properties: Plain) -> Plain:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _thought() -> Plain:
    return {"type": "string", "maxLength": THOUGHT}


def _read_thought(reply: Plain) -> str:
    said = reply.get("thought", "")
    return said[:THOUGHT] if isinstance(said, str) else ""


def _read_hypotheses(reply: Plain, most: int) -> tuple[Claim, ...]:
    return read_claims(reply.get("hypotheses"), most, "hypotheses")


def _read_experiments(reply: Plain) -> Asked:
    listed = reply.get("experiments")
    if not isinstance(listed, list):
        raise ValueError(f"experiments must be a list, not {type(listed).__name__}")
    return Asked(_read_thought(reply), tuple(_read_request(item) for item in listed))


def _read_request(item: object) -> tuple[object, object]:
    """Tool and arguments; servers with tools of their own send arguments as a text."""
    if not isinstance(item, Mapping):
        return None, item
    name, arguments = item.get("tool", item.get("name")), item.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return name, "text that is no JSON"
    return name, arguments


def _read_revision(reply: Plain) -> Revised:
    abstain = reply.get("abstain", False)
    if not isinstance(abstain, bool):
        raise ValueError("abstain must be true or false")
    claims = () if abstain and not reply.get("claims") else read_claims(reply.get("claims"), MAX_CLAIMS, "claims")
    described = tuple(claim for claim in claims if not claim.description.abstained)
    return Revised(_read_thought(reply), described, abstain or (bool(claims) and not described))
