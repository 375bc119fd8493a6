"""Tokens and money: estimates before sending, prices, and the budget that is checked before each send.

Estimate: tiktoken where it is installed, knows the model and has its table on this disk (it would download
it otherwise, without a time limit); else characters / 3, times the largest ratio seen so far between what
the server counted and what was estimated. The reply is reserved at its full `max_tokens` and settled by the
server's usage. Prices: given ones, else those that ship with `genai-prices`; 0 for a server on this machine;
else unknown.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autointerp.errors import BadInput, BudgetExceeded
from autointerp.llm.request import ChatModel, ChatReply, ChatRequest, Usage, wire_tools
from autointerp.llm.transport import is_loopback

CHARACTERS_PER_TOKEN = 3.0
MESSAGE_TOKENS = 8  # markers around each message, generously

TokenCounter = Callable[[str], int]


def by_characters(text: str) -> int:
    """A bound that holds for English text and JSON with usual tokenizers: characters / 3, rounded up."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def token_counter(model: str) -> TokenCounter:
    """tiktoken's count where its table is on this disk, else `by_characters`. Never downloads."""
    try:
        import tiktoken
        import tiktoken.load
    except ImportError:
        return by_characters
    try:
        with _no_download(tiktoken.load):
            encoding = tiktoken.encoding_for_model(model)
    except (KeyError, ValueError, OSError):
        return by_characters
    return lambda text: len(encoding.encode_ordinary(text))


@contextmanager
def _no_download(loader: Any) -> Iterator[None]:
    """tiktoken reads its cache first and calls `read_file` only to download; that call is made to fail."""

    def refuse(path: str) -> bytes:
        raise FileNotFoundError(f"{path} is not on this disk")

    original, loader.read_file = loader.read_file, refuse
    try:
        yield
    finally:
        loader.read_file = original


def estimate_prompt(request: ChatRequest, count: TokenCounter = by_characters) -> int:
    """Tokens of the prompt, schema and tools included, rather too many than too few."""
    total = sum(count(m.get("content", "")) + MESSAGE_TOKENS for m in request.messages)
    if request.json_schema is not None and request.reply_format == "schema":
        total += count(json.dumps(request.json_schema))
    if request.tools:
        total += count(json.dumps(wire_tools(request)))
    return total


def reply_text(reply: ChatReply) -> str:
    """All that the model wrote: reasoning, text, and the calls of tools."""
    calls = "".join(call.name + call.arguments for call in reply.tool_calls)
    return reply.text + reply.reasoning + calls


@dataclass(frozen=True)
class Prices:
    """USD a million tokens; None where unknown. `source` says where they come from, for the user."""

    input: float | None
    output: float | None
    source: str

    @property
    def known(self) -> bool:
        """Whether a cost can be computed."""
        return self.input is not None and self.output is not None

    def cost(self, usage: Usage) -> float | None:
        """USD for this usage, or None where the price is unknown."""
        if self.input is None or self.output is None:
            return None
        return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) / 1e6


def find_prices(model: str, base_url: str, given: tuple[float | None, float | None] = (None, None)) -> Prices:
    """Given prices (input, output; USD a million tokens), else listed ones, 0 on this machine, or unknown."""
    if given[0] is not None and given[1] is not None:
        return Prices(given[0], given[1], "as given")
    if is_loopback(base_url):
        return Prices(0.0, 0.0, "a server on this machine: no price")
    listed = _listed(model, base_url)
    if listed is None:
        return Prices(None, None, f"no price known for {model!r}: give --price-input and --price-output")
    chosen = [own if own is not None else found for own, found in zip(given, listed, strict=True)]
    return Prices(chosen[0], chosen[1], "genai-prices, as shipped")


def _listed(model: str, base_url: str) -> tuple[float, float] | None:
    try:
        import genai_prices
    except ImportError:
        return None
    million = 1_000_000
    try:
        # small counts, scaled up: a price list may charge long prompts more
        one = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
        found = genai_prices.calc_price(one, model, provider_api_url=base_url)
    except (LookupError, ValueError):
        return None
    return float(found.input_price) * million / 1000, float(found.output_price) * million / 1000


@dataclass(frozen=True)
class Reservation:
    """What one request may use at most."""

    estimate: Usage
    raw_prompt: int


