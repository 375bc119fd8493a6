"""Scripted and recorded chat models."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from autointerp.chat import ChatOptions, FakeChat, RecordedChat, ScriptedChat, chat_session
from autointerp.errors import (
    BadInput,
    ChatFailed,
    RequestRefused,
)
from autointerp.llm import (
    Answer,
    CachedChat,
    Capabilities,
    ChatReply,
    ClientOptions,
    ask,
    content_hash,
)
from tests.chat_helpers import (
    HERE,
    TEXT,
    VALUE,
    parse,
    repair,
    request,
    stored,
)
from tests.servers import MisbehavingServer

# --- stand-ins


def script(folder: Path, *lines: dict[str, Any]) -> ScriptedChat:
    path = folder / "script.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return ScriptedChat(path)


def test_a_script_answers_by_the_first_line_that_fits(tmp_path: Path) -> None:
    chat = script(
        tmp_path,
        {"match": "apple", "reply": "one", "times": 1},
        {"regex": "appl.*pie", "reply": {"x": 1}},
        {"purpose": "pointing", "reply": "three"},
        {"match": "bad", "fail": "as told"},
    )

    def said(text: str, purpose: str = "explain") -> str:
        return asyncio.run(chat.complete(request(text, purpose=purpose))).text

    assert [said("apple pie"), said("apple\npie"), said("z", "pointing")] == ["one", '{"x": 1}', "three"]
    for text, reason in (("bad", "as told"), ("z", "no line of the script fits")):
        with pytest.raises(ChatFailed, match=reason):
            said(text)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"reply": 1}',
        '{"match": "x"}',
        '{"reply": "x", "fail": "y"}',
        '{"regex": "(", "reply": ""}',
        '{"repyl": "x"}',
    ],
)
def test_a_broken_script_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f'{{"reply": "fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="line 2"):
        ScriptedChat(path)
    with pytest.raises(BadInput, match="could not be read"):
        ScriptedChat(tmp_path / "none")


def test_a_recorded_run_replays_whoever_asks(tmp_path: Path) -> None:
    with stored(tmp_path) as (_, cache, log):
        chat = CachedChat(FakeChat([VALUE, ChatFailed("gone"), RequestRefused("no")]), HERE, cache, log)
        asyncio.run(chat.complete(request("one", unit="L0H0")))
        for text in ("two", "three"):
            with pytest.raises(ChatFailed):
                asyncio.run(chat.complete(request(text)))
        cache.put("other run", content_hash(request("four")), ChatReply(text="from the cache").model_dump_json())
    chat2 = RecordedChat(tmp_path / "run")
    assert asyncio.run(chat2.complete(request("one"))).text == TEXT
    assert asyncio.run(chat2.complete(request("four"))).text == "from the cache"
    for text, kind, reason in (
        ("two", ChatFailed, "gone .as recorded"),
        ("three", RequestRefused, "no .as recorded"),
        ("five", ChatFailed, "never recorded"),
    ):
        with pytest.raises(kind, match=reason):
            asyncio.run(chat2.complete(request(text)))
    with pytest.raises(BadInput, match=r"no calls\.jsonl"):
        RecordedChat(tmp_path)


def test_a_replayed_session_has_the_capabilities_of_the_recorded_one(tmp_path: Path) -> None:
    async def session(llm: str, folder: Path, url: str = "") -> tuple[Capabilities, str]:
        client = ClientOptions(base_url=url)
        with stored(folder) as (_, cache, log):
            async with chat_session(ChatOptions(llm=llm, client=client), cache, log) as found:
                answer = await ask(found.chat, request(), parse, repair, found.capabilities)
                assert isinstance(answer, Answer)
                return found.capabilities, answer.raw_replies[0]

    def no_schema(body: dict[str, Any]) -> Any:
        form = body.get("response_format", {}).get("type")
        return VALUE if form == "json_object" or "JSON Schema" in str(body["messages"]) else "plain words"

    with MisbehavingServer(no_schema) as server:
        first = asyncio.run(session("m", tmp_path / "a", server.base_url))
    again = asyncio.run(session(f"recorded:{tmp_path / 'a' / 'run'}", tmp_path / "b"))
    assert first[0].reply_format == again[0].reply_format == "object"
    assert first[1] == again[1]
