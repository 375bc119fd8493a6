"""Never asks twice: a reply is stored before it is used, and identical requests share one send.

Steps of `complete`: 1. a stored reply is returned without a call; 2. a request that is already under way is
waited for; 3. otherwise, within the limit on parallel requests: note that it is in flight, send, store the
reply (which removes the note, in one transaction), write the line of the call, return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from pydantic import ValidationError

from autointerp.errors import ChatFailed, RequestRefused, ServerError
from autointerp.llm.request import ChatModel, ChatReply, ChatRequest, Endpoint, content_hash


class ReplyCache(Protocol):
    """What `CachedChat` needs of the store's request cache; texts are JSON of a `ChatReply`."""

    def get(self, digest: str) -> str | None:
        """The stored text, or None."""
        ...

    def begin(self, digest: str) -> None:
        """Note that a request is about to be sent."""
        ...

    def put(self, digest: str, content: str, reply: str) -> None:
        """Store a reply durably and remove the note."""
        ...

    def drop(self, digest: str) -> None:
        """Remove the note of a request that was answered with a failure."""
        ...


class CallLog(Protocol):
    """Where each logical request is written down once."""

    def add(self, record: Mapping[str, object]) -> None:
        """Write a line unless this run already holds one with a reply for the same hash."""
        ...


class CachedChat:
    """A chat model with a memory. `concurrency` bounds the requests that are under way."""

    def __init__(
        self, inner: ChatModel, endpoint: Endpoint, cache: ReplyCache, log: CallLog, concurrency: int = 8
    ) -> None:
        self.endpoint = endpoint
        self._inner, self._cache, self._log = inner, cache, log
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way: dict[str, asyncio.Future[ChatReply]] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        digest = self.endpoint.hash(request)
        while True:
            stored = self._stored(digest)
            if stored is not None:
                self._write(request, stored)
                return stored
            other = self._under_way.get(digest)
            if other is None:
                return await self._lead(digest, request)
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()

    async def _lead(self, digest: str, request: ChatRequest) -> ChatReply:
        future: asyncio.Future[ChatReply] = asyncio.get_running_loop().create_future()
        self._under_way[digest] = future
        try:
            async with self._slots:
                reply = await self._send(digest, request)
        except Exception as error:
            future.set_exception(error)
            future.exception()  # nobody need be waiting: mark it as seen
            raise
        except BaseException:
            future.cancel()  # whoever waits asks again
            raise
        else:
            future.set_result(reply.model_copy(update={"cached": True}))
            return reply
        finally:
            del self._under_way[digest]

    async def _send(self, digest: str, request: ChatRequest) -> ChatReply:
        self._cache.begin(digest)
        started = time.monotonic()
        try:
            reply = await self._inner.complete(request)
        except (ChatFailed, ServerError) as error:
            self._cache.drop(digest)
            self._write_failure(request, digest, error, time.monotonic() - started)
            raise
        except Exception:  # nothing was sent (budget), or it is a bug: not a reply that was lost
            self._cache.drop(digest)
            raise
        reply = reply.model_copy(update={"request_hash": digest, "model": self.endpoint.model, "cached": False})
        self._cache.put(digest, content_hash(request), reply.model_dump_json())
        self._write(request, reply)
        return reply

    def _stored(self, digest: str) -> ChatReply | None:
        text = self._cache.get(digest)
        if text is None:
            return None
        try:
            return ChatReply.model_validate_json(text).model_copy(update={"cached": True, "request_hash": digest})
        except ValidationError:
            return None  # written by another version: ask again

    def _write(self, request: ChatRequest, reply: ChatReply) -> None:
        logprobs = None if reply.logprobs is None else [t.model_dump() for t in reply.logprobs]
        self._log.add(
            {
                **self._line(request, reply.request_hash),
                "reply": reply.text,
                "reasoning": reply.reasoning,
                "finish_reason": reply.finish_reason,
                "logprobs": logprobs,
                "usage": reply.usage.model_dump(),
                "seconds": round(reply.seconds, 3),
                "retries": reply.retries,
                "cached": reply.cached,
                "error": None,
                **({"tool_calls": [call.model_dump() for call in reply.tool_calls]} if reply.tool_calls else {}),
            }
        )

    def _write_failure(self, request: ChatRequest, digest: str, error: Exception, seconds: float) -> None:
        kind = "refused" if isinstance(error, RequestRefused) else "failed"
        self._log.add(
            {
                **self._line(request, digest),
                "reply": None,
                "usage": None,
                "seconds": round(seconds, 3),
                "cached": False,
                "error": str(error),
                "error_kind": kind,
            }
        )

    def _line(self, request: ChatRequest, digest: str) -> dict[str, object]:
        return {
            "hash": digest,
            "content_hash": content_hash(request),
            "purpose": request.purpose,
            "unit": request.unit,
            "model": self.endpoint.model,
            "template_hash": request.template_hash,
            "prompt": list(request.messages),
            "schema_name": request.schema_name if request.json_schema is not None else None,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **({"tools": [tool.name for tool in request.tools]} if request.tools else {}),
        }