class Budget:
    """What a run may spend; `spent` counts on from earlier processes of the same run.

    `reserve` raises BudgetExceeded where the request, with all that is under way, might pass a limit.
    """

    def __init__(
        self,
        prices: Prices,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        spent: Usage | None = None,
        count: TokenCounter = by_characters,
    ) -> None:
        if usd is not None and not prices.known:
            raise BadInput(f"--budget-usd cannot be held: {prices.source}.")
        self.prices = prices
        self.spent = spent or Usage()
        self._usd, self._tokens, self._count = usd, tokens, count
        self._reserved = Usage()
        self._ratio = 1.0

    @property
    def cost(self) -> float | None:
        """USD spent so far, None where the price is unknown."""
        return self.prices.cost(self.spent)

    def expect(self, ratio: float) -> None:
        """Reserve so many times what is estimated by characters, as was seen of this server before."""
        if self._count is by_characters:
            self._ratio = max(self._ratio, ratio)

    def estimate(self, request: ChatRequest) -> Usage:
        """The most that a request should use: prompt by estimate, reply by its limit."""
        prompt = math.ceil(estimate_prompt(request, self._count) * self._ratio)
        return Usage(prompt_tokens=prompt, completion_tokens=request.max_tokens, estimated=True)

    def reserve(self, request: ChatRequest) -> Reservation:
        """Set aside what the request may use. Raises BudgetExceeded; then nothing is set aside."""
        estimate = self.estimate(request)
        after = self.spent + self._reserved + estimate
        total = after.prompt_tokens + after.completion_tokens
        if self._tokens is not None and total > self._tokens:
            raise BudgetExceeded(self._message(f"{total} tokens", f"--budget-tokens {self._tokens}"))
        cost = self.prices.cost(after)
        if self._usd is not None and cost is not None and cost > self._usd:
            raise BudgetExceeded(self._message(f"{cost:.4f} USD", f"--budget-usd {self._usd:g}"))
        self._reserved = self._reserved + estimate
        return Reservation(estimate, estimate_prompt(request, self._count))

    def settle(self, reservation: Reservation, usage: Usage | None) -> None:
        """Replace the reservation by what was used; None where no reply came."""
        held, gone = self._reserved, reservation.estimate
        self._reserved = Usage(
            prompt_tokens=held.prompt_tokens - gone.prompt_tokens,
            completion_tokens=held.completion_tokens - gone.completion_tokens,
        )
        if usage is None:
            return
        self.spent = self.spent + usage
        if not usage.estimated and reservation.raw_prompt:
            self._ratio = max(self._ratio, usage.prompt_tokens / reservation.raw_prompt)

    def _message(self, total: str, limit: str) -> str:
        used = self.spent.prompt_tokens + self.spent.completion_tokens
        return (
            f"the next request might bring the run to {total}, over {limit} (used so far: {used} tokens). "
            "Nothing was sent; the same command with a higher budget continues."
        )


class BudgetedChat:
    """Reserves before each request and settles after it.

    A reservation is far above what is used, so a request that does not fit beside those under way waits for them;
    the budget is exceeded where a request does not fit alone.
    """

    def __init__(self, inner: ChatModel, budget: Budget) -> None:
        self._inner, self._budget = inner, budget
        self._under_way = 0
        self._settled = asyncio.Event()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        reservation = await self._reserve(request)
        usage: Usage | None = None
        try:
            reply = await self._inner.complete(request)
            usage = reply.usage if not reply.usage.estimated else self._guess(request, reply)
            return reply.model_copy(update={"usage": usage})
        finally:
            self._budget.settle(reservation, usage)
            self._under_way -= 1
            self._settled.set()

    async def _reserve(self, request: ChatRequest) -> Reservation:
        while True:
            try:
                reservation = self._budget.reserve(request)
            except BudgetExceeded:
                if not self._under_way:
                    raise
                self._settled.clear()
                await self._settled.wait()
            else:
                self._under_way += 1
                return reservation

    def _guess(self, request: ChatRequest, reply: ChatReply) -> Usage:
        prompt = self._budget.estimate(request).prompt_tokens
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=min(by_characters(reply_text(reply)), request.max_tokens),
            estimated=True,
        )
