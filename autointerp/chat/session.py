"""A chat model ready for use: connected, probed, cached, logged and within its budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autointerp.chat.rules import RULES_NAME, RulesChat
from autointerp.chat.stand_ins import RECORDED, SCRIPTED, RecordedChat, ScriptedChat
from autointerp.errors import ServerError
from autointerp.llm import (
    Budget,
    BudgetedChat,
    CachedChat,
    CallLog,
    Capabilities,
    ChatModel,
    ClientOptions,
    Endpoint,
    OpenAIChat,
    Prices,
    PromptRoom,
    ReplyCache,
    Usage,
    describe_server,
    find_prices,
    is_loopback,
    probe,
    token_counter,
)
from autointerp.llm.capability import PROBE_VERSION
from autointerp.llm.faults import Retryable
from autointerp.llm.transport import no_server


@dataclass(frozen=True)
class ChatOptions:
    """Which chat model to use and how: a server's model, `scripted:FILE` or `recorded:RUN`.

    `usd` and `tokens` are the budget; `prices` are (input, output) in USD a million tokens where given.
    """

    llm: str = ""
    client: ClientOptions = field(default_factory=ClientOptions)
    concurrency: int = 8
    usd: float | None = None
    tokens: int | None = None
    prices: tuple[float | None, float | None] = (None, None)
    spent: tuple[int, int] = (0, 0)  # (prompt, completion) tokens of earlier processes of the same run


@dataclass(frozen=True)
class ChatSession:
    """A chat model ready for use: cached, logged and within its budget. `notes` are lines for the user; `room` is how
    long prompts may be, as far as that is known by now."""

    chat: ChatModel
    capabilities: Capabilities
    endpoint: Endpoint
    budget: Budget
    notes: tuple[str, ...]
    room: PromptRoom


@asynccontextmanager
async def chat_session(
    options: ChatOptions, cache: ReplyCache, log: CallLog, *, fresh: bool = False
) -> AsyncIterator[ChatSession]:
    """Connect, find out what the server can do (from the cache unless `fresh`), and wire the layers.

    With `fresh` the findings are made anew and replace those in the cache.
    Raises ServerError where the server, the key or the model cannot be used.
    """
    spent = Usage(prompt_tokens=options.spent[0], completion_tokens=options.spent[1])
    limits: dict[str, Any] = {"usd": options.usd, "tokens": options.tokens, "spent": spent}
    local = _local_chat(options.llm)
    if local is not None:
        budget = Budget(find_prices("", "http://localhost"), **limits)
        capabilities = await local.capabilities()
        chat = CachedChat(BudgetedChat(local, budget), local.endpoint, cache, log, options.concurrency)
        yield ChatSession(chat, capabilities, local.endpoint, budget, (), PromptRoom(capabilities))
        return
    server = OpenAIChat(options.llm, options.client)
    try:
        notes = await _choose_model(server, Memory() if fresh else cache)
        prices = find_prices(server.model, server.options.url, options.prices)
        budget = Budget(prices, count=token_counter(server.model), **limits)
        within = BudgetedChat(server, budget)
        chat = CachedChat(within, server.endpoint, cache, log, options.concurrency)
        asked = CachedChat(within, server.endpoint, Memory(), log, options.concurrency) if fresh else chat
        capabilities = await _capabilities(server, asked, cache, fresh=fresh)
        budget.expect(capabilities.token_ratio)
        said = (*notes, *_price_note(prices, server))
        yield ChatSession(chat, capabilities, server.endpoint, budget, said, PromptRoom(capabilities))
    finally:
        await server.aclose()


class Memory:
    """A request cache and call log that end with the process, for `check-server` and notebooks."""

    def __init__(self) -> None:
        self.calls: list[Mapping[str, object]] = []
        self._replies: dict[str, str] = {}

    def get(self, digest: str) -> str | None:
        """See `ReplyCache.get`."""
        return self._replies.get(digest)

    def begin(self, digest: str) -> None:
        """See `ReplyCache.begin`; nothing survives here, so nothing is noted."""

    def put(self, digest: str, content: str, reply: str) -> None:
        """See `ReplyCache.put`."""
        self._replies[digest] = reply

    def drop(self, digest: str) -> None:
        """See `ReplyCache.drop`."""

    def add(self, record: Mapping[str, object]) -> None:
        """See `CallLog.add`."""
        self.calls.append(record)


def is_stand_in(llm: str) -> bool:
    """Whether this names a chat model without a server."""
    return llm == RULES_NAME or llm.startswith((SCRIPTED, RECORDED))


def _local_chat(llm: str) -> ScriptedChat | RecordedChat | RulesChat | None:
    if llm == RULES_NAME:
        return RulesChat()
    if llm.startswith(SCRIPTED):
        return ScriptedChat(Path(llm.removeprefix(SCRIPTED)))
    if llm.startswith(RECORDED):
        return RecordedChat(Path(llm.removeprefix(RECORDED)))
    return None


async def _choose_model(server: OpenAIChat, cache: ReplyCache) -> tuple[str, ...]:
    """Takes the only model of the server where none was named; returns the line that says so."""
    if server.model and cache.get(_capabilities_key(server.endpoint)) is not None:
        return ()  # known from an earlier run: a resumed run that asks nothing needs no server
    try:
        names = await server.model_names()
    except Retryable as fault:
        if fault.server_down:
            raise no_server(server.options.url) from None
        hint = await server.hint_v1() if fault.not_json else ""
        if hint:
            raise ServerError(f"the server does not answer with JSON.{hint}") from None
        names = None
    if server.model:
        return ()
    if names is None or len(names) != 1:
        listed = "lists no models" if not names else f"has several: {', '.join(names[:10])}"
        hint = "" if names else await server.hint_v1()
        raise ServerError(f"--llm names no model, and the server {listed}.{hint or ' Name one with --llm.'}")
    server.model = names[0]
    return (f"model: {names[0]} (the only one that the server has)",)


async def _capabilities(server: OpenAIChat, chat: ChatModel, cache: ReplyCache, *, fresh: bool) -> Capabilities:
    key = _capabilities_key(server.endpoint)
    stored = None if fresh else cache.get(key)
    if stored is not None:
        try:
            found = Capabilities.model_validate_json(stored)
        except ValidationError:
            pass
        else:
            server.dialect = found.dialect
            return found
    found = await describe_server(server, await probe(chat))
    cache.put(key, "capabilities", found.model_dump_json())
    return found


def _capabilities_key(endpoint: Endpoint) -> str:
    return _digest(["capabilities", PROBE_VERSION, endpoint.model, endpoint.base_url])


def _price_note(prices: Prices, server: OpenAIChat) -> tuple[str, ...]:
    if prices.known and not is_loopback(server.options.url):
        return (f"price: {prices.input:g} in, {prices.output:g} out, USD a million tokens ({prices.source})",)
    return () if prices.known else (prices.source,)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
