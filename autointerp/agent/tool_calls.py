"""A step answered by calls of the server's own tools, and what is done where none come.

1. The prompt is that of the JSON protocol, with one sentence that asks for calls in place of the object. The tools have
   the schemas of the protocol, and no format of the text is asked for beside them.
2. The calls become what the JSON reply would have been. Nothing is checked here: the loop checks, counts and bounds
   both alike. Text beside them is the thought.
3. A reply without calls, or a refusal, ends the use of tools for the unit: the text is read as the JSON reply that it
   may be, and otherwise the step is asked again in the JSON protocol. A note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from autointerp.errors import ChatFailed, ContextOverflow
from autointerp.llm import CONTEXT, Answer, Capabilities, ChatModel, ChatReply, ChatRequest, ToolSpec, Usage
from autointerp.llm.ask import fitted
from autointerp.llm.extract import parse_reply
from autointerp.records import Failure

NO_CALLS = "the reply called no tool"
AGAIN = "; the rest of this loop is asked for JSON"
T = TypeVar("T")


@dataclass(frozen=True)
class Calls(Generic[T]):
    """How tools answer a step: the tools, the sentence that asks for calls, and how a text with calls is read (calls as
    pairs of a name and a text of arguments)."""

    tools: tuple[ToolSpec, ...]
    asks: str
    read: Callable[[str, Sequence[tuple[str, str]]], T]


@dataclass(frozen=True)
class Called(Generic[T]):
    """What came of it. `answer` None: to be asked in the JSON protocol; `note` is empty where tools were called."""

    answer: Answer[T] | Failure | None
    usage: Usage = field(default_factory=Usage)
    request_hashes: tuple[str, ...] = ()
    note: str = ""

    def then(self, answer: Answer[T] | Failure) -> Answer[T] | Failure:
        """The answer of the JSON protocol, with the requests before it; being asked again counts as a repair."""
        if isinstance(answer, Failure):
            return answer
        hashes = (*self.request_hashes, *answer.request_hashes)
        return replace(answer, request_hashes=hashes, repairs=answer.repairs + 1)


def with_tools(request: ChatRequest, calls: Calls[Any]) -> ChatRequest:
    """The same question for a server that calls tools."""
    *before, last = request.messages
    messages = (*before, {**last, "content": f"{last.get('content', '')}\n\n{calls.asks}"})
    return request.changed(messages=messages, json_schema=None, tools=calls.tools, tool_choice="required")


async def ask_by_tools(
    chat: ChatModel,
    request: ChatRequest,
    calls: Calls[T],
    read_text: Callable[[dict[str, Any]], T],
    capabilities: Capabilities,
) -> Called[T]:
    """Ask once. A prompt that does not fit is a Failure of the stage CONTEXT; BudgetExceeded and ServerError pass."""
    sent = fitted(with_tools(request, calls), capabilities)
    try:
        reply = await chat.complete(sent)
    except ContextOverflow as error:
        return Called(Failure(stage=CONTEXT, reason=str(error)))
    except ChatFailed as error:
        return Called(None, note=f"tools were refused ({str(error)[:300]}){AGAIN}")
    if reply.tool_calls:
        found = calls.read(reply.text, [(call.name, call.arguments) for call in reply.tool_calls])
        return Called(_answer(found, sent, reply), reply.usage)
    try:
        found = parse_reply(reply.text, read_text)
    except ValueError:
        return Called(None, reply.usage, (reply.request_hash,), f"{NO_CALLS}{AGAIN}")
    return Called(_answer(found, sent, reply), reply.usage, note=f"{NO_CALLS} and was read as JSON{AGAIN}")


def _answer(value: T, sent: ChatRequest, reply: ChatReply) -> Answer[T]:
    return Answer(
        value=value,
        messages=sent.messages,
        raw_replies=(reply.text,),
        request_hashes=(reply.request_hash,),
        usage=reply.usage,
        repairs=0,
        model=reply.model,
    )
