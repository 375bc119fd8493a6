"""Budget, prices and estimates; the cache in front of a model."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from autointerp.chat import FakeChat, Memory
from autointerp.errors import (
    BadInput,
    BudgetExceeded,
    ChatFailed,
)
from autointerp.llm import (
    Budget,
    BudgetedChat,
    CachedChat,
    ChatModel,
    ChatReply,
    ChatRequest,
    Prices,
    Usage,
    by_characters,
    find_prices,
    token_counter,
)
from tests.chat_helpers import (
    HERE,
    TEXT,
    VALUE,
    request,
    stored,
)

# --- money


def test_a_budget_is_checked_before_each_send_and_settled_by_usage() -> None:
    budget = Budget(Prices(1.0, 2.0, ""), tokens=1000)
    chat = BudgetedChat(FakeChat([VALUE] * 9), budget)
    small = request("x" * 300, max_tokens=300, json_schema=None)
    asyncio.run(chat.complete(small))
    assert budget.spent.completion_tokens == by_characters(TEXT)
    assert budget.cost == pytest.approx((budget.spent.prompt_tokens + 2 * budget.spent.completion_tokens) / 1e6)
    with pytest.raises(BudgetExceeded, match="--budget-tokens 1000"):
        asyncio.run(chat.complete(small.changed(max_tokens=900)))
    assert BudgetExceeded("").exit_code == 3


def test_parallel_requests_cannot_pass_the_budget_together() -> None:
    class Slow:
        sent = 0

        async def complete(self, asked: ChatRequest) -> ChatReply:
            self.sent += 1
            await asyncio.sleep(0.01)
            return ChatReply(text="x", usage=Usage(prompt_tokens=100, completion_tokens=100))

    async def main(chat: ChatModel) -> list[ChatReply | BaseException]:
        asked = [chat.complete(request("x" * 276, max_tokens=100, json_schema=None)) for _ in range(10)]
        return await asyncio.gather(*asked, return_exceptions=True)

    slow, budget = Slow(), Budget(Prices(10.0, 10.0, ""), usd=0.01)
    results = asyncio.run(main(BudgetedChat(slow, budget)))
    assert slow.sent == 5
    assert sum(isinstance(r, BudgetExceeded) for r in results) == 5
    assert budget.cost == pytest.approx(0.01)


def test_a_failed_request_gives_its_reservation_back_and_estimates_learn() -> None:
    budget = Budget(Prices(0.0, 0.0, ""), tokens=1000)
    asked = request("x" * 300, max_tokens=800, json_schema=None)
    for _ in range(3):
        with pytest.raises(ChatFailed):
            asyncio.run(BudgetedChat(FakeChat([ChatFailed("x")]), budget).complete(asked))
    before = budget.estimate(asked).prompt_tokens
    budget.settle(budget.reserve(asked), Usage(prompt_tokens=2 * before, completion_tokens=1))
    assert budget.estimate(asked).prompt_tokens == 2 * before


def test_prices() -> None:
    listed = find_prices("gpt-4o-mini", "https://api.openai.com/v1")
    assert listed.known and listed.input and listed.output and listed.input < listed.output < 100
    assert find_prices("anything", "http://127.0.0.1:1/v1").cost(Usage(prompt_tokens=9)) == 0
    unknown = find_prices("anything", "http://far.test/v1")
    assert unknown.cost(Usage()) is None and "--price-input" in unknown.source
    assert find_prices("anything", "http://far.test/v1", (1.0, 2.0)).cost(Usage(completion_tokens=500_000)) == 1.0
    with pytest.raises(BadInput, match="no price known"):
        Budget(unknown, usd=1.0)


def test_counting_never_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert token_counter("gpt-4o")("x" * 30) == 10
    assert token_counter("no-such-model")("x" * 31) == 11


# --- cache


class Counting:
    """Replies after a moment; counts what is under way."""

    def __init__(self, wait: float = 0.02) -> None:
        self.wait, self.sent, self.now, self.most = wait, 0, 0, 0

    async def complete(self, asked: ChatRequest) -> ChatReply:
        self.sent += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.wait)
        self.now -= 1
        return ChatReply(text=f"reply {self.sent}", usage=Usage(prompt_tokens=5, completion_tokens=2))


def test_a_reply_is_asked_for_once_ever(tmp_path: Path) -> None:
    inner = Counting()

    async def main() -> list[ChatReply]:
        with stored(tmp_path) as (_, cache, log):
            chat = CachedChat(inner, HERE, cache, log, concurrency=3)
            asked = [request(str(n % 4)) for n in range(12)]
            return await asyncio.gather(*(chat.complete(a) for a in asked))

    first, second = asyncio.run(main()), asyncio.run(main())
    assert inner.sent == 4 and inner.most == 3
    assert [r.text for r in first] == [r.text for r in second]
    assert all(r.cached for r in second) and sum(not r.cached for r in first) == 4
    with stored(tmp_path) as (run, cache, log):
        lines = run.read("calls.jsonl")
        assert (len(lines), log.tokens_used, cache.lost_in_flight()) == (4, (20, 8), 0)
    assert {
        "hash",
        "purpose",
        "unit",
        "model",
        "prompt",
        "reply",
        "usage",
        "seconds",
        "retries",
        "cached",
    } <= set(lines[0])


def test_a_reply_is_on_disk_before_it_is_used_and_gets_its_line_later(tmp_path: Path) -> None:
    class Broken:
        def add(self, record: object) -> None:
            raise KeyboardInterrupt  # a kill between the reply and its line

    with stored(tmp_path) as (_, cache, _log), pytest.raises(KeyboardInterrupt):
        asyncio.run(CachedChat(Counting(), HERE, cache, Broken()).complete(request()))
    inner = Counting()
    for _ in range(2):
        with stored(tmp_path) as (run, cache, log):
            assert asyncio.run(CachedChat(inner, HERE, cache, log).complete(request())).text == "reply 1"
            lines = run.read("calls.jsonl")
    assert inner.sent == 0
    assert [(line["reply"], line["cached"]) for line in lines] == [("reply 1", True)]


def test_a_cancelled_leader_does_not_take_the_others_down() -> None:
    async def main() -> tuple[str, int]:
        inner, memory = Counting(0.05), Memory()
        chat = CachedChat(inner, HERE, memory, memory)
        tasks = [asyncio.ensure_future(chat.complete(request())) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        return (await tasks[2]).text, inner.sent

    assert asyncio.run(main()) == ("reply 2", 2)


def test_failures_are_logged_and_not_kept(tmp_path: Path) -> None:
    with stored(tmp_path) as (run, cache, log):
        chat = CachedChat(FakeChat([ChatFailed("gone"), VALUE]), HERE, cache, log)
        with pytest.raises(ChatFailed):
            asyncio.run(chat.complete(request()))
        assert asyncio.run(chat.complete(request())).text == TEXT
        lines = run.read("calls.jsonl")
        assert [(line["reply"], line["error"]) for line in lines] == [(None, "gone"), (TEXT, None)]
        assert cache.lost_in_flight() == 0


def test_identical_requests_share_a_failure() -> None:
    async def main() -> list[ChatReply | BaseException]:
        class Failing:
            async def complete(self, asked: ChatRequest) -> ChatReply:
                await asyncio.sleep(0.01)
                sent.append(asked)
                raise ChatFailed("gone")

        memory = Memory()
        chat = CachedChat(Failing(), HERE, memory, memory)
        return await asyncio.gather(*(chat.complete(request()) for _ in range(3)), return_exceptions=True)

    sent: list[ChatRequest] = []
    assert [str(r) for r in asyncio.run(main())] == ["gone"] * 3
    assert len(sent) == 1
