"""What is asked of a chat model and what comes back: frozen, plain, hashable into a cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from autointerp.records import Record

ReplyFormat = Literal["schema", "object", "text"]
ToolChoice = Literal["auto", "required"]


class ToolSpec(Record):
    """A function that the model may call; `parameters` is a JSON Schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


class ToolCall(Record):
    """A call as the model wrote it: `arguments` is its text, which may be no JSON, and nothing here was checked."""

    id: str = ""
    name: str
    arguments: str = ""


class ChatRequest(Record):
    """One question to a chat model.

    `schema` is a JSON Schema; `reply_format` says how it is enforced (`schema`: response_format json_schema,
    `object`: json_object, `text`: not at all). `top_logprobs` 0 means none. `repeat` is the index of a
    repeat: it changes the cache key and nothing that is sent. `purpose` and `unit` are for logs and are
    never sent. `tools` are functions that the reply may call, with `tool_choice` `required` must; nothing calls them
    but the caller.
    """

    messages: tuple[dict[str, str], ...]
    json_schema: dict[str, Any] | None = None
    schema_name: str = "reply"
    reply_format: ReplyFormat = "schema"
    max_tokens: int = 700
    temperature: float = 0.0
    seed: int | None = None
    top_logprobs: int = 0
    repeat: int = 0
    purpose: str = ""
    unit: str = ""
    template_hash: str = ""
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = "auto"

    def changed(self, **values: Any) -> ChatRequest:
        """The same request with some fields changed (validated again)."""
        return ChatRequest(**{**{name: getattr(self, name) for name in type(self).model_fields}, **values})


class Usage(Record):
    """Tokens of one reply; `estimated` where the server did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            estimated=self.estimated or other.estimated,
        )


class TokenLogprobs(Record):
    """One generated token with its most likely alternatives (token, natural log probability)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class ChatReply(Record):
    """A usable reply: a text, tool calls, or both. `seconds` and `retries` are those of the call that was answered."""

    text: str
    reasoning: str = ""
    usage: Usage = Usage()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str = ""
    seconds: float = 0.0
    retries: int = 0
    cached: bool = False
    request_hash: str = ""
    model: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class ChatModel(Protocol):
    """Anything that answers a chat request."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer, or raise.

        ChatFailed: this request got no usable reply after all retries (counted, the run goes on).
        ServerError: no request can succeed (the run ends). BudgetExceeded: nothing was sent.
        """
        ...


class Endpoint(Record):
    """Which model of which server answers; part of every cache key."""

    model: str
    base_url: str

    def hash(self, request: ChatRequest) -> str:
        """The cache key of a request to this endpoint."""
        return request_hash(request, self.model, self.base_url)


def content_hash(request: ChatRequest) -> str:
    """sha256 of all that determines a reply except who answers; recorded replies are found by it.

    Tools enter only where there are some: requests without them keep the hash that older versions gave them.
    """
    asked: Mapping[str, object] | None = None
    if request.json_schema is not None and request.reply_format != "text":
        asked = {"name": request.schema_name, "schema": request.json_schema}
        asked = asked if request.reply_format == "schema" else {}
    return _digest(
        {
            "messages": list(request.messages),
            "format": None if asked is None else [request.reply_format, asked],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "top_logprobs": request.top_logprobs,
            "repeat": request.repeat,
            **wire_tools(request),
        }
    )


def request_hash(request: ChatRequest, model: str, base_url: str) -> str:
    """sha256 of everything that determines a reply: the content, the model and the server."""
    return _digest({"request": content_hash(request), "model": model, "base_url": base_url.rstrip("/")})


def wire_format(request: ChatRequest) -> dict[str, Any] | None:
    """The `response_format` to send, or None."""
    if request.json_schema is None or request.reply_format == "text":
        return None
    if request.reply_format == "object":
        return {"type": "json_object"}
    named = {"name": request.schema_name, "schema": request.json_schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def wire_tools(request: ChatRequest) -> dict[str, Any]:
    """The fields of the body that tools add; none without tools."""
    if not request.tools:
        return {}
    tools = [{"type": "function", "function": tool.model_dump()} for tool in request.tools]
    return {"tools": tools, "tool_choice": request.tool_choice}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
