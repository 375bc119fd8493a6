"""What a server can do, found out with a few tiny requests.

Steps of `probe`: 1. json_schema counts only if the reply obeys a schema against the prompt's own wish (the
schema allows one nonsense word, the prompt asks for another); 2. json_object where the reply is an object;
3. a plain request with log-probabilities and a seed, twice, and once with another seed: a seed counts where
equal seeds give equal texts; 4. tools count where a reply calls the one that it was given, with arguments that
are an object; 5. how many tokens the server counts in a text like those of our prompts, against our estimate;
6. context length from whatever the server tells (vLLM, llama.cpp, LM Studio, Ollama, OpenRouter).
The requests go through the chat model given, so that they are cached and logged like
all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autointerp.errors import ChatFailed, RequestRefused, ServerError
from autointerp.llm.body import read_json
from autointerp.llm.budget import estimate_prompt
from autointerp.llm.client import Dialect, OpenAIChat
from autointerp.llm.extract import json_objects, without_reasoning
from autointerp.llm.faults import Retryable, shown_url
from autointerp.llm.request import ChatModel, ChatReply, ChatRequest, ReplyFormat, ToolSpec
from autointerp.records import Record

NONSENSE = "qvorbleth"
PROBE_VERSION = 1  # part of the key under which the findings are kept
PLAIN_TOKENS = 16
ROOMS = (64, 65, 2000)  # no request is sent twice; the last leaves room for a model that reasons first
WANTED_LOGPROBS = 5
HIGHEST_RATIO = 4.0  # no tokenizer takes more than a token for every byte or so
SAMPLE = """How many of the words below are names of animals? Reply with one number and nothing else.
{"statistics": {"mean_distance": 4.07, "share_by_distance": {"0": 0.113, "1": 0.482, "2-3": 0.206, "4-7": 0.099}},
"measurements": [{"name": "previous_word", "value": 0.482, "percentile": 97.0, "largest_in_null": 0.061},
{"name": "current_word", "value": 0.113, "percentile": 61.0, "largest_in_null": 0.087}],
"examples": [{"before": "Late in the year the otter came down to the", "dst": " harbour", "distance": 3,
"attends_to": [{"src": " otter", "share": 0.71, "flags": ["is_animal"]}], "raises": [" wall", " again", " where"]},
{"before": "Nobody (not even the captain, who was 83) saw the", "dst": " heron", "distance": 1,
"attends_to": [{"src": " captain", "share": 0.44, "flags": []}], "raises": [" fly", " rise", "'s"]}]}"""


class Capabilities(Record):
    """What a server can do; the default is a model that can do everything but call tools, and has no limits."""

    model: str = ""
    base_url: str = ""
    models: tuple[str, ...] | None = None  # None: the server lists none
    json_schema: bool = True
    json_object: bool = True
    logprobs: bool = True
    seed: bool = True
    tools: bool = False  # also where an older version looked, which did not ask
    token_ratio: float = 1.0  # tokens of the server's tokenizer for each that `estimate_prompt` counts, never below 1
    context: int | None = None
    dialect: Dialect = Dialect()
    notes: tuple[str, ...] = ()

    @property
    def reply_format(self) -> ReplyFormat:
        """The strictest way to ask for JSON."""
        return "schema" if self.json_schema else "object" if self.json_object else "text"


async def probe(chat: ChatModel) -> Capabilities:
    """What the model behind `chat` can do, from its replies alone (steps 1 to 5).

    Raises ServerError where not even a plain request is answered.
    """
    plain = await _plain(chat)
    schema = await _obeys_schema(chat)
    as_object = await _sends_object(chat)
    return Capabilities(
        json_schema=schema,
        json_object=as_object,
        logprobs=plain[0],
        seed=plain[1],
        tools=await _calls_tools(chat),
        token_ratio=await _token_ratio(chat),
        notes=tuple(plain[2]),
    )


async def describe_server(server: OpenAIChat, found: Capabilities) -> Capabilities:
    """`found` with what only the server itself can tell: name, address, models, context, dialect (step 6)."""
    try:
        models = await server.model_names()
    except Retryable:
        models = None
    context = await _context(server)
    return found.model_copy(
        update={
            "model": server.model,
            "base_url": shown_url(server.options.url),
            "models": models,
            "context": context,
            "dialect": server.dialect,
        }
    )


def capability_table(capabilities: Capabilities) -> list[tuple[str, str]]:
    """Rows of (what, found) for people."""
    c = capabilities
    models = "not listed" if c.models is None else ", ".join(c.models[:8]) + (" …" if len(c.models) > 8 else "")
    asked = {"schema": "response_format json_schema", "object": "json_object", "text": "in the prompt"}
    return [
        ("server", c.base_url),
        ("model", c.model),
        ("models", models or "none"),
        ("json_schema", "enforced" if c.json_schema else "not enforced"),
        ("json_object", "yes" if c.json_object else "no"),
        ("JSON is asked for by", asked[c.reply_format]),
        ("logprobs", "yes" if c.logprobs else "no"),
        ("seed", "honoured" if c.seed else "ignored or refused"),
        ("tool calls", "yes" if c.tools else "no: JSON replies in their place"),
        ("token limit field", c.dialect.token_field),
        ("temperature", "accepted" if c.dialect.send_temperature else "fixed by the server"),
        ("context", f"{c.context} tokens" if c.context else "not told"),
        *([("tokenizer", f"{c.token_ratio:g} times as many tokens as estimated")] if c.token_ratio > 1 else []),
        *(("note", note) for note in c.notes),
    ]


def _request(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(
        **{"messages": ({"role": "user", "content": text},), "max_tokens": 64, "purpose": "probe", **fields}
    )


async def _plain(chat: ChatModel) -> tuple[bool, bool, list[str]]:
    notes: list[str] = []
    text = "Write the first words of a story about a lighthouse."
    request = _request(text, max_tokens=PLAIN_TOKENS, temperature=1.0, seed=7, top_logprobs=WANTED_LOGPROBS)
    first = await _tried(chat, request, notes)
    if first is None:
        request = request.changed(top_logprobs=0)
        first = await _tried(chat, request, notes)
    if first is None:
        request = request.changed(seed=None)
        try:
            first = await chat.complete(request)
        except ChatFailed as error:
            raise ServerError(f"the server does not answer a plain request: {error}") from None
    logprobs = first.logprobs is not None and any(token.top for token in first.logprobs)
    if request.seed is None or not first.text.strip():
        return logprobs, False, notes
    again = await _tried(chat, request.changed(max_tokens=PLAIN_TOKENS + 1), notes)
    other = await _tried(chat, request.changed(seed=8), notes)
    return logprobs, _seeded(first, again, other), notes


def _seeded(first: ChatReply, again: ChatReply | None, other: ChatReply | None) -> bool:
    """Equal seeds give equal beginnings, and another seed another text."""
    if again is None or other is None:
        return False
    return again.text.startswith(first.text) and not other.text.startswith(first.text)


async def _obeys_schema(chat: ChatModel) -> bool:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "enum": [NONSENSE]}},
        "required": ["word"],
        "additionalProperties": False,
    }
    request = _request(
        'Reply with the JSON object {"word": "lighthouse"} and nothing else.',
        json_schema=schema,
        schema_name="probe",
    )
    # a reply may be damaged on the way, and nobody obeys by chance: one success in three is proof
    for room in ROOMS:
        reply = await _tried(chat, request.changed(max_tokens=room), [])
        if reply is None:
            return False
        if any(found == {"word": NONSENSE} for found in json_objects(reply.text)):
            return True
        if _whole_object(reply.text):
            return False
    return False


async def _sends_object(chat: ChatModel) -> bool:
    request = _request(
        'Reply with a JSON object that has one key "word" with a word as its value.',
        json_schema={"type": "object"},
        reply_format="object",
    )
    for room in ROOMS:
        reply = await _tried(chat, request.changed(max_tokens=room), [])
        if reply is None:
            return False
        if _whole_object(reply.text) or (reply.finish_reason == "length" and reply.text.lstrip().startswith("{")):
            return True
    return False


async def _calls_tools(chat: ChatModel) -> bool:
    word = {"type": "string", "enum": [NONSENSE]}
    parameters = {"type": "object", "properties": {"word": word}, "required": ["word"], "additionalProperties": False}
    tool = ToolSpec(name="note_word", description="Notes a word.", parameters=parameters)
    request = _request(f"Call note_word with the word {NONSENSE}.", tools=(tool,), tool_choice="required")
    for room in ROOMS[::2]:
        try:
            reply = await _tried(chat, request.changed(max_tokens=room), [])
        except ServerError:  # plain requests are answered: it is the tools that it cannot serve
            return False
        if reply is None:
            return False
        if any(call.name == tool.name and _whole_object(call.arguments) for call in reply.tool_calls):
            return True
        if reply.finish_reason != "length" or without_reasoning(reply.text).strip():
            return False  # more room helps only a model that is still reasoning
    return False


async def _token_ratio(chat: ChatModel) -> float:
    request = _request(SAMPLE, max_tokens=PLAIN_TOKENS)
    try:
        reply = await _tried(chat, request, [])
    except ServerError:  # plain requests are answered, so this is about this one
        return 1.0
    if reply is None or reply.usage.estimated:
        return 1.0
    return round(min(HIGHEST_RATIO, max(1.0, reply.usage.prompt_tokens / estimate_prompt(request))), 3)


def _whole_object(text: str) -> bool:
    return isinstance(read_json(text.strip()), dict)


async def _tried(chat: ChatModel, request: ChatRequest, notes: list[str]) -> ChatReply | None:
    """The reply, or None where the server refuses this kind of request or gives no usable reply to it."""
    try:
        return await chat.complete(request)
    except RequestRefused:
        return None
    except ChatFailed as error:
        notes.append(str(error))
        return None


async def _context(server: OpenAIChat) -> int | None:
    """The first context length that the server tells, in tokens."""
    root = server.options.url.removesuffix("/v1")
    asked: list[tuple[str, dict[str, str] | None]] = [(f"{root}/props", None), ("/models", None)]
    asked += [(f"{root}/api/v0/models", None), (f"{root}/api/show", {"model": server.model})]
    if root.startswith("https://api.openai.com"):
        return None
    for path, body in asked:
        try:
            found = await server.fetch(path, body)
        except (Retryable, ServerError):
            continue
        length = _context_in(found, server.model)
        if length:
            return length
    return None


def _context_in(found: object, model: str) -> int | None:
    if not isinstance(found, Mapping):
        return None
    settings = found.get("default_generation_settings")  # llama.cpp /props: what one slot really has
    if isinstance(settings, Mapping):
        return _positive(settings.get("n_ctx"))
    info = found.get("model_info")  # Ollama: of the model; what it runs with may be less
    if isinstance(info, Mapping):
        return next((_positive(v) for k, v in info.items() if str(k).endswith(".context_length")), None)
    entries = found.get("data")
    entries = [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []
    named = [e for e in entries if e.get("id") == model] or (entries if len(entries) == 1 else [])
    return next((length for entry in named if (length := _entry_context(entry))), None)


def _entry_context(entry: Mapping[str, Any]) -> int | None:
    meta = entry.get("meta")
    trained = meta.get("n_ctx_train") if isinstance(meta, Mapping) else None
    names = ("max_model_len", "loaded_context_length", "context_length", "max_context_length")
    places = [*(entry.get(name) for name in names), trained]
    return next((length for place in places if (length := _positive(place))), None)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None
