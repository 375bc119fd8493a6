"""Whole sessions: what servers can do, servers that misbehave, and a real one."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from autointerp.chat import ChatOptions, FakeChat, Memory, chat_session
from autointerp.llm import (
    MAX_PROMPT_TOKENS,
    Answer,
    Capabilities,
    ChatReply,
    ChatRequest,
    ClientOptions,
    OpenAIChat,
    PromptRoom,
    Room,
    Usage,
    ask,
    capability_table,
    content_hash,
    estimate_prompt,
    probe,
)
from autointerp.records import Failure
from tests.chat_helpers import (
    KEY,
    SCHEMA,
    T,
    Wire,
    error,
    good,
    parse,
    repair,
    request,
    session_error,
    stored,
)
from tests.servers import FAULTS, MisbehavingServer

# --- what a server can do


def capable(body: dict[str, Any], *, enforce: bool) -> Any:
    form = (body.get("response_format") or {}).get("type")
    if form == "json_schema" and enforce:
        return {"word": body["response_format"]["json_schema"]["schema"]["properties"]["word"]["enum"][0]}
    if form:
        return {"word": "lighthouse"}
    return f"story {body.get('seed')}"


@pytest.mark.parametrize("enforce", [True, False])
def test_only_an_enforced_schema_counts(enforce: bool) -> None:
    def answer(asked: ChatRequest) -> Any:
        form = {
            "schema": {"type": "json_schema", "json_schema": {"schema": asked.json_schema}},
            "object": {"type": "o"},
        }
        wanted = form.get(asked.reply_format) if asked.json_schema else None
        return capable({"response_format": wanted, "seed": asked.seed}, enforce=enforce)

    chat = FakeChat(answer)
    found = asyncio.run(probe(chat))
    assert (found.json_schema, found.json_object, found.logprobs, found.seed) == (enforce, True, False, True)
    assert len({content_hash(r) for r in chat.requests}) == len(chat.requests) <= 8
    rows = dict(capability_table(found))
    assert rows["json_schema"] == ("enforced" if enforce else "not enforced")


def test_a_server_that_refuses_everything_special_is_still_usable() -> None:
    def plain(sent: httpx2.Request) -> httpx2.Response:
        extra = {"logprobs", "seed", "response_format"} & set(json.loads(sent.content))
        return error(400, f"Extra inputs are not permitted: {sorted(extra)}") if extra else good("hello")

    wire = Wire(plain)
    found = asyncio.run(probe(wire.chat))
    assert found.reply_format == "text" and not found.logprobs and not found.seed


@pytest.mark.parametrize(("usage", "ratio"), [(lambda size: 2 * size, 2.0), (lambda size: size // 2, 1.0), (None, 1.0)])
def test_the_tokenizer_is_compared_with_the_estimate(usage: Callable[[int], int] | None, ratio: float) -> None:
    def answer(asked: ChatRequest) -> Any:
        size = 0 if usage is None else usage(estimate_prompt(asked))
        told = Usage(prompt_tokens=size, completion_tokens=1, estimated=usage is None)
        return ChatReply(text="2", usage=told, finish_reason="stop")

    assert asyncio.run(probe(FakeChat(answer))).token_ratio == ratio


def test_a_session_probes_once_and_then_asks_nothing(tmp_path: Path) -> None:
    async def main(server: MisbehavingServer, llm: str) -> tuple[Capabilities, str, tuple[str, ...]]:
        options = ChatOptions(llm=llm, client=ClientOptions(base_url=server.base_url))
        with stored(tmp_path) as (_, cache, log):
            async with chat_session(options, cache, log) as session:
                answer = await ask(session.chat, request(), parse, repair, session.capabilities)
                assert isinstance(answer, Answer)
                return session.capabilities, session.endpoint.model, session.notes

    with MisbehavingServer() as server:
        found, model, notes = asyncio.run(main(server, ""))
        assert model == "test-model" and "the only one" in notes[0]
        assert found.json_schema and found.models == ("test-model",)
        sent, asked = server.calls, len(server.gets)
        assert asyncio.run(main(server, "test-model"))[0] == found
        assert (server.calls, len(server.gets)) == (sent, asked)
        assert server.repeated == []


CONTEXTS: dict[str, tuple[str, Any, int]] = {
    "vllm": (
        "/v1/models",
        {"data": [{"id": "m", "max_model_len": 4096}, {"id": "n", "max_model_len": 1}]},
        4096,
    ),
    "llama.cpp": ("/props", {"default_generation_settings": {"n_ctx": 2048}}, 2048),
    "lm studio": (
        "/api/v0/models",
        {"data": [{"id": "m", "max_context_length": 9, "loaded_context_length": 8}]},
        8,
    ),
    "ollama": ("/api/show", {"model_info": {"llama.context_length": 8192}}, 8192),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_the_context_length_is_found(name: str) -> None:
    from autointerp.llm import describe_server

    path, body, length = CONTEXTS[name]

    def serve(sent: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=body) if sent.url.path == path else httpx2.Response(404, text="no")

    chat = OpenAIChat("m", ClientOptions(base_url="http://host.test/v1"), httpx2.MockTransport(serve))
    assert asyncio.run(describe_server(chat, Capabilities())).context == length


# --- the room of prompts


def test_prompts_have_the_room_that_the_server_leaves() -> None:
    assert PromptRoom(Capabilities()).of(700) == Room(MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
    small = PromptRoom(Capabilities(context=4000)).of(700)
    assert small.wanted == small.limit < 4000 - 700
    letters = PromptRoom(Capabilities(context=16_384, token_ratio=2.2)).of(1_200)
    assert 2.2 * letters.wanted <= MAX_PROMPT_TOKENS < 2.2 * letters.limit <= 16_384 - 1_200


def test_a_refusal_makes_all_later_prompts_shorter_and_those_under_way_teach_it_once() -> None:
    room = PromptRoom(Capabilities(context=9000))
    before = room.of(700)
    step = room.step
    assert all(room.refused(step) for _ in range(8))
    once = room.of(700)
    assert 0.5 * before.limit < once.limit < 0.7 * before.limit
    tries = 1
    while room.refused(room.step):
        tries += 1
    assert tries == 5 and room.of(700).limit < 0.1 * before.limit


# --- everything at once


@pytest.mark.slow
def test_thirty_percent_faults_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    async def main(server: MisbehavingServer) -> list[Answer[tuple[str, int]] | Failure]:
        options = ClientOptions(base_url=server.base_url, timeout=2.5, retry_base=0.005)
        with stored(tmp_path) as (_, cache, log):
            async with chat_session(ChatOptions(llm="m", client=options, concurrency=8), cache, log) as session:
                asked = (
                    ask(session.chat, request(f"head {n}"), parse, repair, session.capabilities) for n in range(60)
                )
                return await asyncio.gather(*asked)

    with MisbehavingServer(share=0.3, seed=5, hang=7.0) as server:
        first = asyncio.run(main(server))
        assert set(server.faults) == set(FAULTS)
        assert server.most_at_once <= 8 + server.faults["hang"] + server.faults["drip"]
        assert server.repeated == []
        sent = server.calls
        failed = sum(isinstance(r, Failure) for r in first)
        assert len(first) == 60 and failed <= 3
        with stored(tmp_path) as (run, _, _log):
            answered = [line for line in run.read("calls.jsonl") if line["reply"] is not None]
        assert len(answered) == sum(server.answered.values())
        assert len({line["hash"] for line in answered}) == len(answered)
        if not failed:
            assert asyncio.run(main(server)) == first
            assert server.calls == sent


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


@pytest.fixture
def llama() -> Iterator[str]:
    shared = os.environ.get("AUTOINTERP_SHARED")
    if not shared:
        pytest.skip("AUTOINTERP_SHARED is not set: no model file to serve")
    pytest.importorskip("xllamacpp")
    port = free_port()
    model = Path(shared) / "models/stories260K/stories260K-ctx32k-f32.gguf"
    command = [sys.executable, str(Path(shared) / "tools/llama_server.py"), str(model), str(port), KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def in_session(options: ChatOptions, work: Callable[[Any], Awaitable[T]]) -> T:
    async def main() -> T:
        async with chat_session(options, Memory(), Memory()) as session:
            return await work(session)

    return asyncio.run(main())


def test_a_real_server(llama: str) -> None:
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "s": {"type": "string", "maxLength": 20}}}  # type: ignore[dict-item]

    async def work(session: Any) -> list[Any]:
        assert session.capabilities.json_schema and session.capabilities.logprobs and session.capabilities.seed
        assert session.capabilities.context and session.capabilities.context > 1000
        asked = (request(f"{n}", json_schema=schema, temperature=1.0, seed=n, top_logprobs=2) for n in range(8))
        answers = [ask(session.chat, a, parse, repair, session.capabilities) for a in asked]
        long = ask(session.chat, request("word " * 60_000), parse, repair, session.capabilities)
        return list(await asyncio.gather(*answers, long))

    client = ClientOptions(base_url=llama, api_key=KEY)
    *answers, long = in_session(ChatOptions(llm="any-name", client=client), work)
    assert all(isinstance(a, Answer) for a in answers)
    assert isinstance(long, Failure) and "context" in long.reason and "tokens" in long.reason
    said = session_error(llm="x", client=ClientOptions(base_url=llama, api_key="sk-wrong-key-99999"))
    assert "does not accept the key" in said
