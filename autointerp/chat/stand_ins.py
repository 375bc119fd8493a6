"""Chat models without a server: fake, scripted, recorded.

`--llm scripted:FILE` answers from JSON lines, each with a `reply` (text, or an object that is sent as JSON), a `fill`
(an object that follows the request's JSON schema is made: `first`, the first choice everywhere, or `drawn`, choices
drawn by the prompt) or a `fail` (the reason of a failed request), and optionally
- `tool_calls`: a list of calls, each with a `name` and `arguments` (an object, or the text that a model might write),
  alone or beside a `reply` text; such a line answers only requests that have tools, and a script with one has tools;
- `match`: a text that the prompt must contain; `regex`: a pattern that must be found in it;
- `purpose`: the purpose of the request (`explain`, `repair`, `pointing`, `detection`, `effect`, ...);
- `times`: how often the line may be used (default: always).
The first line that fits and is not used up answers; a request that no line fits is a failed request.

`--llm recorded:RUN` replays the replies of an earlier run: from its `calls.jsonl`, else from the request
cache beside it. What was asked decides, not who answered; a request that was never recorded is a failed one.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autointerp.errors import BadInput, ChatFailed, RequestRefused, ServerError
from autointerp.llm import (
    Capabilities,
    ChatReply,
    ChatRequest,
    Endpoint,
    TokenLogprobs,
    ToolCall,
    Usage,
    by_characters,
    content_hash,
    estimate_prompt,
    probe,
)
from autointerp.store import RequestCache, read_records

SCRIPTED = "scripted:"
RECORDED = "recorded:"
SERVER_FILE = "server.json"  # the Capabilities of a run, for its replay

Said = str | Mapping[str, Any] | ChatReply
Responder = Callable[[ChatRequest], Said]


class FakeChat:
    """Answers from a callable, or from a list in order; remembers the requests. For tests and notebooks.

    An answer is a text, an object that is sent as JSON, or a whole `ChatReply` (with log-probabilities or tool calls,
    say).
    """

    def __init__(self, replies: Responder | Sequence[Said | Exception]) -> None:
        self.requests: list[ChatRequest] = []
        self._replies = replies

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`; raises ChatFailed where the list has ended, or the listed exception."""
        self.requests.append(request)
        if callable(self._replies):
            return _as_reply(request, self._replies(request), "fake")
        if len(self.requests) > len(self._replies):
            raise ChatFailed(f"the fake chat model has only {len(self._replies)} replies. Give it more.")
        reply = self._replies[len(self.requests) - 1]
        if isinstance(reply, Exception):
            raise reply
        return _as_reply(request, reply, "fake")


class ScriptCall(BaseModel):
    """A call of a tool in a script."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: str | dict[str, Any] = ""

    @property
    def call(self) -> ToolCall:
        """The call as a server sends it."""
        said = self.arguments
        return ToolCall(name=self.name, arguments=said if isinstance(said, str) else json.dumps(said))


class ScriptLine(BaseModel):
    """A line of a script; see the top of this module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str = ""
    regex: str = ""
    purpose: str = ""
    reply: str | dict[str, Any] | None = None
    tool_calls: tuple[ScriptCall, ...] = ()
    fill: Literal["first", "drawn"] | None = None
    fail: str | None = None
    times: int | None = Field(default=None, ge=1)

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"regex {value!r}: {error}") from None
        return value

    def fits(self, request: ChatRequest) -> bool:
        """Whether this line may answer the request."""
        prompt = "\n".join(m.get("content", "") for m in request.messages)
        purpose_fits = (not self.purpose or self.purpose == request.purpose) and (not self.tool_calls or request.tools)
        return bool(purpose_fits) and self.match in prompt and re.search(self.regex, prompt, re.DOTALL) is not None


