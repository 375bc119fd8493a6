"""The three questions of the loop: other hypotheses, experiments, a revision. One closed schema and one template each.

1. The prompt holds the evidence, what was tried so far and the rules of the step, all as JSON in marked blocks. Where
   experiments stand in it, the evidence is brief. It has the room of all prompts of the run, and is cut until it fits:
   examples first, then the numbers of earlier rounds, then measurements; what is left of all only where the server
   could not read it.
2. The reply follows the schema as strictly as the server can. Experiments may also come as calls of tools, where the
   server has them (`tool_calls`): their schemas are the same, and so is what becomes of a call. They are read one by
   one: a request that is none stays in the answer as one that was refused, since a repair would cost a call and teach
   nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from autointerp.agent.allowance import CountedChat, LoopChat
from autointerp.agent.claims import MAX_CLAIMS, Claim, ClaimForm, read_claims
from autointerp.agent.kind import E, LoopKind, few_examples
from autointerp.agent.portion import Portion
from autointerp.agent.spec import LoopSpec
from autointerp.agent.tool_calls import Called, Calls, ask_by_tools, with_tools
from autointerp.agent.tool_schemas import bare, closed, tool_specs
from autointerp.agent.view import DETAILS
from autointerp.llm import (
    CONTEXT,
    Answer,
    Capabilities,
    ChatRequest,
    PromptRoom,
    Room,
    Usage,
    ask,
    estimate_prompt,
    json_objects,
)
from autointerp.prompting import Prompt, Templates
from autointerp.records import Failure, Unit

THOUGHT = 400
REPAIRS = 1  # a further one would cost as much as the next step
CALL = (
    "Call the functions that come with this request in place of writing the JSON object: one call for each experiment, "
    "at most {most}. Write what you want to find out as text beside the calls."
)
T = TypeVar("T")
Plain = dict[str, Any]


@dataclass(frozen=True)
class Step(Generic[T]):
    """One question: its template, the schema of the reply, how the reply is read, and how calls of tools answer it;
    `brief`: whether what experiments show takes the place of most of the evidence."""

    template: str
    schema: Plain
    read: Callable[[Plain], T]
    max_tokens: int
    calls: Calls[T] | None = None
    brief: bool = True

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


def hypotheses_step(kind: LoopKind[Any], most: int) -> Step[tuple[Claim, ...]]:
    """Other hypotheses than the first one."""
    items = {"type": "array", "items": kind.form.schema, "minItems": 1, "maxItems": most}
    schema, name = closed({"hypotheses": items}), kind.template("hypotheses")
    size = kind.form.reply_tokens[0] * most
    return Step(name, schema, lambda r: _read_hypotheses(r, most, kind.form), size, brief=False)


def experiments_step(kind: LoopKind[Any], most: int, *, by_tools: bool = False) -> Step[Asked]:
    """Experiments on the model; `by_tools` asks for them as calls of the server's own tools."""
    choices = [
        closed({"tool": {"type": "string", "enum": [t.name]}, "arguments": bare(t.schema)})
        for t in kind.tools.tools.values()
    ]
    items = {"type": "array", "items": {"anyOf": choices}, "minItems": 1, "maxItems": most}
    schema = closed({"thought": _thought(), "experiments": items})
    calls = Calls(tool_specs(kind.tools), CALL.format(most=most), _read_calls) if by_tools else None
    return Step(kind.template("experiments"), schema, _read_experiments, 900, calls)


def revision_step(kind: LoopKind[Any]) -> Step[Revised]:
    """What the unit does after all."""
    claims = {"type": "array", "items": kind.form.schema, "maxItems": MAX_CLAIMS}
    schema = closed({"thought": _thought(), "claims": claims, "abstain": {"type": "boolean"}})
    return Step(kind.template("revision"), schema, lambda r: _read_revision(r, kind.form), kind.form.reply_tokens[1])


