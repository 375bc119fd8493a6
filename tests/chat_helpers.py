"""Requests, mock transports and folders that the tests of the chat client share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from autointerp.chat import ChatOptions, Memory, chat_session
from autointerp.errors import (
    ServerError,
)
from autointerp.llm import (
    ChatReply,
    ChatRequest,
    ClientOptions,
    Endpoint,
    OpenAIChat,
)
from autointerp.store import CallLog, RequestCache, RunFolder
from tests.servers import completion

T = TypeVar("T")
KEY = "sk-very-secret-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "integer"}},
    "required": ["label", "n"],
    "additionalProperties": False,
}


VALUE = {"label": "a", "n": 1}
TEXT = json.dumps(VALUE)


def request(text: str = "Describe it.", **fields: Any) -> ChatRequest:
    values = {"json_schema": SCHEMA, "purpose": "explain", **fields}
    return ChatRequest(messages=({"role": "user", "content": text},), **values)


def parse(value: dict[str, Any]) -> tuple[str, int]:
    if value["label"] not in ("a", "b"):
        raise ValueError(f"label {value['label']!r} is not a or b")
    return value["label"], int(value["n"])


def repair(reason: str) -> str:
    return f"That was not valid: {reason}. Again."


def good(content: str | None = '{"label": "a", "n": 1}', **choice: Any) -> httpx2.Response:
    body = completion("m", content)
    body["choices"][0].update(choice)
    return httpx2.Response(200, json=body)


Step = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]


class Wire:
    """A mock transport that plays steps in order, the last one for ever, and keeps what was sent."""

    def __init__(self, *steps: Step, **options: Any) -> None:
        self.steps, self.sent, self.times = list(steps), list[httpx2.Request](), list[float]()
        values = {"base_url": "http://host.test/v1", "api_key": KEY, "retry_base": 0.001, **options}
        self.chat = OpenAIChat("m", ClientOptions(**values), httpx2.MockTransport(self._play))

    def _play(self, sent: httpx2.Request) -> httpx2.Response:
        if sent.method == "GET":
            return httpx2.Response(200, json={"data": [{"id": "one"}, {"id": "two"}]})
        self.sent.append(sent)
        self.times.append(time.monotonic())
        step = self.steps[min(len(self.sent), len(self.steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return step(sent) if callable(step) else step

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(sent.content) for sent in self.sent]

    def complete(self, asked: ChatRequest | None = None) -> ChatReply:
        return asyncio.run(self.chat.complete(asked or request()))


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": message, **fields}}, headers=headers)


def session_error(**options: Any) -> str:
    async def main() -> None:
        async with chat_session(ChatOptions(**options), Memory(), Memory()):
            pass

    with pytest.raises(ServerError) as caught:
        asyncio.run(main())
    return str(caught.value)


HERE = Endpoint(model="m", base_url="http://x/v1")


@contextlib.contextmanager
def stored(folder: Path) -> Iterator[tuple[RunFolder, RequestCache, CallLog]]:
    with RunFolder(folder / "run") as run, RequestCache(folder / "requests.sqlite", run.run_id) as cache:
        yield run, cache, CallLog(run)
