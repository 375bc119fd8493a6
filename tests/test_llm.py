"""One request to a server: replies, retries, errors, hashes."""

from __future__ import annotations

import contextlib
import json
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import (
    ChatFailed,
    ContextOverflow,
    RequestRefused,
    ServerError,
)
from autointerp.llm import (
    OpenAIChat,
    Usage,
    content_hash,
    request_hash,
)
from autointerp.llm.body import read_reply
from autointerp.llm.faults import Retryable, Secrets, retry_after
from tests.chat_helpers import (
    KEY,
    SCHEMA,
    Step,
    Wire,
    error,
    good,
    request,
)
from tests.servers import completion

# --- one request


def test_a_reply_carries_text_usage_reasoning_and_logprobs() -> None:
    logprobs = {
        "content": [
            {
                "token": "1",
                "logprob": -0.1,
                "top_logprobs": [{"token": "1", "logprob": -0.1}, {"token": "0", "logprob": -2}],
            }
        ]
    }
    body = completion("m", "1")
    body["choices"][0]["logprobs"] = logprobs
    body["choices"][0]["message"]["reasoning_content"] = "thought"
    wire = Wire(httpx2.Response(200, json=body))
    reply = wire.complete(request(top_logprobs=2, seed=3, temperature=0.5, max_tokens=9))
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.retries) == ("1", "thought", "stop", 0)
    assert reply.usage == Usage(prompt_tokens=50, completion_tokens=0)
    assert reply.logprobs is not None
    assert reply.logprobs[0].top == (("1", -0.1), ("0", -2.0))
    sent = wire.bodies()[0]
    assert {
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
    }.items() <= sent.items()
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "explain" not in json.dumps(sent)


def test_purpose_and_unit_are_not_sent_and_do_not_enter_the_hash() -> None:
    plain, named = request(), request(purpose="other", unit="L5H1", template_hash="x")
    assert request_hash(plain, "m", "u") == request_hash(named, "m", "u")
    wire = Wire(good())
    wire.complete(named)
    assert "L5H1" not in wire.sent[0].content.decode()


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 8},
        {"temperature": 0.1},
        {"seed": 1},
        {"top_logprobs": 1},
        {"repeat": 1},
        {"reply_format": "object"},
        {"json_schema": {"type": "object"}},
        {"messages": ({"role": "user", "content": "Else."},)},
    ],
)
def test_all_that_determines_a_reply_enters_the_hash(change: dict[str, Any]) -> None:
    assert content_hash(request()) != content_hash(request().changed(**change))


def test_model_and_server_enter_the_hash_and_a_trailing_slash_does_not() -> None:
    hashes = {request_hash(request(), m, u) for m in "ab" for u in ("http://x/v1", "http://x/v1/", "http://y/v1")}
    assert len(hashes) == 4


