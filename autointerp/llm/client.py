"""The client of an OpenAI-compatible server: one request at a time in, one reply or one clear error out.

Steps of `complete`: 1. send with a time limit over the whole call (a server may drip bytes for ever); 2.
read the body by hand (`body.py`); 3. judge what went wrong (`faults.py`); 4. retry in one layer (tenacity):
as long as Retry-After says, capped, else exponentially with jitter; 5. adapt once to a server that wants
`max_completion_tokens`, or no temperature, or no seed. It does not cache, count money or limit concurrency.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autointerp.errors import ChatFailed, RequestRefused, ServerError
from autointerp.llm.body import not_json, read_json, read_reply
from autointerp.llm.faults import (
    CONTENT_ATTEMPTS,
    NotThere,
    Retryable,
    Secrets,
    given_up,
    judge,
    read_refusal,
    shown_url,
)
from autointerp.llm.request import ChatReply, ChatRequest, Endpoint, wire_format, wire_tools
from autointerp.llm.transport import ClientOptions, make_client, no_model, no_server
from autointerp.records import Record

if TYPE_CHECKING:
    import httpx2
    import openai
    import tenacity


class Dialect(Record):
    """Where servers differ in what they accept."""

    token_field: str = "max_tokens"
    send_temperature: bool = True
    send_seed: bool = True


class OpenAIChat:
    """A chat model behind an OpenAI-compatible server. One per event loop; close it with `aclose`."""

    def __init__(self, model: str, options: ClientOptions, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.model = model
        self.options = options
        self.dialect = Dialect()
        self.sent = 0  # HTTP requests sent to chat/completions
        self._where = f"the server at {shown_url(options.url)}"
        self._secrets = Secrets(options.api_key.strip())
        self._jitter = random.Random()  # spreads waits only, so no seed
        self._client = make_client(options, transport)

    @property
    def endpoint(self) -> Endpoint:
        """The model and the server, as they enter the cache key."""
        return Endpoint(model=self.model, base_url=shown_url(self.options.url))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        from tenacity import AsyncRetrying, retry_if_exception_type

        started, tries = time.monotonic(), 0
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Retryable), stop=self._enough, wait=self._wait, reraise=True
        )
        try:
            async for attempt in retrying:
                with attempt:
                    tries += 1
                    reply = await self._adapting(request)
        except Retryable as fault:
            raise await self._final(fault, tries) from None
        except ServerError as error:
            raise await self._explained(error) from None
        seconds = time.monotonic() - started
        digest = self.endpoint.hash(request)
        return reply.model_copy(
            update={"seconds": seconds, "retries": tries - 1, "request_hash": digest, "model": self.model}
        )

    async def fetch(self, path: str, body: Mapping[str, str] | None = None) -> object:
        """JSON from a path beside the chat endpoint or a URL of the same server; None where there is none.

        Raises ServerError where the key is refused and Retryable where nothing answers.
        """
        import httpx2
        import openai

        try:
            async with asyncio.timeout(min(self.options.timeout, 20.0)):
                if body is None:
                    response = await self._client.get(path, cast_to=httpx2.Response)
                else:
                    response = await self._client.post(path, cast_to=httpx2.Response, body=dict(body))
        except openai.APIStatusError as error:
            fault = self._judged(error)
            if isinstance(fault, ServerError) and error.status_code in (401, 402):
                raise fault from None
            return None
        except (openai.OpenAIError, TimeoutError, httpx2.HTTPError, ValueError) as error:
            raise self._dropped(error) from None
        found = read_json(response.text)
        if found is None and response.text.lstrip().startswith("<"):
            raise not_json(response.text)
        return found

    async def model_names(self) -> tuple[str, ...] | None:
        """The models the server lists, or None where it lists none."""
        found = await self.fetch("/models")
        entries = found.get("data") if isinstance(found, Mapping) else None
        if not isinstance(entries, list):
            return None
        names = (entry.get("id") for entry in entries if isinstance(entry, Mapping))
        return tuple(sorted(name for name in names if isinstance(name, str)))

    async def hint_v1(self) -> str:
        """A sentence that tells to add /v1 to the URL, where that would help; else empty."""
        if self.options.url.endswith("/v1"):
            return ""
        try:
            found = await self.fetch(f"{self.options.url}/v1/models")
        except (Retryable, ServerError):
            return ""
        if not isinstance(found, Mapping) or "data" not in found:
            return ""
        return f" {shown_url(self.options.url)}/v1 does answer: use --base-url {shown_url(self.options.url)}/v1."

    async def _adapting(self, request: ChatRequest) -> ChatReply:
        while True:
            before = self.dialect
            try:
                return await self._send(request)
            except RequestRefused as refusal:
                self.dialect = _adapted(self.dialect, str(refusal))  # another request may have adapted it too
                if self.dialect == before:
                    raise

    async def _send(self, request: ChatRequest) -> ChatReply:
        import httpx2
        import openai

        self.sent += 1
        try:
            async with asyncio.timeout(self.options.timeout):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **_arguments(self.model, request, self.dialect)
                )
        except openai.APIStatusError as error:
            raise self._judged(error) from None
        except (openai.OpenAIError, TimeoutError, httpx2.HTTPError, ValueError) as error:
            raise self._dropped(error) from None
        return read_reply(raw.status_code, raw.http_response.text, self._secrets, self._where)

    def _judged(self, error: openai.APIStatusError) -> Exception:
        body = error.body if error.body is not None else error.message
        refusal = read_refusal(error.status_code, body, error.response.headers)
        return judge(refusal, self._secrets, self._where)

    def _dropped(self, error: Exception) -> Retryable:
        import httpx2
        import openai

        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return Retryable(f"no whole reply within {self.options.timeout:g} s (--timeout)", attempts=CONTENT_ATTEMPTS)
        cause = error.__cause__ or error
        fault = Retryable(f"the connection failed ({self._secrets.clean(f'{type(cause).__name__}: {cause}')})")
        fault.server_down = isinstance(cause, (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL))
        return fault

    def _enough(self, state: tenacity.RetryCallState) -> bool:
        fault = state.outcome.exception() if state.outcome is not None else None
        own = fault.attempts if isinstance(fault, Retryable) else None
        return state.attempt_number >= min(self.options.attempts, own or self.options.attempts)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        spread = self._jitter.uniform(0.5, 1.5)
        if isinstance(fault, Retryable) and fault.wait is not None:
            asked = min(fault.wait, self.options.longest_retry_after)
            return asked + 0.1 * self.options.retry_base * spread
        return min(self.options.retry_base * 2.0 ** (state.attempt_number - 1), self.options.longest_wait) * spread

    async def _final(self, fault: Retryable, tries: int) -> Exception:
        if fault.server_down:
            return no_server(self.options.url)
        if fault.not_json:
            hint = await self.hint_v1()
            if hint:
                return ServerError(f"{self._where} answers with an HTML page, not with JSON.{hint}")
        return given_up(fault, tries)

    async def _explained(self, error: ServerError) -> ServerError:
        """Adds the models that exist, or the /v1 that is missing, to an error about a model or an address."""
        if not isinstance(error, NotThere):
            return error
        try:
            names = await self.model_names()
        except (Retryable, ChatFailed, ServerError):
            names = None
        if names is not None and self.model not in names:
            return no_model(self.model, self.options.url, names)
        return ServerError(f"{error}{await self.hint_v1() or ' Correct --base-url or --llm.'}")


def _arguments(model: str, request: ChatRequest, dialect: Dialect) -> dict[str, Any]:
    sent: dict[str, Any] = {"model": model, "messages": [dict(m) for m in request.messages]}
    sent[dialect.token_field] = request.max_tokens
    if dialect.send_temperature:
        sent["temperature"] = request.temperature
    if request.seed is not None and dialect.send_seed:
        sent["seed"] = request.seed
    if request.top_logprobs:
        sent |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    wanted = wire_format(request)
    if wanted is not None:
        sent["response_format"] = wanted
    return sent | wire_tools(request)


def _adapted(dialect: Dialect, reason: str) -> Dialect:
    """The dialect after a refusal that names a field which we can do without; the same one otherwise."""
    said = reason.lower()
    if "max_completion_tokens" in said and dialect.token_field == "max_tokens":
        return dialect.model_copy(update={"token_field": "max_completion_tokens"})
    unsupported = any(word in said for word in ("support", "not permitted", "unrecognized", "unknown", "extra"))
    if unsupported and "temperature" in said and dialect.send_temperature:
        return dialect.model_copy(update={"send_temperature": False})
    if unsupported and "seed" in said and dialect.send_seed:
        return dialect.model_copy(update={"send_seed": False})
    return dialect
