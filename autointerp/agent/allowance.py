"""The part of a run's budget that loops may spend, checked before each send as the budget itself, repairs included."""

from __future__ import annotations

from autointerp.errors import BudgetExceeded
from autointerp.llm import Budget, BudgetedChat, ChatModel, ChatReply, ChatRequest, Usage
from autointerp.llm.budget import Reservation


class AllowanceSpent(Exception):
    """What loops may spend is used up; nothing was sent. The run goes on."""


class LoopChat(BudgetedChat):
    """A chat model that raises AllowanceSpent where the loops' part is used up: that stops the loops and not the run.
    Replies from the cache count too, so that a run that starts again stops where it stopped before."""

    def __init__(self, inner: ChatModel, allowance: Budget) -> None:
        super().__init__(inner, allowance)
        self.allowance = allowance

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Take what an earlier process spent off the allowance."""
        more = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        self.allowance.spent = self.allowance.spent + more

    async def _reserve(self, request: ChatRequest) -> Reservation:
        try:
            return await super()._reserve(request)
        except BudgetExceeded:
            used = self.allowance.spent.prompt_tokens + self.allowance.spent.completion_tokens
            raise AllowanceSpent(f"{used} tokens used, and the next request might pass half of the budget") from None


class CountedChat:
    """Adds up what the replies of one step have cost, those that were of no use too."""

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner
        self.usage = Usage()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        reply = await self._inner.complete(request)
        self.usage = self.usage + reply.usage
        return reply