def steps_of(kind: LoopKind[Any], spec: LoopSpec) -> list[tuple[Step[Any], int]]:
    """The steps of a whole loop, and how often each is asked at most."""
    if not spec.rounds:
        return []
    first: list[tuple[Step[Any], int]] = [(hypotheses_step(kind, spec.k - 1), 1)] if spec.k > 1 else []
    return [*first, (experiments_step(kind, spec.experiments), spec.rounds), (revision_step(kind), spec.rounds)]


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What a step brought, and what it cost."""

    answer: Answer[T] | Failure
    usage: Usage
    note: str = ""


@dataclass(frozen=True)
class Material(Generic[E]):
    """What a prompt is made of: the evidence, what was tried so far in a given detail, and the values of its step."""

    kind: LoopKind[E]
    evidence: E
    history: Callable[[int], Plain]
    more: Plain


@dataclass(frozen=True)
class StepAsker:
    """Asks the questions of one run; all settings change replies. `room`: of all prompts of the run."""

    chat: LoopChat
    capabilities: Capabilities
    templates: Templates
    temperature: float
    seed: int
    room: PromptRoom
    instruction: str = ""

    async def ask(self, step: Step[T], material: Material[Any]) -> Reply[T]:
        """A checked answer or a Failure. Raises AllowanceSpent, BudgetExceeded or ServerError."""
        paid, note = Usage(), ""
        while True:
            tried = self.room.step
            reply = await self._once(step, material)
            paid, note = paid + reply.usage, note or reply.note
            too_long = isinstance(reply.answer, Failure) and reply.answer.stage == CONTEXT
            if not too_long or not self.room.refused(tried):
                return Reply(reply.answer, paid, note)
            step = replace(step, calls=None) if note else step

    async def _once(self, step: Step[T], material: Material[Any]) -> Reply[T]:
        """By tools where the step has some, and in the JSON protocol where that gave nothing."""
        request = self._fitting(step, material)
        if isinstance(request, Failure):
            return Reply(request, Usage())
        if step.calls is None:
            return await self._as_json(step, request)
        called: Called[T] = await ask_by_tools(self.chat, request, step.calls, step.read, self.capabilities)
        if called.answer is not None:
            return Reply(called.answer, called.usage, called.note)
        reply = await self._once(replace(step, calls=None), material)
        return Reply(called.then(reply.answer), called.usage + reply.usage, called.note)

    async def _as_json(self, step: Step[T], request: ChatRequest) -> Reply[T]:
        chat = CountedChat(self.chat)
        answer = await ask(chat, request, step.read, self._repair, self.capabilities, repairs=REPAIRS)
        return Reply(answer, chat.usage)

    def _request(self, step: Step[T], prompt: Prompt, unit: Unit) -> ChatRequest:
        return ChatRequest(
            messages=prompt.messages,
            json_schema=step.schema,
            schema_name=step.template,
            max_tokens=step.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            purpose=step.purpose,
            unit=str(unit),
            template_hash=prompt.template_hash,
        )

    def _repair(self, reason: str) -> str:
        return self.templates.render("repair", {"reason": reason}).messages[-1]["content"]

    def _fitting(self, step: Step[T], material: Material[Any]) -> ChatRequest | Failure:
        """The request with as much of evidence and history as there is room for."""
        room, shown = self.room.of(step.max_tokens), Portion(material.evidence, DETAILS)
        if step.brief:
            shown = replace(shown, evidence=few_examples(material.evidence))
        more = {**material.more, "tools": []} if step.calls is not None else material.more  # sent beside the prompt
        while True:
            values = {
                "evidence": shown.view(material.kind.brief if step.brief else material.kind.view),
                "history": material.history(shown.detail),
                "labels": list(material.kind.form.labels),
                "instruction": self.instruction,
                **more,
            }
            prompt = self.templates.render(step.template, values)
            request = self._request(step, prompt, material.kind.unit(material.evidence))
            if self._size(request, step, room) <= (room.wanted if shown.spare else room.limit):
                return request
            less = shown.less()
            if less is None:
                reason = f"the prompt of {step.template} does not fit {room.limit} tokens"
                return Failure(stage=CONTEXT, reason=f"{reason}. Give the server more context.")
            shown = less

    def _size(self, request: ChatRequest, step: Step[T], room: Room) -> int:
        """Of the longer form, where tools may be called: the same prompt may be asked without them."""
        by_tools = 0 if step.calls is None else estimate_prompt(with_tools(request, step.calls))
        return max(room.size(request), by_tools)


def _thought() -> Plain:
    return {"type": "string", "maxLength": THOUGHT}


def _read_thought(reply: Plain) -> str:
    said = reply.get("thought", "")
    return said[:THOUGHT] if isinstance(said, str) else ""


def _read_hypotheses(reply: Plain, most: int, form: ClaimForm) -> tuple[Claim, ...]:
    return read_claims(reply.get("hypotheses"), most, "hypotheses", form)


def _read_experiments(reply: Plain) -> Asked:
    listed = reply.get("experiments")
    if not isinstance(listed, list):
        raise ValueError(f"experiments must be a list, not {type(listed).__name__}")
    return Asked(_read_thought(reply), tuple(_read_request(item) for item in listed))


def _read_calls(text: str, calls: Sequence[tuple[str, str]]) -> Asked:
    """The same of a reply that calls tools; what it thinks before its text is no thought."""
    said = text.rpartition("</think>")[2].strip()
    return Asked(said[:THOUGHT], tuple(_read_request({"tool": name, "arguments": given}) for name, given in calls))


def _read_request(item: object) -> tuple[object, object]:
    """Tool and arguments; calls of tools have arguments as a text."""
    if not isinstance(item, Mapping):
        return None, item
    name, arguments = item.get("tool", item.get("name")), item.get("arguments", {})
    if isinstance(arguments, str):
        found = next(json_objects(arguments), None) if arguments.strip() else {}
        return name, "text that is no JSON" if found is None else found
    return name, arguments


def _read_revision(reply: Plain, form: ClaimForm) -> Revised:
    abstain = reply.get("abstain", False)
    if not isinstance(abstain, bool):
        raise ValueError("abstain must be true or false")
    claims = () if abstain and not reply.get("claims") else read_claims(reply.get("claims"), MAX_CLAIMS, "claims", form)
    described = tuple(claim for claim in claims if not claim.description.abstained)
    return Revised(_read_thought(reply), described, abstain or (bool(claims) and not described))