TRANSIENT: dict[str, Step] = {
    "429": error(429, headers={"retry-after": "0"}),
    "408": error(408),
    "409": error(409),
    "500": error(500),
    "503 text": httpx2.Response(503, text="Service Unavailable"),
    "html": httpx2.Response(200, text="<html>login</html>", headers={"content-type": "text/html"}),
    "cut json": httpx2.Response(200, text='{"choices": [{"mess', headers={"content-type": "application/json"}),
    "empty body": httpx2.Response(200, text=""),
    "a list": httpx2.Response(200, json=[1]),
    "no choices": httpx2.Response(200, json={"choices": []}),
    "choices of another type": httpx2.Response(200, json={"choices": {"0": 1}}),
    "choice of another type": httpx2.Response(200, json={"choices": ["x"]}),
    "null content": good(None),
    "blank content": good("  \n"),
    "error in a 200": httpx2.Response(200, json={"error": {"message": "upstream"}}),
    "429 in a 200": httpx2.Response(200, json={"error": {"message": "upstream", "code": 429}}),
    "dropped": httpx2.RemoteProtocolError("peer closed"),
    "reset": httpx2.ReadError("reset"),
    "timeout": httpx2.ReadTimeout("slow"),
    "deep": httpx2.Response(200, text="[" * 100_000),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_may_pass_is_retried_and_then_counted(name: str) -> None:
    wire = Wire(TRANSIENT[name], TRANSIENT[name], good())
    reply = wire.complete()
    assert (reply.text, reply.retries, len(wire.sent)) == ('{"label": "a", "n": 1}', 2, 3)
    always = Wire(TRANSIENT[name], attempts=5)
    with pytest.raises(ChatFailed, match=r"no usable reply after 5 tries: \w"):
        always.complete()
    assert len(always.sent) == 5


FATAL = {
    "key": (error(401, f"Incorrect API key provided: {KEY}"), ServerError, "does not accept the key"),
    "key by 400": (
        error(400, "API key not valid. Please pass a valid API key."),
        ServerError,
        "accept the key",
    ),
    "rights": (error(403, "country"), ServerError, "forbids"),
    "quota": (error(429, "You exceeded", code="insufficient_quota"), ServerError, "credit"),
    "money": (error(402, "Insufficient credits"), ServerError, "credit"),
    "model": (
        error(404, "The model `m` does not exist", code="model_not_found"),
        ServerError,
        "it has one, two",
    ),
    "model by 400": (error(400, "Invalid model name passed in model=m"), ServerError, "it has one, two"),
    "bad request": (error(400, "no such field"), RequestRefused, "no such field"),
    "unprocessable": (httpx2.Response(422, json={"detail": [{"msg": "wrong"}]}), RequestRefused, "wrong"),
    "too large": (error(413, "body"), ContextOverflow, "too long"),
    "overflow": (
        error(400, "request exceeds", type="exceed_context_size_error", code=400, n_prompt_tokens=900, n_ctx=512),
        ContextOverflow,
        "prompt 900 tokens, context 512",
    ),
    "overflow by code": (error(400, "long", code="context_length_exceeded"), ContextOverflow, "too long"),
    "refusal": (
        httpx2.Response(200, json={"choices": [{"message": {"content": None, "refusal": "I will not"}}]}),
        RequestRefused,
        "I will not",
    ),
    "filter": (good(None, finish_reason="content_filter"), RequestRefused, "filter"),
    "logprobs": (error(403, "You are not allowed to request logprobs"), RequestRefused, "logprobs"),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_cannot_pass_is_sent_once(name: str) -> None:
    answer, kind, text = FATAL[name]
    wire = Wire(answer)
    with pytest.raises(kind, match=text) as caught:
        wire.complete()
    assert type(caught.value) is kind
    assert len(wire.sent) == 1


def test_retry_after_is_honoured_and_capped() -> None:
    wire = Wire(error(429, headers={"retry-after": "0.15"}), good())
    wire.complete()
    assert wire.times[1] - wire.times[0] >= 0.15
    capped = Wire(error(429, headers={"retry-after": "500"}), good(), longest_retry_after=0.1)
    capped.complete()
    assert 0.1 <= capped.times[1] - capped.times[0] < 2
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": formatdate(1000, usegmt=True)}, now=970.0) == 30
    assert retry_after({"retry-after": formatdate(1000, usegmt=True)}, now=2000.0) == 0
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "-3"}, {"retry-after-ms": "x"}):
        assert retry_after(nonsense) is None


def test_backoff_grows() -> None:
    wire = Wire(error(500), error(500), error(500), good(), retry_base=0.04)
    wire.complete()
    waits = [b - a for a, b in zip(wire.times, wire.times[1:], strict=False)]
    assert waits[0] >= 0.02 and waits[2] >= 0.08


def test_it_adapts_to_max_completion_tokens_and_a_fixed_temperature() -> None:
    def picky(sent: httpx2.Request) -> httpx2.Response:
        body = json.loads(sent.content)
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return error(400, "Unsupported value: 'temperature' does not support 0.0 with this model.")
        return good()

    wire = Wire(picky)
    assert wire.complete().retries == 0
    assert wire.chat.dialect.token_field == "max_completion_tokens"
    wire.chat = OpenAIChat("m", wire.chat.options, httpx2.MockTransport(wire._play))
    wire.chat.dialect = wire.chat.dialect.model_copy(update={"token_field": "max_completion_tokens"})
    wire.complete()
    assert len(wire.sent) == 5


def test_an_empty_reply_at_the_length_limit_is_a_reply() -> None:
    reply = Wire(good(None, finish_reason="length")).complete()
    assert (reply.text, reply.finish_reason) == ("", "length")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda s: (
            st.lists(s, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "message",
                        "content",
                        "usage",
                        "logprobs",
                        "error",
                        "code",
                        "finish_reason",
                        "prompt_tokens",
                        "token",
                        "logprob",
                        "top_logprobs",
                    ]
                ),
                s,
                max_size=5,
            )
        ),
        max_leaves=30,
    )
)
def test_no_body_breaks_the_reader(value: object) -> None:
    for body in (
        value,
        {"choices": [value]},
        {"choices": [{"message": value, "logprobs": value}], "usage": value},
        {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [value, value]}}]},
    ):
        with contextlib.suppress(Retryable, ChatFailed, ServerError):
            read_reply(200, json.dumps(body), Secrets(KEY), "the server").model_dump_json()
