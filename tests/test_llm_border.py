"""Keys that must not show, addresses that do not work, replies that never end."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx2
import pytest

from autointerp.chat import Memory
from autointerp.errors import (
    ChatFailed,
    ServerError,
)
from autointerp.llm import (
    CachedChat,
    ChatModel,
    ClientOptions,
    OpenAIChat,
)
from autointerp.llm.faults import NotThere, Refusal, Secrets, judge, shown_url
from tests.chat_helpers import (
    KEY,
    Wire,
    error,
    good,
    parse,
    request,
    session_error,
)
from tests.servers import MisbehavingServer

# --- keys, addresses


@pytest.mark.parametrize("key", [KEY, "correct horse".replace(" ", "-")])
def test_the_key_shows_nowhere(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    def echo(sent: httpx2.Request) -> httpx2.Response:
        return error(statuses.pop(0), f"you sent {sent.headers['authorization'].split()[1]} as key")

    texts = []
    for status in (401, 400, 403, 500, 404, 413, 200):
        statuses = [status] * 9
        wire = Wire(echo if status != 200 else good(f"your key is {key}"), api_key=f"  {key}\n", attempts=2)
        memory = Memory()
        cached = CachedChat(wire.chat, wire.chat.endpoint, memory, memory)
        try:
            texts.append(repr(asyncio.run(cached.complete(request()))))
        except (ChatFailed, ServerError) as failed:
            texts += [str(failed), repr(failed), repr(failed.__cause__)]
        texts += [
            json.dumps(memory.calls),
            repr(wire.chat.options),
            repr(wire.chat.__dict__),
            repr(wire.chat),
        ]
        assert wire.sent[0].headers["authorization"] == f"Bearer {key}"
    texts += list(capsys.readouterr())
    assert not [text for text in texts if key in text]
    assert any("[key]" in text for text in texts)


def test_account_names_go_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "private-name")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    third = Wire(good())
    third.complete()
    assert "private-name" not in str(third.sent[0].headers.raw)
    own = Wire(good(), base_url=" ")
    own.complete()
    assert own.sent[0].url.host == "api.openai.com"
    assert own.sent[0].headers["openai-organization"] == "private-name"


def test_proxies_do_not_apply_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with MisbehavingServer() as server:
        chat = OpenAIChat("test-model", ClientOptions(base_url=server.base_url))
        assert parse(json.loads(asyncio.run(chat.complete(request())).text))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "nonsense"])
def test_a_url_that_is_none_is_said(url: str) -> None:
    with pytest.raises(ServerError, match="is not a web address"):
        OpenAIChat("m", ClientOptions(base_url=url))


def test_keys_that_cannot_be_sent_are_said() -> None:
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        OpenAIChat("m", ClientOptions())
    with pytest.raises(ServerError, match="not ASCII"):
        OpenAIChat("m", ClientOptions(base_url="http://x/v1", api_key="sk-é"))
    assert shown_url("http://me:pw@host:8/v1?key=1") == "http://host:8/v1"


def test_addresses_that_do_not_work_are_explained() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        said = session_error(llm="m", client=ClientOptions(base_url=url, retry_base=0.001))
        assert said == f"no server answers at {url}: start it or correct --base-url."
    with MisbehavingServer(key=KEY) as server:
        wrong = ClientOptions(base_url=server.base_url, api_key="sk-wrong-key-99999")
        said = session_error(llm="m", client=wrong)
        assert "does not accept the key" in said and "sk-wrong-key-99999" not in said
        said = session_error(llm="test-model", client=ClientOptions(base_url=server.root, api_key=KEY))
        assert f"use --base-url {server.base_url}" in said
        said = session_error(llm="", client=ClientOptions(base_url=f"{server.root}/v2", api_key=KEY))
        assert "names no model" in said


def test_html_everywhere_points_to_v1() -> None:
    def site(sent: httpx2.Request) -> httpx2.Response:
        if sent.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "m"}]})
        return httpx2.Response(200, text="<!DOCTYPE html><html></html>")

    options = ClientOptions(base_url="http://host.test", retry_base=0.001)
    chat = OpenAIChat("m", options, httpx2.MockTransport(site))
    with pytest.raises(ServerError, match=r"HTML page.* use --base-url http://host.test/v1"):
        asyncio.run(chat.complete(request()))


def test_a_server_that_goes_away_ends_the_run() -> None:
    with pytest.raises(ServerError, match="no server answers"):
        Wire(httpx2.ConnectError("refused"), attempts=3).complete()


# --- time


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_reply_that_never_ends_is_cut_off(fault: str) -> None:
    with MisbehavingServer(share=1.0, faults=(fault,), hang=10) as server:
        options = ClientOptions(base_url=server.base_url, timeout=0.3, attempts=2, retry_base=0.01)
        started = time.monotonic()
        with pytest.raises(ChatFailed, match=r"after 2 tries: no whole reply within 0.3 s"):
            asyncio.run(OpenAIChat("m", options).complete(request()))
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("where", ["reply", "retry"])
def test_a_cancel_ends_at_once(where: str) -> None:
    async def main(chat: ChatModel) -> float:
        task = asyncio.ensure_future(chat.complete(request()))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    with MisbehavingServer(share=1.0, faults=("hang",), hang=10) as server:
        slow = OpenAIChat("m", ClientOptions(base_url=server.base_url))
        chat = slow if where == "reply" else Wire(error(429, headers={"retry-after": "60"})).chat
        assert asyncio.run(main(chat)) < 0.5


def test_a_port_that_holds_404_is_no_missing_page() -> None:
    where = "the server at http://127.0.0.1:40471/v1"
    key, page = (judge(Refusal(status, "said"), Secrets(), where) for status in (401, 404))
    assert isinstance(key, ServerError) and not isinstance(key, NotThere)
    assert isinstance(page, NotThere)