class ScriptedChat:
    """Answers from a script of JSON lines."""

    def __init__(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = f"--llm scripted:{path} could not be read ({error}). Give a UTF-8 file of JSON lines."
            raise BadInput(reason) from None
        self.endpoint = Endpoint(model="scripted", base_url=f"scripted:{hashlib.sha256(data).hexdigest()}")
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        self._lines = [_script_line(path, number, line) for number, line in lines]
        self._used = [0] * len(self._lines)

    async def capabilities(self) -> Capabilities:
        """Everything; tools where the script has calls of some."""
        return Capabilities(tools=any(line.tool_calls for line in self._lines))

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        for place, line in enumerate(self._lines):
            if (line.times is not None and self._used[place] >= line.times) or not line.fits(request):
                continue
            self._used[place] += 1
            if line.fill is not None:
                return _as_reply(request, _filled(request, line.fill), "scripted")
            if line.tool_calls:
                return _calling(request, line)
            if line.reply is None:
                raise ChatFailed(line.fail or "the script says that this request fails")
            return _as_reply(request, line.reply, "scripted")
        raise ChatFailed(f"no line of the script fits this request (purpose {request.purpose!r}). Add one.")


class RecordedChat:
    """Replays an earlier run."""

    def __init__(self, run: Path) -> None:
        if not (run / "calls.jsonl").is_file():
            raise BadInput(f"--llm recorded:{run} has no calls.jsonl. Give the folder of a run that asked an LLM.")
        self._run = run
        self._lines: dict[str, dict[str, Any]] = {}
        for line in read_records(run / "calls.jsonl"):
            key = str(line.get("content_hash"))
            if line.get("reply") is not None or key not in self._lines:
                self._lines[key] = line
        self.endpoint = Endpoint(model="recorded", base_url=f"recorded:{_digest(sorted(self._lines))}")

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        key = content_hash(request)
        line = self._lines.get(key)
        if line is not None and line.get("reply") is not None:
            return _recorded_reply(line)
        if line is not None:
            kind = RequestRefused if line.get("error_kind") == "refused" else ChatFailed
            raise kind(f"{line.get('error')} (as recorded)")
        stored = self._from_cache(key)
        if stored is None:
            raise ChatFailed(
                f"this request was never recorded in {self._run} (purpose {request.purpose!r}): "
                "replay with the settings of that run."
            )
        return stored

    async def capabilities(self) -> Capabilities:
        """What the recorded server could do: as the run saved it, else from the recorded probe."""
        path = self._run / SERVER_FILE
        if path.is_file():
            try:
                return Capabilities.model_validate_json(path.read_bytes())
            except ValidationError:
                raise BadInput(f"{path} is not as this version writes it. Record the run again.") from None
        try:
            return await probe(self)
        except ServerError:  # recorded without a probe
            return Capabilities()

    def _from_cache(self, key: str) -> ChatReply | None:
        path = self._run.parent / "requests.sqlite"
        if not path.is_file():
            return None
        with RequestCache(path) as cache:
            text = cache.by_content(key)
        return None if text is None else ChatReply.model_validate_json(text)


def _filled(request: ChatRequest, how: str) -> Mapping[str, Any] | str:
    """An object that follows the request's schema; equal prompts give equal ones."""
    if request.json_schema is None:
        return "yes"
    draw = None if how == "first" else random.Random(_digest(list(request.messages)))
    value = _value(request.json_schema, draw)
    return value if isinstance(value, dict) else json.dumps(value)


def _value(schema: Mapping[str, Any], draw: random.Random | None) -> object:
    """A value for the kinds of JSON schema that the product sends."""
    kind = schema.get("type")
    if "anyOf" in schema:
        return _value(draw.choice(schema["anyOf"]) if draw else schema["anyOf"][0], draw)
    if "enum" in schema:
        return draw.choice(schema["enum"]) if draw else schema["enum"][0]
    if kind == "object":
        return {name: _value(part, draw) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_value(schema.get("items", {}), draw) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 1)
        return draw.randint(low, high) if draw else high
    return draw is not None and draw.random() < 0.5 if kind == "boolean" else "words"[: schema.get("maxLength", 5)]


def _as_reply(request: ChatRequest, reply: Said, model: str) -> ChatReply:
    if isinstance(reply, ChatReply):
        return reply
    text = reply if isinstance(reply, str) else json.dumps(reply)
    usage = Usage(prompt_tokens=estimate_prompt(request), completion_tokens=by_characters(text), estimated=True)
    return ChatReply(text=text, usage=usage, finish_reason="stop", model=model)


def _calling(request: ChatRequest, line: ScriptLine) -> ChatReply:
    calls = tuple(entry.call for entry in line.tool_calls)
    said = _as_reply(request, line.reply or "", "scripted")
    written = by_characters(said.text + "".join(call.name + call.arguments for call in calls))
    usage = said.usage.model_copy(update={"completion_tokens": written})
    return said.model_copy(update={"tool_calls": calls, "usage": usage, "finish_reason": "tool_calls"})


def _recorded_reply(line: Mapping[str, Any]) -> ChatReply:
    logprobs = line.get("logprobs")
    try:
        return ChatReply(
            text=line["reply"],
            reasoning=line.get("reasoning") or "",
            usage=Usage(**(line.get("usage") or {})),
            logprobs=None if logprobs is None else tuple(TokenLogprobs(**entry) for entry in logprobs),
            finish_reason=line.get("finish_reason") or "",
            retries=line.get("retries") or 0,
            tool_calls=tuple(ToolCall(**entry) for entry in line.get("tool_calls") or ()),
            model="recorded",
        )
    except (ValidationError, TypeError) as error:
        raise ChatFailed(f"the recorded call {line.get('hash')} is not readable ({error})") from None


def _script_line(path: Path, number: int, line: str) -> ScriptLine:
    try:
        found = ScriptLine.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"--llm scripted:{path} line {number}: {first['msg']} ({where or 'the line'}). Correct it."
        ) from None
    said = found.reply if found.reply is not None else found.tool_calls or None
    if sum(value is not None for value in (said, found.fill, found.fail)) != 1:
        raise BadInput(f"--llm scripted:{path} line {number} needs one of reply, fill and fail. Correct it.")
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
