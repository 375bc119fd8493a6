"""JSON in what models write, and structured replies with their repairs."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.chat import FakeChat
from autointerp.errors import (
    BudgetExceeded,
    ChatFailed,
    RequestRefused,
    ServerError,
)
from autointerp.llm import (
    Answer,
    Capabilities,
    ChatModel,
    ChatReply,
    ChatRequest,
    ask,
    content_hash,
    fitted,
    json_objects,
    parse_reply,
)
from autointerp.records import Failure
from tests.chat_helpers import (
    SCHEMA,
    TEXT,
    VALUE,
    parse,
    repair,
    request,
)

# --- JSON in prose


@pytest.mark.parametrize(
    "reply",
    [
        TEXT,
        f"\ufeff  {TEXT}\n",
        f"```json\n{TEXT}\n```",
        f"Sure! Here it is:\n```\n{TEXT}\n```\nAnything else?",
        f"I think {{this}} is it: {TEXT} - done {{",
        f'<think>maybe {{"label": "b", "n": 2}}</think>{TEXT}',
        f'the schema wants {{"label": "b"}} so</think>\n{TEXT}',
        '{"label": "a", "n": 1,}',
        'So: {"label": "a", "n": 1, } and more',
        f'For example {{"label": "b", "n": 7}} would be wrong. {TEXT}',
        '{"label": "a",\n "n": 1\n,\n}',
    ],
)
def test_the_answer_is_found(reply: str) -> None:
    assert next(json_objects(reply)) == VALUE


@pytest.mark.parametrize(
    "reply", ["", "no", "{", "[1, 2]", '{"a": NaN}', '{"a": Infinity}', "{" * 5000, '{"a":' * 5000]
)
def test_no_answer_is_no_answer(reply: str) -> None:
    assert list(json_objects(reply)) == []
    with pytest.raises(ValueError, match="reply"):
        parse_reply(reply, parse)


def test_text_in_strings_is_not_structure() -> None:
    value = {"s": 'a }, ] ,} " { <think> ``` \\', "t": ",]"}
    assert next(json_objects(f"x {json.dumps(value)} y")) == value
    assert next(json_objects(f"x {json.dumps(value)[:-1]},}} y")) == value
    assert next(json_objects('{"s": "line\nbreak"}')) == {"s": "line\nbreak"}
    assert next(json_objects('{"s": "\\ud800"}'))["s"].encode("utf-8")


def test_the_first_object_that_parses_is_taken_and_the_likeliest_reason_given() -> None:
    assert parse_reply(f'{TEXT} and {{"label": "c", "n": 2}}', parse) == ("a", 1)
    with pytest.raises(ValueError, match="label 'c' is not a or b"):
        parse_reply('{"n": 1} {"label": "c", "n": 2}', parse)
    with pytest.raises(ValueError, match="field 'label' is missing"):
        parse_reply('{"n": 1}', parse)
    with pytest.raises(ValueError, match="int"):
        parse_reply('{"label": "a", "n": [1]}', parse)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(), s, max_size=4),
    max_leaves=20,
)


@pytest.mark.slow
@given(
    st.dictionaries(st.text(), JSON, max_size=5),
    st.sampled_from(["", " ", "Here: ", "```json\n", "<think>so {</think>"]),
)
def test_every_object_survives_its_surroundings(value: dict[str, Any], before: str) -> None:
    after = "\n```" if before.startswith("```") else ""
    text = before + json.dumps(value) + after
    if "think>" not in json.dumps(value) and "reasoning>" not in json.dumps(value) and "```" not in json.dumps(value):
        assert next(json_objects(text)) == value


@given(st.text(alphabet='{}[]",:\\ \nab1`<think>/', max_size=300))
def test_no_reply_breaks_the_extractor(text: str) -> None:
    for found in json_objects(text):
        assert isinstance(found, dict)


def test_a_hostile_reply_is_read_quickly() -> None:
    started = time.monotonic()
    for text in ('{"a":' * 60_000, "{" * 200_000, '{"a": "' * 30_000, "```\n" * 50_000, "<think>" * 30_000):
        list(json_objects(text))
    assert time.monotonic() - started < 5


# --- structured replies


def run_ask(chat: ChatModel, asked: ChatRequest | None = None, **fields: Any) -> Answer[tuple[str, int]] | Failure:
    capabilities = fields.pop("capabilities", Capabilities())
    return asyncio.run(ask(chat, asked or request(), parse, repair, capabilities, **fields))


def test_a_valid_reply_is_an_answer() -> None:
    chat = FakeChat([VALUE])
    answer = run_ask(chat)
    assert isinstance(answer, Answer)
    assert (answer.value, answer.repairs, answer.raw_replies) == (("a", 1), 0, (TEXT,))
    assert answer.messages == chat.requests[0].messages


def test_a_bad_reply_is_repaired_with_the_reason() -> None:
    chat = FakeChat(['{"label": "c", "n": 1}', "nothing", VALUE])
    answer = run_ask(chat)
    assert isinstance(answer, Answer)
    assert (answer.repairs, len(answer.raw_replies)) == (2, 3)
    assert answer.usage.completion_tokens > 0
    assert [r.purpose for r in chat.requests] == ["explain", "repair", "repair"]
    second = chat.requests[1].messages
    assert second[1] == {"role": "assistant", "content": '{"label": "c", "n": 1}'}
    assert "label 'c' is not a or b" in second[2]["content"]
    assert len({content_hash(r) for r in chat.requests}) == 3


def test_after_two_repairs_it_is_a_failure_with_the_raw_replies() -> None:
    chat = FakeChat(lambda _: "x" * 50_000)
    failed = run_ask(chat)
    assert isinstance(failed, Failure)
    assert (failed.stage, len(chat.requests), len(failed.raw)) == ("explain", 3, 20_000)
    assert "no valid reply after 2 repairs: the reply holds no JSON object" in failed.reason
    assert max(len(m["content"]) for r in chat.requests for m in r.messages) < 5_000
    assert len({content_hash(r) for r in chat.requests}) == 3  # a deterministic model is not asked the same twice


def test_a_reply_cut_off_is_asked_for_more_shortly_and_an_empty_one_gets_room() -> None:
    class Short:
        requests: list[ChatRequest]

        def __init__(self, text: str) -> None:
            self.text, self.requests = text, []

        async def complete(self, asked: ChatRequest) -> ChatReply:
            self.requests.append(asked)
            return ChatReply(text=self.text, finish_reason="length")

    cut = Short('{"label": "a')
    failed = run_ask(cut)
    assert isinstance(failed, Failure) and "cut off at 700 tokens" in failed.reason
    assert "cut off at 700 tokens" in cut.requests[1].messages[-1]["content"]
    thinking = Short("")
    run_ask(thinking)
    assert [r.max_tokens for r in thinking.requests] == [700, 2800, 11200]


def test_a_failed_request_is_a_failure_and_a_wrong_server_is_not() -> None:
    failed = run_ask(FakeChat([ChatFailed("gone")]))
    assert isinstance(failed, Failure) and failed.reason == "gone"
    for stop in (ServerError("key"), BudgetExceeded("money")):
        with pytest.raises(type(stop)):
            run_ask(FakeChat([stop]))


@pytest.mark.parametrize(("able", "form"), [((False, True), "object"), ((False, False), "text")])
def test_a_weaker_server_sees_the_schema_in_the_prompt(able: tuple[bool, bool], form: str) -> None:
    capabilities = Capabilities(json_schema=able[0], json_object=able[1], seed=False, logprobs=False)
    chat = FakeChat([VALUE])
    assert isinstance(run_ask(chat, request(seed=1, top_logprobs=3), capabilities=capabilities), Answer)
    sent = chat.requests[0]
    assert (sent.reply_format, sent.seed, sent.top_logprobs) == (form, None, 0)
    assert json.dumps(SCHEMA) in sent.messages[-1]["content"]
    assert fitted(sent, capabilities).messages == sent.messages


def test_a_server_that_refuses_the_schema_is_asked_in_the_next_way() -> None:
    chat = FakeChat([RequestRefused("HTTP 400: invalid schema for response_format"), VALUE])
    assert isinstance(run_ask(chat), Answer)
    assert [r.reply_format for r in chat.requests] == ["schema", "object"]
    other = FakeChat([RequestRefused("HTTP 400: bad words"), VALUE])
    assert isinstance(run_ask(other), Failure)
