"""The LLM explainer of any kind of unit: evidence rendered into a prompt, a reply checked into a description.

1. The evidence is rendered blind; examples are dropped (quantile, random, contrast, top) until the prompt fits. Where
   not even a few are left, measurements are shortened too (`brief`), and the rest of the room is for examples.
2. The reply must follow the schema, its label must be known, its predicate must parse; at most two repairs.
3. If only the predicate is wrong after the repairs, the description stands without one, and that is recorded.

What differs between heads and features is an `ExplainTask`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from autointerp.errors import BadInput, PredicateError
from autointerp.explain.brief import brief_view
from autointerp.explain.fitting import Sized, first_fitting
from autointerp.explain.outcome import Explanation
from autointerp.explain.view import fewer_and_fewer
from autointerp.feature_records import FeatureEvidence
from autointerp.llm import (
    CONTEXT,
    Answer,
    Capabilities,
    ChatModel,
    ChatRequest,
    PromptRoom,
    Room,
    ask,
)
from autointerp.predicate import Predicate
from autointerp.prompting import Prompt, Templates
from autointerp.records import Description, Evidence, Failure, Provenance, Unit

FEW_EXAMPLES = 6  # of a prompt that is longer than wanted and still fits
REPAIR = "repair"
REPAIRS = 2
USED_UP = "no valid reply after"  # how `ask` begins the reason of a failure that had all its replies

E = TypeVar("E", Evidence, FeatureEvidence)
Plain = dict[str, Any]


def text_schema(limit: int) -> dict[str, Any]:
    """A string of at most `limit` characters in a schema."""
    return {"type": "string", "maxLength": limit}


@dataclass(frozen=True)
class ExplainTask(Generic[E]):
    """What is asked about one kind of unit: the template with its view of the evidence, and how replies are read."""

    template: str
    schema_name: str
    schema: Mapping[str, Any]
    labels: tuple[str, ...]
    view: Callable[[E, tuple[Any, ...]], dict[str, Any]]  # the evidence with these of its examples
    describe: Callable[[dict[str, Any]], Description]  # a reply without its predicate; ValueError says what is wrong
    parse: Callable[[str], Predicate]
    unit: Callable[[E], Unit]


@dataclass(frozen=True)
class LanguageSettings:
    """How the LLM is asked; all of it changes replies."""

    max_tokens: int = 700
    temperature: float = 0.0
    seed: int | None = 0
    instruction: str = ""


def task_prompt(
    task: ExplainTask[E], evidence: E, templates: Templates, settings: LanguageSettings, room: Room
) -> tuple[Prompt, tuple[str, ...]]:
    """The exact prompt for `evidence`, and notes on what was left out to fit `room`.

    Raises BadInput if it does not fit even without examples.
    """

    def made(view: Callable[[Plain], Plain], examples: tuple[Any, ...]) -> Sized:
        values = {
            "evidence": view(task.view(evidence, examples)),
            "labels": list(task.labels),
            "instruction": settings.instruction,
        }
        prompt = templates.render(task.template, values)
        size = room.size(ChatRequest(messages=prompt.messages, json_schema=dict(task.schema)))
        return Sized(prompt, size, size <= (room.wanted if len(examples) > FEW_EXAMPLES else room.limit))

    for view, fewest in ((_whole, FEW_EXAMPLES), (brief_view, 0)):
        found = first_fitting(fewer_and_fewer(evidence.examples, fewest), partial(made, view))
        if found is not None:
            prompt, dropped = found
            return prompt, _left_out(dropped, room, brief=view is brief_view)
    raise BadInput(
        f"the prompt needs about {made(brief_view, ()).size} tokens without any example, but only {room.limit} fit the "
        "server's context. Start the server with a larger context."
    )


def _whole(view: Plain) -> Plain:
    return view


def _left_out(examples: int, room: Room, *, brief: bool) -> tuple[str, ...]:
    """What prompts of units say of themselves where something is left out."""
    if not examples and not brief:
        return ()
    note = f"{examples} examples left out to fit {room.wanted} tokens"
    return (f"{note}; measurements shortened" if brief else note,)


class TaskExplainer(Generic[E]):
    """Asks an OpenAI-compatible model to describe a unit; subclasses say which task."""

    _task: ExplainTask[E]

    def __init__(
        self,
        chat: ChatModel,
        capabilities: Capabilities,
        templates: Templates,
        settings: LanguageSettings,
        repeats: Mapping[Any, int] | None = None,
        room: PromptRoom | None = None,
    ) -> None:
        """`repeats`: how often a unit's replies were used up without a valid one; it is asked afresh then. `room`: of
        the run, where others ask too."""
        self._chat, self._capabilities = chat, capabilities
        self._room = room or PromptRoom(capabilities)
        self._templates, self._settings = templates, settings
        self._repeats: Mapping[Any, int] = repeats or {}

    async def explain(self, evidence: E) -> Explanation:
        while True:
            step = self._room.step
            try:
                room = self._room.of(self._settings.max_tokens)
                prompt, notes = task_prompt(self._task, evidence, self._templates, self._settings, room)
            except BadInput as error:
                failure = Failure(stage="explain", reason=str(error))
                return Explanation(outcome=failure, provenance=Provenance(explainer="llm"))
            reader = _ReplyReader(self._task.describe, self._task.parse)
            answer = await self._ask(prompt, evidence, reader)
            too_long = isinstance(answer, Failure) and answer.stage == CONTEXT
            if not too_long or not self._room.refused(step):
                break
        dropped = tuple(Failure(stage="examples", reason=note) for note in notes)
        if isinstance(answer, Failure):
            return self._failed(answer, reader, prompt, dropped)
        provenance = self._provenance(prompt, answer)
        return Explanation(outcome=answer.value, provenance=provenance, failures=dropped)

    async def _ask(self, prompt: Prompt, evidence: E, reader: _ReplyReader) -> Answer[Description] | Failure:
        return await ask(
            self._chat,
            self._request(prompt, self._task.unit(evidence)),
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

    def _request(self, prompt: Prompt, unit: Unit) -> ChatRequest:
        repeat, seed = self._repeats.get(unit, 0), self._settings.seed
        return ChatRequest(
            messages=prompt.messages,
            json_schema=dict(self._task.schema),
            schema_name=self._task.schema_name,
            max_tokens=self._settings.max_tokens,
            temperature=self._settings.temperature,
            seed=None if seed is None else seed + repeat,
            repeat=repeat,
            purpose="explain",
            unit=str(unit),
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

    def __init__(self, describe: Callable[[dict[str, Any]], Description], parse: Callable[[str], Predicate]) -> None:
        self._describe, self._parse = describe, parse
        self.without_predicate: Description | None = None

    def read(self, reply: dict[str, Any]) -> Description:
        """A description, or ValueError with what to correct."""
        description = self._describe(reply)
        predicate = string_of(reply, "predicate", 400).strip()
        if description.abstained or not predicate:
            return description
        try:
            self._parse(predicate)
        except PredicateError as error:
            self.without_predicate = description
            raise ValueError(f"the predicate {predicate!r} is not valid: {error}") from None
        return description.model_copy(update={"predicate": predicate})


def string_of(reply: dict[str, Any], name: str, limit: int) -> str:
    """A text field of a reply, empty where it is missing. Raises ValueError with what to correct."""
    value = reply.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"{name} has {len(value)} characters; use at most {limit}")
    return value


def label_of(reply: dict[str, Any], labels: tuple[str, ...]) -> str:
    """The label of a reply. Raises ValueError with what to correct."""
    label = string_of(reply, "label", 40)
    if label not in labels:
        raise ValueError(f"label {label!r} is not one of {', '.join(labels)}")
    return label


def unclear_of(reply: dict[str, Any]) -> bool:
    """Whether a reply abstains. Raises ValueError with what to correct."""
    unclear = reply.get("unclear", False)
    if not isinstance(unclear, bool):
        raise ValueError("unclear must be true or false")
    return unclear


def confidence_of(reply: dict[str, Any]) -> float:
    """The confidence of a reply, from 0 to 1. Raises ValueError with what to correct."""
    confidence = reply.get("confidence", 0)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 100:
        raise ValueError(f"confidence {confidence!r} is not a number from 0 to 100")
    return round(confidence / 100, 4)
