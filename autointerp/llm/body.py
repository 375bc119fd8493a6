"""Reads the body of a chat completion that is not to be trusted: any shape, any type, any size of nonsense.

`ChatCompletion` of the openai package is built without validation, so an HTML page comes back as a string
and a missing field as None. Here every field is checked by hand, and what is unusable becomes a `Retryable`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autointerp.errors import RequestRefused
from autointerp.llm.faults import CONTENT_ATTEMPTS, Refusal, Retryable, Secrets, judge, read_refusal
from autointerp.llm.request import ChatReply, TokenLogprobs, ToolCall, Usage

MOST_CALLS = 32  # tool calls of a reply that are kept
LONGEST_NAME = 100
LONGEST_ARGUMENTS = 20_000  # characters; what is cut is no JSON any more, and is refused by whoever reads it


def read_reply(status: int, text: str, secrets: Secrets, where: str) -> ChatReply:
    """The reply in a 200 body. Raises Retryable for rubbish, ChatFailed for a refusal of the model."""
    body = read_json(text)
    if not isinstance(body, Mapping):
        raise not_json(text)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise _no_choice(status, body, secrets, where)
    choice: Mapping[str, Any] = choices[0]
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    finish = str(choice.get("finish_reason") or "")
    content = _content(message)
    calls = _tool_calls(message.get("tool_calls"), secrets)
    if not content.strip() and not calls:
        _check_empty(message, finish, secrets)
    return ChatReply(
        text=secrets.strip(well_formed(content)),
        reasoning=secrets.strip(well_formed(_reasoning(message))),
        usage=_usage(body.get("usage")),
        logprobs=_logprobs(choice.get("logprobs")),
        finish_reason=finish[:40],
        model=str(body.get("model") or "")[:200],
        tool_calls=calls,
    )


def read_json(text: str) -> object:
    """Parsed JSON, or None where it is not JSON (nothing that a server sends can raise here)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def well_formed(text: str) -> str:
    """Lone surrogates replaced: they cannot be written to a file as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def not_json(text: str) -> Retryable:
    """The fault of a body that is not a JSON object."""
    start = text.lstrip()[:200].lower()
    html = start.startswith("<")
    kind = "an HTML page instead of JSON" if html else "a body that is not whole JSON" if start else "an empty body"
    fault = Retryable(f"the server sent {kind}", attempts=CONTENT_ATTEMPTS)
    fault.not_json = html
    return fault


def _no_choice(status: int, body: Mapping[str, Any], secrets: Secrets, where: str) -> Exception:
    if body.get("error"):
        refusal = read_refusal(_status_of(body["error"], status), body)
        if refusal.status < 400:  # a 200 that carries an error and no code may pass
            refusal = Refusal(500, refusal.message, refusal.code, refusal.kind)
        return judge(refusal, secrets, where)
    return Retryable("the reply has no choices", attempts=CONTENT_ATTEMPTS)


def _status_of(error: object, default: int) -> int:
    code = error.get("code") if isinstance(error, Mapping) else None
    try:
        number = int(code) if isinstance(code, (int, str)) else default
    except ValueError:
        return default
    return number if 400 <= number < 600 else default


def _check_empty(message: Mapping[str, Any], finish: str, secrets: Secrets) -> None:
    if message.get("refusal"):
        raise RequestRefused(f"the model refused: {secrets.clean(str(message['refusal']))}")
    if finish == "content_filter":
        raise RequestRefused("the server's content filter removed the reply")
    if finish != "length":  # all tokens went into reasoning: the caller asks again with more room
        raise Retryable("the reply has no text", attempts=CONTENT_ATTEMPTS)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _reasoning(message: Mapping[str, Any]) -> str:
    found = message.get("reasoning_content") or message.get("reasoning") or ""
    return found if isinstance(found, str) else ""


def _tool_calls(value: object, secrets: Secrets) -> tuple[ToolCall, ...]:
    """The calls that have a name, whatever their arguments are; one that was sent twice under one id counts once."""
    if not isinstance(value, list):
        return ()
    found: list[ToolCall] = []
    for entry in value:
        call = _tool_call(entry, secrets)
        if call is not None and not (call.id and call in found):
            found.append(call)
        if len(found) == MOST_CALLS:
            break
    return tuple(found)


def _tool_call(value: object, secrets: Secrets) -> ToolCall | None:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        return None
    own = value.get("id")
    arguments = _arguments(function.get("arguments"))
    return ToolCall(
        id=secrets.strip(well_formed(own))[:LONGEST_NAME] if isinstance(own, str) else "",
        name=secrets.strip(well_formed(name))[:LONGEST_NAME],
        arguments=secrets.strip(well_formed(arguments))[:LONGEST_ARGUMENTS],
    )


def _arguments(value: object) -> str:
    """As a text: some servers send the object itself, and nothing where a tool has no arguments."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value)
    except (ValueError, RecursionError):
        return "nested too deep"


def _usage(value: object) -> Usage:
    if not isinstance(value, Mapping):
        return Usage(estimated=True)
    counts = [value.get("prompt_tokens"), value.get("completion_tokens")]
    if not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c < 10**9 for c in counts):
        return Usage(estimated=True)
    return Usage(prompt_tokens=int(counts[0] or 0), completion_tokens=int(counts[1] or 0))


def _logprobs(value: object) -> tuple[TokenLogprobs, ...] | None:
    tokens = value.get("content") if isinstance(value, Mapping) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    found = tuple(_token(token) for token in tokens)
    return None if any(t is None for t in found) else tuple(t for t in found if t is not None)


def _token(value: object) -> TokenLogprobs | None:
    pair = _pair(value)
    if pair is None or not isinstance(value, Mapping):
        return None
    alternatives = value.get("top_logprobs")
    pairs = [_pair(a) for a in alternatives] if isinstance(alternatives, list) else []
    return TokenLogprobs(token=pair[0], logprob=pair[1], top=tuple(p for p in pairs if p is not None))


def _pair(value: object) -> tuple[str, float] | None:
    if not isinstance(value, Mapping):
        return None
    token, logprob = value.get("token"), value.get("logprob")
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, (int, float)):
        return None
    number = float(logprob) if abs(logprob) < 1e300 else -math.inf
    return (well_formed(token), max(number, -1e6) if not math.isnan(number) else -1e6)
