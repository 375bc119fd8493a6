"""Structured replies: JSON asked for in the strictest way the server can, checked, repaired at most twice.

Steps of `ask`: 1. the request is fitted to the server (json_schema, else json_object, else text with the
schema in the prompt; no seed or log-probabilities where there are none); 2. the reply's JSON objects are
tried with the caller's `parse`; 3. on failure the reply and the reason go back in a repair request, at most
`repairs` times; 4. then it is a `Failure`, never a half-parsed value. A server that refuses the schema
itself is asked in the next weaker way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from autointerp.errors import ChatFailed, ContextOverflow, RequestRefused
from autointerp.llm.capability import Capabilities
from autointerp.llm.extract import parse_reply
from autointerp.llm.request import ChatModel, ChatReply, ChatRequest, ReplyFormat, TokenLogprobs, Usage
from autointerp.records import Failure

CONTEXT = "context"  # stage of a Failure whose prompt was too long: a shorter one may do
RAW_KEPT = 20_000  # characters of a raw reply in a Failure
SHOWN_BACK = 4_000  # characters of a bad reply in the repair request
WEAKER: dict[ReplyFormat, ReplyFormat] = {"schema": "object", "object": "text"}

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A checked value, with the prompt that was sent and all raw replies on the way; `logprobs` are of the last."""

    value: T
    messages: tuple[dict[str, str], ...]
    raw_replies: tuple[str, ...]
    request_hashes: tuple[str, ...]
    usage: Usage
    repairs: int
    model: str
    logprobs: tuple[TokenLogprobs, ...] | None = None


async def ask(
    chat: ChatModel,
    request: ChatRequest,
    parse: Callable[[dict[str, Any]], T],
    repair_prompt: Callable[[str], str],
    capabilities: Capabilities,
    *,
    repairs: int = 2,
) -> Answer[T] | Failure:
    """Ask for a JSON object that `parse` accepts (it raises ValueError with what is wrong).

    `repair_prompt` turns that reason into the user message of a repair. A Failure has the request's purpose
    as its stage, or CONTEXT where the prompt did not fit. ServerError and BudgetExceeded pass through.
    """
    replies: list[ChatReply] = []
    reason = ""
    first = fitted(request, capabilities)
    current = first
    for turn in range(repairs + 1):
        try:
            sent, reply = await _complete(chat, current, request)
        except ContextOverflow as error:
            return _failure(request.changed(purpose=CONTEXT), str(error), replies)
        except ChatFailed as error:
            return _failure(request, str(error) if not reason else f"{error} (in a repair; before: {reason})", replies)
        first = sent if turn == 0 else first
        replies.append(reply)
        try:
            value = parse_reply(reply.text, parse)
        except ValueError as error:
            reason = _why(error, reply, current)
            current = _repair(sent, reply, repair_prompt(reason))
            continue
        return _answer(value, first.messages, replies)
    return _failure(request, f"no valid reply after {repairs} repairs: {reason}", replies)


def fitted(request: ChatRequest, capabilities: Capabilities) -> ChatRequest:
    """The request as this server can take it; use it too for requests that do not go through `ask`."""
    changes: dict[str, Any] = {}
    if not capabilities.logprobs:
        changes["top_logprobs"] = 0
    if not capabilities.seed:
        changes["seed"] = None
    if request.json_schema is not None:
        form = capabilities.reply_format
        changes |= {"reply_format": form, "messages": _with_schema(request, form)}
    return request.changed(**changes)


async def _complete(chat: ChatModel, current: ChatRequest, plain: ChatRequest) -> tuple[ChatRequest, ChatReply]:
    while True:
        try:
            return current, await chat.complete(current)
        except ContextOverflow:
            raise
        except RequestRefused as refusal:
            weaker = WEAKER.get(current.reply_format)
            about_form = any(w in str(refusal).lower() for w in ("schema", "response_format", "grammar", "json"))
            if current.json_schema is None or weaker is None or not about_form:
                raise
            base = plain if len(current.messages) <= len(plain.messages) else current
            current = current.changed(reply_format=weaker, messages=_with_schema(base, weaker))


def _with_schema(request: ChatRequest, form: ReplyFormat) -> tuple[dict[str, str], ...]:
    if form == "schema":
        return request.messages
    schema = json.dumps(request.json_schema)
    text = f"Reply with one JSON object and nothing else. It must follow this JSON Schema:\n{schema}"
    if any(text in m.get("content", "") for m in request.messages):
        return request.messages
    *before, last = request.messages
    return (*before, {**last, "content": f"{last.get('content', '')}\n\n{text}"})


def _repair(current: ChatRequest, reply: ChatReply, text: str) -> ChatRequest:
    """All so far, the bad reply and the reason: no repair is asked twice. More room for long reasoning."""
    spent = reply.finish_reason == "length" and not reply.text.strip()
    back = reply.text[:SHOWN_BACK] or "(empty)"
    messages = (
        *current.messages,
        {"role": "assistant", "content": back},
        {"role": "user", "content": text},
    )
    room = current.max_tokens * (4 if spent else 1)
    return current.changed(messages=messages, purpose="repair", max_tokens=room)


def _why(error: ValueError, reply: ChatReply, request: ChatRequest) -> str:
    if reply.finish_reason != "length":
        return str(error)[:1000]
    if not reply.text.strip():
        return f"the reply is empty: all {request.max_tokens} tokens went into reasoning; think less and answer"
    return f"the reply was cut off at {request.max_tokens} tokens; answer more shortly"


def _failure(request: ChatRequest, reason: str, replies: list[ChatReply]) -> Failure:
    raw = "\n--- next reply ---\n".join(r.text for r in replies)
    return Failure(stage=request.purpose or "chat", reason=reason, raw=raw[:RAW_KEPT])


def _answer(value: T, messages: tuple[dict[str, str], ...], replies: list[ChatReply]) -> Answer[T]:
    return Answer(
        value=value,
        messages=messages,
        raw_replies=tuple(r.text for r in replies),
        request_hashes=tuple(r.request_hash for r in replies),
        usage=_total(replies),
        repairs=len(replies) - 1,
        model=replies[-1].model,
        logprobs=replies[-1].logprobs,
    )


def _total(replies: list[ChatReply]) -> Usage:
    total = Usage()
    for reply in replies:
        total = total + reply.usage
    return total
